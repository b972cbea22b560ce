import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field

import millrace_queue
from millrace_database.database import Database
from millrace_worker import JobContext, Registry, claim_loop, maintenance
from support.worker_runs import create, fetch, finished, read, worker


class Order(BaseModel):
    number: int = Field(default=1, ge=1)


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def test_a_job_without_a_hint_is_found_by_polling(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:quiet")
    async def quiet(context: JobContext[dict[str, Any]]) -> None:
        pass

    async with worker(database, registry, tmp_path):
        (first,) = await create(database, "orders:quiet")
        await finished(database, first)
        (job_id,) = await create(database, "orders:quiet", hint=False)
        assert (await finished(database, job_id, within=3)).status == "completed"


async def test_a_job_of_a_later_time_runs_when_it_is_due(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:timed")
    async def timed(context: JobContext[dict[str, Any]]) -> None:
        pass

    async with worker(database, registry, tmp_path):
        (now,) = await fetch(database, "SELECT now() AS now")
        (job_id,) = await create(database, "orders:timed", run_at=now["now"] + timedelta(seconds=0.7))
        job = await finished(database, job_id)

    assert job.status == "completed"
    assert job.started_at is not None
    assert timedelta() <= job.started_at - job.run_at < timedelta(seconds=0.5)


async def test_a_time_that_is_expected_while_the_next_one_is_looked_up_is_not_missed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    again = asyncio.Event()

    async def nothing_due(_connection: object) -> None:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 1:
            # A failed attempt is put back just after the look, and said to be.
            promoter.expect(timedelta(milliseconds=50))
        else:
            again.set()

    monkeypatch.setattr(millrace_queue, "seconds_until_due", nothing_due)
    promoter = maintenance.Promoter(database, promoted=lambda _types: None)
    promoting = asyncio.create_task(promoter.run())
    try:
        await asyncio.wait_for(again.wait(), timeout=2)
    finally:
        promoting.cancel()


async def test_the_worker_publishes_its_types_and_itself(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler(
        "orders:known", concurrency=5, attempts=7, timeout=timedelta(minutes=2), label="Known orders"
    )
    async def known(context: JobContext[Order]) -> None:
        """Do what is known."""

    async with worker(database, registry, tmp_path, worker_slots=30) as service:
        (job_id,) = await create(database, "orders:known", [{}])
        await finished(database, job_id)
        (type_,) = await fetch(database, "SELECT * FROM job_types")
        (row,) = await fetch(database, "SELECT details::text, draining FROM queue_workers")

    assert (type_["type"], type_["label"], type_["description"]) == (
        "orders:known",
        "Known orders",
        "Do what is known.",
    )
    assert (type_["max_attempts"], type_["timeout"], type_["concurrency"]) == (7, timedelta(minutes=2), 5)
    assert orjson.loads(type_["input_schema"])["properties"]["number"]["minimum"] == 1
    details = orjson.loads(row["details"])
    assert (details["address"], details["types"], details["slots"]) == (service.address, ["orders:known"], 30)
    assert await read(database, job_id)


async def test_a_busy_type_is_claimed_again_whatever_idle_types_there_are(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_loop, "POLL_SECONDS", 3600)

    @registry.job_handler("orders:ship", concurrency=1)
    async def ship(context: JobContext[Order]) -> None:
        await asyncio.sleep(0.15)  # longer than claims go ahead

    @registry.job_handler("orders:bill", concurrency=1)
    async def bill(context: JobContext[Order]) -> None:
        pass

    async with worker(database, registry, tmp_path):
        job_ids = await create(database, "orders:ship", [{"number": number} for number in range(1, 6)])
        jobs = [await finished(database, job_id) for job_id in job_ids]

    assert {job.status for job in jobs} == {"completed"}

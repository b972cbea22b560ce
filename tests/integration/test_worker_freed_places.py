"""A place that is free within a limit is used at once, by whichever worker has room, without waiting for its next look."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_queue import TypeGates, set_tenant, set_type_limits
from millrace_worker import JobContext, Registry, claim_loop, gate_sweeper
from support.worker_runs import ORG, create, fetched, finished, worker

# The next look is further away than the test lasts.
_SETTINGS: dict[str, Any] = {"lease_seconds": 600, "shutdown_grace_seconds": 30}


@pytest.fixture(autouse=True)
def _no_polls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(claim_loop, "POLL_SECONDS", 600.0)
    monkeypatch.setattr(gate_sweeper, "SWEEP_SECONDS", 600.0)
    return iter([None])


def _registry(*types: str) -> Registry:
    registry = Registry()
    for type_ in types:

        @registry.job_handler(type_, concurrency=5)
        async def nothing(context: JobContext[dict[str, Any]]) -> None:
            pass

    return registry


async def test_places_of_an_organisation_pass_between_workers_of_different_types(
    database: Database, tmp_path: Path
) -> None:
    async with database.connection() as conn:
        await set_tenant(conn, ORG, max_running=1)
    async with AsyncExitStack() as workers:
        for type_ in ("orders:a", "orders:b"):
            await workers.enter_async_context(
                worker(database, _registry(type_), tmp_path / type_[-1], **_SETTINGS)
            )
        for type_ in ("orders:a", "orders:b"):
            await create(database, type_, [{}] * 10)

        await fetched(
            database,
            "SELECT status FROM jobs",
            lambda rows: all(row["status"] == "completed" for row in rows),
            within=30,
        )


async def test_a_worker_that_stops_leaves_its_places_to_others(database: Database, tmp_path: Path) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    first, second = Registry(), _registry("orders:limited", "orders:other")

    @first.job_handler("orders:limited")
    async def slow(context: JobContext[dict[str, Any]]) -> None:
        begun.set()
        await may_end.wait()

    async with AsyncExitStack() as stopping:
        await stopping.enter_async_context(worker(database, first, tmp_path / "one", **_SETTINGS))
        async with database.connection() as conn:
            await set_type_limits(conn, "orders:limited", TypeGates(max_running=1))
        await create(database, "orders:limited")
        await begun.wait()
        async with worker(database, second, tmp_path / "two", **_SETTINGS):
            async with database.connection() as conn:
                await set_type_limits(conn, "orders:limited", TypeGates(max_running=1))
            (waiting,) = await create(database, "orders:limited", hint=False)
            # Once this one is done, the second worker has asked for the one that waits, and found no place.
            (other,) = await create(database, "orders:other")
            await finished(database, other)

            stop = asyncio.create_task(stopping.aclose())
            await fetched(database, "SELECT FROM queue_workers WHERE draining", len)
            may_end.set()

            assert (await finished(database, waiting)).status == "completed"
            await stop

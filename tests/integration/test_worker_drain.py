import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_worker import JobContext, Registry, SyncJobContext
from support.database_proxy import proxied
from support.worker_runs import create, eventually, fetch, fetched, finished, job_with, output, read, worker

GRACE = 3


@pytest.fixture
def registry() -> Registry:
    return Registry()


@asynccontextmanager
async def _timed(seconds: float) -> AsyncIterator[None]:
    """Fails when the block takes longer."""
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < seconds


async def test_a_handler_that_ends_in_time_completes_and_nothing_more_is_claimed(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    started = asyncio.Event()
    draining = asyncio.Event()

    @registry.job_handler("drains:short", concurrency=1)
    async def short(context: JobContext[dict[str, Any]]) -> None:
        started.set()
        await draining.wait()

    async def release_when_draining() -> None:
        await fetched(database, "SELECT FROM queue_workers WHERE draining", bool)
        draining.set()

    async with _timed(GRACE):
        async with worker(database, registry, tmp_path, shutdown_grace_seconds=GRACE):
            running, waiting = await create(database, "drains:short", [{}, {}])
            await started.wait()
            releasing = asyncio.create_task(release_when_draining())
        await releasing

    assert (await read(database, running)).status == "completed"
    job = await read(database, waiting)
    assert (job.status, job.attempt) == ("pending", 0)
    assert await fetch(database, "SELECT FROM queue_workers") == []


async def test_handlers_that_go_on_are_stopped_and_handed_back_without_losing_the_attempt(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    stops = []
    started = threading.Event()

    @registry.job_handler("drains:long")
    async def long(context: JobContext[dict[str, Any]]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stops.append("task")
            raise

    @registry.job_handler("drains:thread")
    def thread(context: SyncJobContext[dict[str, Any]]) -> None:
        started.set()
        try:
            while True:
                context.update_progress(5)
                time.sleep(0.005)
        finally:
            stops.append("thread")

    async with (
        _timed(GRACE + 2),
        worker(database, registry, tmp_path, shutdown_grace_seconds=GRACE),
    ):
        ids = await create(database, "drains:long") + await create(database, "drains:thread")
        for job_id in ids:
            await job_with(database, job_id, lambda job: job.status == "processing")
        await eventually(started.is_set)

    assert sorted(stops) == ["task", "thread"]
    for job_id in ids:
        job = await read(database, job_id)
        assert (job.status, job.attempt, job.error_code) == ("pending", 0, None)
    rows = await fetch(database, "SELECT state, attempt FROM queue")
    assert [(row["state"], row["attempt"]) for row in rows] == [("ready", 0), ("ready", 0)]


async def test_a_thread_that_does_not_listen_does_not_hold_up_the_stop(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    started, release, returned = threading.Event(), threading.Event(), threading.Event()

    @registry.job_handler("drains:deaf")
    def deaf(context: SyncJobContext[dict[str, Any]]) -> None:
        started.set()
        release.wait(20)
        returned.set()

    async with _timed(1.5), worker(database, registry, tmp_path, shutdown_grace_seconds=1):
        (job_id,) = await create(database, "drains:deaf")
        await eventually(started.is_set)

    job = await read(database, job_id)
    assert (job.status, job.attempt) == ("pending", 0)
    release.set()
    await eventually(returned.is_set)
    assert (await read(database, job_id)).status == "pending"


async def test_a_thread_that_ends_while_it_is_being_stopped_completes(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    started, release = threading.Event(), threading.Event()

    @registry.job_handler("drains:deaf")
    def deaf(context: SyncJobContext[dict[str, Any]]) -> dict[str, bool]:
        started.set()
        release.wait(20)
        return {"done": True}

    async with worker(database, registry, tmp_path, shutdown_grace_seconds=GRACE):
        (job_id,) = await create(database, "drains:deaf")
        await eventually(started.is_set)
        # By then the worker has given up waiting for the handler, and waits for it to stop.
        threading.Timer(GRACE * 0.75, release.set).start()

    assert output(await read(database, job_id)) == {"done": True}


async def test_the_worker_stops_in_time_while_the_database_is_away(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    entered = asyncio.Event()

    @registry.job_handler("drains:cut")
    async def cut(context: JobContext[dict[str, Any]]) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with proxied(database_url) as (proxy, url):
        pool = await Database.open(url, application_name="test worker")
        async with _timed(3), worker(pool, registry, tmp_path, shutdown_grace_seconds=1):
            (job_id,) = await create(database, "drains:cut")
            await entered.wait()
            await proxy.cut()
        await pool.close()
        await proxy.connect()

    assert (await read(database, job_id)).status == "processing"


async def test_what_is_claimed_ahead_of_handlers_that_turn_slow_is_handed_back_soon(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    slow = asyncio.Event()
    release = asyncio.Event()
    quick = 0

    @registry.job_handler("drains:mixed", concurrency=2)
    async def mixed(context: JobContext[dict[str, Any]]) -> None:
        nonlocal quick
        if quick < 400:
            quick += 1
            return
        slow.set()
        await release.wait()

    ids = await create(database, "drains:mixed", [{}] * 1_000, hint=False)
    async with worker(database, registry, tmp_path):
        await slow.wait()
        (before,) = await fetch(database, "SELECT count(*) AS held FROM queue WHERE state = 'running'")
        await fetched(
            database,
            "SELECT count(*) AS held FROM queue WHERE state = 'running'",
            lambda rows: rows[0]["held"] <= 2,
        )
        release.set()
        for job_id in ids:
            assert (await finished(database, job_id)).attempt == 1

    assert before["held"] > 2

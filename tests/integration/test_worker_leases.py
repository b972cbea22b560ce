import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database.connection_url import asyncpg_dsn
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import claim_jobs, rescue_jobs
from millrace_queue import register_worker
from millrace_worker import JobContext, Registry, SyncJobContext
from support.database_proxy import proxied
from support.worker_runs import create, eventually, fetch, fetched, finished, job_with, output, read, worker

LEASE = 1.8
"""The lease of the workers of these tests, in seconds."""


@pytest.fixture
def registry() -> Registry:
    return Registry()


@asynccontextmanager
async def _own_pool(url: str) -> AsyncIterator[Database]:
    pool = await Database.open(url, application_name="test worker")
    yield pool
    await pool.close()


async def _worker_ids(database: Database) -> list[UUID]:
    return [row["worker_id"] for row in await fetch(database, "SELECT worker_id FROM queue_workers")]


async def _registered(database: Database) -> UUID:
    (row, *_) = await fetched(database, "SELECT worker_id FROM queue_workers", bool)
    worker_id: UUID = row["worker_id"]
    return worker_id


async def test_a_worker_that_counts_as_lost_stops_its_handlers_and_another_runs_the_job(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    started, release, returned = threading.Event(), threading.Event(), threading.Event()
    waiting = asyncio.Event()
    stopped = []

    @registry.job_handler("leases:deaf", concurrency=1)
    def deaf(context: SyncJobContext[dict[str, Any]]) -> dict[str, str]:
        started.set()
        release.wait(10)
        returned.set()
        return {"by": "the first worker"}

    @registry.job_handler("leases:wait", concurrency=1)
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(context.attempt)
            raise

    other = Registry()

    @other.job_handler("leases:deaf")
    async def hear(context: JobContext[dict[str, Any]]) -> dict[str, str]:
        return {"by": "the second worker"}

    async with worker(database, registry, tmp_path, shutdown_grace_seconds=0.5):
        (job_id,) = await create(database, "leases:deaf")
        await create(database, "leases:wait")
        await eventually(started.is_set)
        await waiting.wait()
        first_id = await _registered(database)
        await fetch(database, "DELETE FROM queue_workers")
        await eventually(lambda: stopped == [1])
        async with worker(database, other, tmp_path):
            job = await finished(database, job_id)
            release.set()
            await eventually(returned.is_set)
        assert first_id not in await _worker_ids(database)

    assert (job.status, job.attempt) == ("completed", 2)
    assert output(job) == {"by": "the second worker"}
    assert output(await read(database, job_id)) == {"by": "the second worker"}


async def test_a_lost_worker_registers_again_and_works_on(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("leases:quick")
    async def quick(context: JobContext[dict[str, Any]]) -> None:
        pass

    async with worker(database, registry, tmp_path):
        first_id = await _registered(database)
        await fetch(database, "DELETE FROM queue_workers")
        second_id = await _registered(database)
        (job_id,) = await create(database, "leases:quick")
        assert (await finished(database, job_id)).status == "completed"

    assert first_id != second_id


async def test_one_lease_that_is_lost_stops_one_handler(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    stopped = []
    started = []

    @registry.job_handler("leases:wait")
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        started.append(context.job_id)
        try:
            await asyncio.sleep(1.2)
        except asyncio.CancelledError:
            stopped.append(context.job_id)
            raise

    async with worker(database, registry, tmp_path):
        lost, kept = await create(database, "leases:wait", [{}, {}])
        await eventually(lambda: len(started) == 2)
        await fetch(database, "UPDATE queue SET fence = nextval('queue_fence') WHERE id = $1", lost)
        await eventually(lambda: stopped)
        assert (await finished(database, kept)).attempt == 1
        # The lease with the new fence is known to nobody: it is handed back, and its job runs again.
        assert (await finished(database, lost)).status == "completed"

    assert stopped == [f"job_{lost.hex}"]


async def test_a_claim_whose_reply_was_lost_is_handed_back_and_run(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("leases:quick")
    async def quick(context: JobContext[dict[str, Any]]) -> None:
        pass

    async with worker(database, registry, tmp_path):
        worker_id = await _registered(database)
        (job_id,) = await create(database, "leases:elsewhere", hint=False)
        async with database.transaction() as connection:
            await connection.execute("UPDATE queue SET type = 'leases:quick' WHERE id = $1", job_id)
            await connection.execute("UPDATE jobs SET type = 'leases:quick' WHERE job_id = $1", job_id)
            assert await claim_jobs(connection, worker_id, {"leases:quick": 1}, 1)
        assert (await read(database, job_id)).status == "processing"
        job = await finished(database, job_id)

    assert (job.status, job.attempt) == ("completed", 1)


async def test_a_handler_that_blocks_the_event_loop_does_not_cost_the_worker_its_leases(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    ended = threading.Event()
    rescued = []

    async def rescue_until_ended() -> None:
        connection = await asyncpg.connect(asyncpg_dsn(database_url))
        while not ended.is_set():
            async with connection.transaction():
                rescued.extend(await rescue_jobs(connection, limit=10))
            await asyncio.sleep(0.05)
        await connection.close()

    @registry.job_handler("leases:block")
    async def block(context: JobContext[dict[str, Any]]) -> None:
        time.sleep(2 * LEASE)  # noqa: ASYNC251 - the fault under test

    rescuer = threading.Thread(target=lambda: asyncio.run(rescue_until_ended()))
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "leases:block")
        await job_with(database, job_id, lambda job: job.attempt == 1)
        rescuer.start()
        job = await finished(database, job_id)
        ended.set()
    rescuer.join()

    assert (job.status, job.attempt, rescued) == ("completed", 1, [])


async def test_the_worker_goes_on_when_its_connections_are_ended(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    proceed = asyncio.Event()

    @registry.job_handler("leases:steady")
    async def steady(context: JobContext[dict[str, Any]]) -> None:
        await context.update_progress(10)
        await proceed.wait()
        await context.update_progress(20)

    async with worker(database, registry, tmp_path):
        (running,) = await create(database, "leases:steady")
        await job_with(database, running, lambda job: job.progress == 10)
        for _ in range(3):
            await _end_connections(database)
            await asyncio.sleep(0.1)
        proceed.set()
        (later,) = await create(database, "leases:steady", hint=False)
        jobs = [await finished(database, running), await finished(database, later)]

    assert [(job.status, job.attempt) for job in jobs] == [("completed", 1), ("completed", 1)]


async def _end_connections(database: Database) -> None:
    connection = await database.direct_connection()
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_what_ends_during_an_outage_is_settled_after_it(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    proceed = asyncio.Event()
    entered = []

    @registry.job_handler("leases:end")
    async def end(context: JobContext[dict[str, str]]) -> dict[str, str]:
        entered.append(context.job_id)
        await proceed.wait()
        await context.update_progress(70, "said during the outage")
        if context.input["how"] == "fail":
            raise ValueError("failed during the outage")
        return {"ended": "during the outage"}

    async with (
        proxied(database_url) as (proxy, url),
        _own_pool(url) as pool,
        worker(pool, registry, tmp_path, heartbeat_seconds=1, lease_seconds=20),
    ):
        completes, fails = await create(
            database, "leases:end", [{"how": "complete"}, {"how": "fail"}], max_attempts=1
        )
        await eventually(lambda: len(entered) == 2)
        await proxy.cut()
        proceed.set()
        await asyncio.sleep(0.5)
        await proxy.connect()
        jobs = [await finished(database, completes), await finished(database, fails)]

    assert [(job.status, job.attempt, job.message) for job in jobs] == [
        ("completed", 1, "said during the outage"),
        ("failed", 1, "said during the outage"),
    ]


async def test_handlers_stop_before_their_leases_can_run_out_and_their_jobs_lose_no_attempt(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    starts, stops = [], []

    @registry.job_handler("leases:long")
    async def long(context: JobContext[dict[str, Any]]) -> None:
        starts.append(time.monotonic())
        if len(starts) > 1:
            return
        try:
            await asyncio.Event().wait()
        finally:
            stops.append(time.monotonic())

    async with (
        proxied(database_url) as (proxy, url),
        _own_pool(url) as pool,
        worker(pool, registry, tmp_path),
    ):
        (job_id,) = await create(database, "leases:long")
        await eventually(lambda: starts)
        await proxy.cut()
        cut_at = time.monotonic()
        await eventually(lambda: stops)
        await proxy.connect()
        job = await finished(database, job_id)

    assert stops[0] - cut_at < LEASE
    assert (job.status, job.attempt) == ("completed", 1)
    assert len(starts) == 2


async def test_a_worker_that_is_cut_off_for_long_loses_its_jobs_to_others(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    intervals = []

    def run_on(name: str) -> Callable[[JobContext[dict[str, Any]]], Awaitable[dict[str, str]]]:
        async def run(context: JobContext[dict[str, Any]]) -> dict[str, str]:
            start = time.monotonic()
            try:
                await asyncio.sleep(0 if name == "second" else 30)
            finally:
                intervals.append((start, time.monotonic()))
            return {"by": name}

        return run

    other = Registry()
    registry.job_handler("leases:move")(run_on("first"))
    other.job_handler("leases:move")(run_on("second"))
    async with (
        proxied(database_url) as (proxy, url),
        _own_pool(url) as pool,
        worker(pool, registry, tmp_path),
    ):
        (job_id,) = await create(database, "leases:move")
        await job_with(database, job_id, lambda job: job.status == "processing")
        async with worker(database, other, tmp_path):
            await proxy.cut()
            job = await finished(database, job_id)
            await proxy.connect()

    assert (job.status, job.attempt, output(job)) == ("completed", 2, {"by": "second"})
    (_, first_end), (second_start, _) = intervals
    assert first_end <= second_start


async def _leave_a_lost_worker(database: Database) -> UUID:
    """Registers a worker with a job, and has its lease run out."""
    (job_id,) = await create(database, "leases:left", hint=False)
    worker_id = new_id()
    async with database.transaction() as connection:
        await register_worker(connection, worker_id, lease=timedelta(milliseconds=1), details={})
        assert await claim_jobs(connection, worker_id, {"leases:left": 1}, 1)
    return job_id


async def test_jobs_of_a_lost_worker_are_rescued_a_lease_after_the_start(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    job_id = await _leave_a_lost_worker(database)
    started_at = time.monotonic()
    async with worker(database, registry, tmp_path):
        job = await job_with(database, job_id, lambda job: job.status == "pending")

    assert LEASE <= time.monotonic() - started_at < 2 * LEASE
    assert (job.error_code, job.attempt) == ("WORKER_LOST", 1)


async def test_nobody_is_rescued_before_everybody_had_time_for_a_heartbeat_after_an_outage(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    async with (
        proxied(database_url) as (proxy, url),
        _own_pool(url) as pool,
        worker(pool, registry, tmp_path),
    ):
        await _registered(database)
        await asyncio.sleep(LEASE)
        await proxy.cut()
        job_id = await _leave_a_lost_worker(database)
        await asyncio.sleep(0.5)
        await proxy.connect()
        connected_at = time.monotonic()
        await job_with(database, job_id, lambda job: job.status == "pending")

    assert time.monotonic() - connected_at >= LEASE


async def test_heartbeats_stop_when_the_event_loop_is_dead(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    silence = []

    async def watch() -> None:
        connection = await asyncpg.connect(asyncpg_dsn(database_url))
        silence.append(
            await connection.fetchval("SELECT extract(epoch FROM now() - heartbeat_at) FROM queue_workers")
        )
        await connection.close()

    async with worker(database, registry, tmp_path, heartbeat_seconds=0.04, lease_seconds=0.1):
        await _registered(database)
        time.sleep(2.5)  # noqa: ASYNC251 - the fault under test
        thread = threading.Thread(target=lambda: asyncio.run(watch()))
        thread.start()
        thread.join()

    assert silence[0] > 1

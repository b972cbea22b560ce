"""Draining jobs that wait already, by workers or by the bare statements; both timed by the rows in `jobs`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

import asyncpg

import millrace_queue
from bench.samples import NOOP
from bench.scale import SLOTS
from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.polling import eventually
from support.processes import ServiceProcess

# What a worker may have claimed and not yet written the end of.
_MOST_HELD = 2 * SLOTS
_CONNECTIONS = 2
_BATCH = 500
_LOCKED_SECONDS = 60
_DRAIN_SECONDS = 900

# How many were given out: each claim takes one.
_FENCES = "SELECT last_value - 1 + is_called::integer FROM queue_fence"


@dataclass(frozen=True)
class Watch:
    """Tells when jobs were completed since it was started."""

    database: Database
    first_id: UUID
    """None of the jobs has a lower one."""
    started_at: datetime
    fences: int

    @classmethod
    async def start(cls, database: Database, first_id: UUID) -> Self:
        async with database.connection() as connection:
            started_at = await connection.fetchval("SELECT clock_timestamp()")
            return cls(database, first_id, started_at, await connection.fetchval(_FENCES))

    async def claimed(self) -> int:
        """How many jobs have been claimed, found without a look at any of them."""
        async with self.database.connection() as connection:
            fences: int = await connection.fetchval(_FENCES)
        return fences - self.fences

    async def seconds_of(self, jobs: int) -> float | None:
        """The seconds until so many jobs were completed; None: fewer are."""
        async with self.database.connection() as connection:
            seconds: float | None = await connection.fetchval(
                """SELECT extract(epoch FROM completed_at - $2)::float8 FROM jobs
                WHERE job_id >= $1 AND completed_at >= $2 ORDER BY completed_at OFFSET $3 LIMIT 1""",
                self.first_id,
                self.started_at,
                jobs - 1,
                timeout=600,
            )
        return seconds

    async def seconds(self, jobs: int) -> float:
        """Wait until so many jobs are completed, and return after how many seconds they were."""

        async def are_done() -> bool:
            claimed = await self.claimed()
            return claimed >= jobs + _MOST_HELD or (claimed >= jobs and not await _are_running(self.database))

        await eventually(are_done, within=_DRAIN_SECONDS)
        seconds = await eventually(lambda: self.seconds_of(jobs), within=_DRAIN_SECONDS)
        assert seconds is not None
        return seconds


async def drain_rate(
    database: Database, workers: Sequence[ServiceProcess], jobs: int, *, first_id: UUID
) -> float:
    """Jobs a second until the first `jobs` of those that wait are completed.

    The workers are started for it and stopped afterwards; they begin together, when all are ready. `first_id` is
    not above the id of any job that waits.
    """
    async with started_with_claims_held_back(database, workers):
        watch = await Watch.start(database, first_id)
    seconds = await watch.seconds(jobs)
    await stop(workers)
    return jobs / seconds


@asynccontextmanager
async def started_with_claims_held_back(
    database: Database, workers: Sequence[ServiceProcess]
) -> AsyncIterator[None]:
    """Start the workers; they are ready, and their first claims wait for the end of the block."""
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE queue IN SHARE MODE", timeout=60)
        async with asyncio.TaskGroup() as starting:
            for worker in workers:
                starting.create_task(worker.start())
        await eventually(lambda: _are_waiting(connection, len(workers)), within=_LOCKED_SECONDS)
        yield


async def bare_drain_rate(database: Database, jobs: int, *, first_id: UUID) -> float:
    """The same by the bare statements over two connections, in batches of 500: the ceiling."""
    worker_id = new_id()
    async with database.connection() as connection:
        await millrace_queue.register_worker(connection, worker_id, lease=timedelta(hours=1), details={})
    watch = await Watch.start(database, first_id)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CONNECTIONS):
            tasks.create_task(_claim_and_complete(database, worker_id))
    seconds = await watch.seconds(jobs)
    async with database.connection() as connection:
        await millrace_queue.unregister_worker(connection, worker_id)
    return jobs / seconds


async def stop(workers: Sequence[ServiceProcess]) -> None:
    async with asyncio.TaskGroup() as stopping:
        for worker in workers:
            stopping.create_task(worker.terminate(within=30))


async def _claim_and_complete(database: Database, worker_id: UUID) -> None:
    async with database.connection() as connection:
        while claimed := await job_lifecycle.claim_jobs(connection, worker_id, {NOOP: _BATCH}, _BATCH):
            await job_lifecycle.complete_plain_jobs(
                connection, [(job.lease, '{"entered_at": 12345.678}') for job in claimed]
            )


async def _are_waiting(connection: asyncpg.Connection, number: int) -> bool:
    waiting: int = await connection.fetchval(
        "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = 'queue'::regclass AND NOT granted"
    )
    return waiting >= number


async def _are_running(database: Database) -> bool:
    async with database.connection() as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM queue WHERE state = 'running')"))

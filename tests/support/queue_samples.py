"""Entries, jobs and workers to test the queue with, and the check that queue and jobs agree."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import ClaimedJob, JobFailure, NewJob, claim_jobs, create_jobs
from millrace_database.jobs_repository import JobRecord, get_job
from millrace_queue import Claim, NewEntry, claim, enqueue, register_worker

LEASE = timedelta(seconds=12)
PLENTY = 1000
SOON = timedelta(minutes=5)

_T = TypeVar("_T")


def sample_entry(
    type_: str = "reports:generate",
    *,
    max_attempts: int = 4,
    priority: int = 0,
    run_at: datetime | None = None,
    tenant: str = "acme",
) -> NewEntry:
    return NewEntry(new_id(), type_, tenant, max_attempts, priority, run_at)


def sample_job(**changes: Any) -> NewJob:
    values: dict[str, Any] = {
        "job_id": new_id(),
        "org_id": "acme",
        "type": "reports:generate",
        "input_json": '{"rows": 3}',
        "metadata_json": "{}",
        "created_by": "ann",
        "max_attempts": 4,
    }
    return NewJob(**{**values, **changes})


async def new_worker(conn: asyncpg.Connection) -> UUID:
    worker_id = new_id()
    await register_worker(conn, worker_id, lease=LEASE, details={"address": "127.0.0.1:50053"})
    return worker_id


async def claimed_entries(conn: asyncpg.Connection, worker_id: UUID, *entries: NewEntry) -> list[Claim]:
    """Enqueues entries and has the worker claim all that are ready."""
    await enqueue(conn, entries)
    return await claim(conn, worker_id, {entry.type: PLENTY for entry in entries}, PLENTY)


async def created_jobs(database: Database, *jobs: NewJob) -> list[UUID]:
    async with database.transaction() as conn:
        return [created.job_id for created in await create_jobs(conn, jobs)]


async def claimed_jobs(
    database: Database, worker_id: UUID, type_: str = "reports:generate"
) -> list[ClaimedJob]:
    async with database.transaction() as conn:
        return await claim_jobs(conn, worker_id, {type_: PLENTY}, PLENTY)


async def running_job(database: Database, job: NewJob | None = None) -> ClaimedJob:
    """A job that a worker of its own runs."""
    await created_jobs(database, job or sample_job())
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    (claimed,) = await claimed_jobs(database, worker_id)
    return claimed


async def job_record(database: Database, job_id: UUID) -> JobRecord:
    async with database.connection() as conn:
        assert await disagreements(conn) == []
        job = await get_job(conn, None, job_id)
    assert job is not None
    return job


def sample_failure(claimed: ClaimedJob, retry_delay: timedelta | None) -> JobFailure:
    return JobFailure(claimed.lease, retry_delay, "DISK_FULL", "No space left", retryable=True)


async def lose_heartbeat(conn: asyncpg.Connection, worker_id: UUID) -> None:
    """Makes the worker's last heartbeat older than its lease."""
    await conn.execute(
        "UPDATE queue_workers SET heartbeat_at = now() - lease - interval '1 ms' WHERE worker_id = $1",
        worker_id,
    )


async def make_due(conn: asyncpg.Connection) -> None:
    """Lets the time pass that scheduled entries wait for."""
    await conn.execute("UPDATE queue SET run_at = now() - interval '1 ms' WHERE state = 'scheduled'")


async def turn_clock(conn: asyncpg.Connection, forward: timedelta) -> None:
    """Moves all that is to come, and all heartbeats, as far into the past as a clock would that is set forward."""
    await conn.execute(
        "UPDATE queue SET run_at = run_at - $1::interval, expires_at = expires_at - $1::interval", forward
    )
    await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - $1::interval", forward)
    await conn.execute(
        """
        UPDATE jobs
        SET options = options || jsonb_build_object('deadline', (options ->> 'deadline')::timestamptz - $1::interval)
        WHERE options ? 'deadline'
        """,
        forward,
    )


@asynccontextmanager
async def blocked_by_others(
    database: Database, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, _T]]
) -> AsyncIterator["asyncio.Task[_T]"]:
    """Runs `work` in a transaction of its own, and enters once it waits for somebody else's lock."""
    async with (
        database.connection() as observer,
        asyncio.TaskGroup() as tasks,
        database.transaction() as conn,
    ):
        task = tasks.create_task(work(conn))
        await _until_waiting(observer, conn.get_server_pid(), task)
        yield task
        await task


async def _until_waiting(observer: asyncpg.Connection, pid: int, task: "asyncio.Task[Any]") -> None:
    async with asyncio.timeout(5):
        while not await observer.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
            assert not task.done(), "nothing blocked it"
            await asyncio.sleep(0.005)


async def disagreements(conn: asyncpg.Connection) -> list[str]:
    """What contradicts: a job has an entry exactly while it is not finished, and both say the same of it."""
    rows = await conn.fetch(
        """
        SELECT format('%s is %s, its entry %s', coalesce(job_id, id), status, coalesce(state, 'missing'))
        FROM jobs FULL JOIN queue ON id = job_id
        WHERE CASE
            WHEN status IS NULL THEN true
            WHEN status IN ('completed', 'failed', 'cancelled') THEN id IS NOT NULL
            ELSE id IS NULL
                OR queue.attempt <> jobs.attempt
                OR queue.max_attempts <> jobs.max_attempts
                OR queue.type <> jobs.type
                OR queue.tenant <> jobs.org_id
                OR status <> CASE
                    WHEN state <> 'running' THEN 'pending'
                    WHEN cancel_requested THEN 'cancelling'
                    ELSE 'processing'
                END
        END
        """
    )
    return [row[0] for row in rows]

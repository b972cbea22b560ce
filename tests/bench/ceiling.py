"""What Postgres does with the bare statements, straight from asyncpg: the ceilings of the other figures."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from uuid import UUID

import millrace_queue
from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id

CONNECTIONS = 2
BATCH = 500


async def insert_rate(database: Database, count: int) -> float:
    """Jobs a second inserted in batches over two connections; they are left to be drained."""
    batches = [[_new_job(number) for number in range(BATCH)] for _ in range(count // BATCH)]

    async def insert() -> None:
        while batches:
            jobs = batches.pop()
            async with database.transaction() as connection:
                await job_lifecycle.create_jobs(connection, jobs)

    return count / await _seconds_of_two(insert)


async def drain_rate(database: Database) -> float:
    """Jobs a second claimed and completed in batches over two connections, until none is left."""
    worker_id = new_id()
    async with database.transaction() as connection:
        await millrace_queue.register_worker(connection, worker_id, lease=timedelta(hours=1), details={})
    drained = 0

    async def drain() -> None:
        nonlocal drained
        while True:
            async with database.transaction() as connection:
                claimed = await job_lifecycle.claim_jobs(connection, worker_id, {"bench:noop": BATCH}, BATCH)
            if not claimed:
                return
            async with database.transaction() as connection:
                done = [(job.claim.lease, '{"entered_at": 0}') for job in claimed]
                await job_lifecycle.complete_jobs(connection, done)
            drained += len(claimed)

    seconds = await _seconds_of_two(drain)
    async with database.transaction() as connection:
        await millrace_queue.unregister_worker(connection, worker_id)
    return drained / seconds


async def _seconds_of_two(work: Callable[[], Coroutine[object, object, None]]) -> float:
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
    return time.perf_counter() - started


def _new_job(number: int) -> job_lifecycle.NewJob:
    job_id: UUID = new_id()
    return job_lifecycle.NewJob(
        job_id=job_id,
        org_id="bench",
        type="bench:noop",
        input_json=f'{{"number": {number}}}',
        metadata_json="{}",
        created_by="bench",
        max_attempts=4,
    )

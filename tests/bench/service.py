"""The same work through the services and the SDK."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from millrace_client import Millrace, NewJob
from millrace_database.database import Database
from support.processes import Stack, stack

# Long enough for everything that the last job set off to be over.
_IDLE_SECONDS = 0.15
_SETTINGS = {
    "MILLRACE_HANDLERS": "bench.noop",
    "MILLRACE_WORKER_SLOTS": "2000",
    "MILLRACE_LOG_LEVEL": "WARNING",
}


@asynccontextmanager
async def services(database_url: str, folder: Path) -> AsyncIterator[Stack]:
    """Run the Jobs service; the worker has published its types and is stopped."""
    environment = {**_SETTINGS, "PYTHONPATH": str(Path(__file__).parents[1])}
    async with stack(database_url, folder, names=("jobs", "worker"), settings=environment) as running:
        await running.worker.terminate()
        yield running


async def creation_rate(client: Millrace, jobs: int, *, in_flight: int) -> float:
    """Jobs a second created one by one, so many calls at a time."""
    numbers = iter(range(jobs))

    async def create() -> None:
        for number in numbers:
            await client.jobs.create("bench:noop", {"number": number})

    started = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(in_flight):
            callers.create_task(create())
    return jobs / (time.perf_counter() - started)


async def bulk_creation_rate(client: Millrace, jobs: int, job_type: str = "bench:noop") -> float:
    """Jobs a second created in batches by one caller."""
    started = time.perf_counter()
    await client.jobs.create_many(NewJob(job_type, {"number": number}) for number in range(jobs))
    return jobs / (time.perf_counter() - started)


async def drain_rate(database: Database, running: Stack) -> float:
    """Jobs a second from the first claim to the last completion by one worker process, until none is left."""
    async with database.connection() as connection:
        await connection.execute("ANALYZE jobs, queue")
        since = await connection.fetchval("SELECT now()")
        await running.worker.start()
        while await connection.fetchval("SELECT EXISTS (SELECT FROM queue)"):
            await asyncio.sleep(0.05)
        row = await connection.fetchrow(
            """SELECT count(*) AS jobs, extract(epoch FROM max(completed_at) - min(started_at))::float8 AS seconds
            FROM jobs WHERE started_at >= $1 AND status = 'completed'""",
            since,
        )
    await running.worker.terminate()
    assert row is not None
    return float(row["jobs"]) / float(row["seconds"])


async def pick_up_seconds(client: Millrace, running: Stack, jobs: int) -> list[float]:
    """Seconds from sending CreateJob to entering the handler, for one job at a time on an idle system."""
    await running.worker.start()
    seconds = []
    for number in range(jobs):
        sent_at = time.time()
        job = await client.jobs.create("bench:noop", {"number": number})
        done = await client.jobs.wait(job.job_id)
        assert done.output is not None
        seconds.append(done.output["entered_at"] - sent_at)
        await asyncio.sleep(_IDLE_SECONDS)
    await running.worker.terminate()
    return sorted(seconds)

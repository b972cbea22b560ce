"""Claims while a transaction stays open that keeps Postgres from clearing away what earlier ones left behind."""

import asyncio
import time
from datetime import timedelta
from uuid import UUID

import millrace_queue
from bench.drains import Watch
from bench.line import Line, quantile
from bench.rounds import Bench
from bench.samples import NOOP, new_jobs, put
from bench.scale import SLOTS
from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import CHANNEL_READY

# Together 2,000 jobs a second.
_BATCH = 100
_INTERVAL_SECONDS = 0.05
_TIMED = 10
"""Of a batch so many are claimed by the claim that is timed, and the others by a worker."""


async def measure(bench: Bench) -> list[Line]:
    seconds = bench.scale.open_seconds
    bench.tell(f"for {seconds:g} seconds")
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.services(database, "worker", settings={"MILLRACE_WORKER_SLOTS": str(SLOTS)}),
    ):
        # As the services create and claim: a plan made anew may take another index for a queue that is said to be empty.
        hot = await Database.open(database.url, application_name="bench", keep_plans=True)
        worker_id = new_id()
        async with database.connection() as connection:
            await millrace_queue.register_worker(connection, worker_id, lease=timedelta(hours=1), details={})
        watch = await Watch.start(database, new_id())
        async with database.transaction() as held:
            await held.execute("SELECT pg_current_xact_id()")
            started_at = time.monotonic()
            milliseconds = await _claims(hot, worker_id, until=started_at + seconds)
            rate = await watch.claimed() / (time.monotonic() - started_at)
        await hot.close()
    tenth = max(len(milliseconds) // 10, 1)
    first, last = milliseconds[:tenth], milliseconds[-tenth:]
    return [
        Line(f"jobs that pass while a transaction is open for {seconds:g} s", "jobs/s", [rate]),
        *(line for name, share in (("p50", 0.5), ("p95", 0.95)) for line in _lines(name, share, first, last)),
    ]


def _lines(name: str, share: float, first: list[float], last: list[float]) -> list[Line]:
    before, after = [quantile(first, share)], [quantile(last, share)]
    return [
        Line(f"a claim of {_TIMED}, first tenth of that time, {name}", "ms", before),
        Line(f"a claim of {_TIMED}, last tenth of that time, {name}", "ms", after, "first tenth", before),
    ]


async def _claims(database: Database, worker_id: UUID, *, until: float) -> list[float]:
    """Create jobs and claim a few of each batch; the milliseconds of each claim without its commit."""
    milliseconds = []
    due_at = time.monotonic()
    while due_at < until:
        await put(database, new_jobs(_BATCH))
        async with database.transaction() as connection:
            started_at = time.perf_counter()
            claimed = await job_lifecycle.claim_jobs(connection, worker_id, {NOOP: _TIMED}, _TIMED)
            milliseconds.append((time.perf_counter() - started_at) * 1000)
        async with database.transaction() as connection:
            await job_lifecycle.complete_jobs(connection, [(job.lease, "{}") for job in claimed])
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL_READY, NOOP)
        due_at = max(due_at + _INTERVAL_SECONDS, time.monotonic() - _INTERVAL_SECONDS)
        await asyncio.sleep(max(due_at - time.monotonic(), 0))
    return milliseconds

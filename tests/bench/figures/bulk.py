"""Creating many jobs by the SDK, beside the bare statements that insert the same jobs."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bench.line import Line, ratio_at_least
from bench.rounds import Bench
from bench.samples import NESTED, NOOP, ORG, empty, nested_input, new_jobs, small_input
from millrace_client import Millrace, NewJob
from millrace_database import job_lifecycle
from millrace_database.database import Database

_BATCH = 1_000


async def measure(bench: Bench) -> list[Line]:
    jobs = bench.scale.jobs
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.jobs_service(database) as running,
        Millrace(running.jobs.address, org_id=ORG) as client,
    ):
        taken = await bench.rounds(
            {
                "bare insert, small inputs": partial(_bare_rate, database, NOOP, jobs),
                "SDK, small inputs": partial(_sdk_rate, database, client, NOOP, small_input, jobs),
                "bare insert, nested inputs": partial(_bare_rate, database, NESTED, jobs),
                "SDK, nested inputs": partial(_sdk_rate, database, client, NESTED, nested_input, jobs),
            }
        )
    small_bare, small, nested_bare, nested = taken.values()
    return [
        Line("insert, bare, small inputs", "jobs/s", small_bare),
        Line("create_many, small inputs", "jobs/s", small, "bare insert", small_bare, ratio_at_least(0.5)),
        Line("insert, bare, nested inputs of 300 bytes", "jobs/s", nested_bare),
        Line(
            "create_many, nested inputs of 300 bytes",
            "jobs/s",
            nested,
            "bare insert",
            nested_bare,
            ratio_at_least(0.5),
        ),
    ]


async def _bare_rate(database: Database, job_type: str, count: int) -> float:
    """Jobs a second over one connection, in transactions of 1,000."""
    await empty(database)
    jobs = list(new_jobs(count, job_type))
    started_at = time.perf_counter()
    for place in range(0, count, _BATCH):
        async with database.transaction() as connection:
            await job_lifecycle.create_plain_jobs(connection, jobs[place : place + _BATCH])
    return count / (time.perf_counter() - started_at)


async def _sdk_rate(
    database: Database,
    client: Millrace,
    job_type: str,
    make_input: Callable[[int], Mapping[str, Any]],
    count: int,
) -> float:
    """Jobs a second by one caller."""
    await empty(database)
    jobs = [NewJob(job_type, make_input(number)) for number in range(count)]
    started_at = time.perf_counter()
    results = await client.jobs.create_many(jobs)
    seconds = time.perf_counter() - started_at
    assert len(results) == count
    assert all(result.error is None for result in results)
    return count / seconds

"""Counting what is created and finished, and writing it without holding anybody up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database import DatabaseUnavailableError
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_flow import FlowCounter
from millrace_database.job_lifecycle import claim_jobs, create_jobs
from millrace_database.job_options import JobOptions
from millrace_worker import JobContext, JobError, Registry
from support.jobs_api import ANY_TYPE, serving
from support.polling import eventually
from support.queue_samples import new_worker, sample_job
from support.worker_runs import create, worker

_FLOW = "SELECT type, org_id, sum(created), sum(finished) FROM job_flow GROUP BY type, org_id ORDER BY type, org_id"


async def _flow(database: Database) -> list[tuple[Any, ...]]:
    async with database.connection() as conn:
        return [tuple(row) for row in await conn.fetch(_FLOW)]


async def test_counts_are_added_up_by_type_and_organisation(database: Database) -> None:
    one, other = FlowCounter(database.connection), FlowCounter(database.connection)
    for _ in range(3):
        one.created("a", "acme")
    one.finished("a", "acme")
    one.finished("b", "acme")
    await one.flush()
    one.created("a", "acme")
    other.created("a", "other")
    other.finished("a", "acme")
    await asyncio.gather(one.flush(), other.flush())
    await one.flush()

    assert await _flow(database) == [("a", "acme", 4, 2), ("a", "other", 1, 0), ("b", "acme", 0, 1)]


async def test_they_are_written_in_the_background(database: Database) -> None:
    counter = FlowCounter(database.connection)
    running = asyncio.create_task(counter.run())
    try:
        for n in range(2):
            counter.created("a", "acme")
            wanted = [("a", "acme", n + 1, 0)]

            async def written(wanted: object = wanted) -> bool:
                return await _flow(database) == wanted

            await eventually(written)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_an_outage_costs_counts_and_nothing_else(database: Database) -> None:
    away = True

    @asynccontextmanager
    async def connection() -> AsyncIterator[asyncpg.Connection]:
        if away:
            raise DatabaseUnavailableError("away")
        async with database.connection() as conn:
            yield conn

    counter = FlowCounter(connection)
    counter.created("a", "acme")
    await counter.flush()
    away = False
    counter.created("b", "acme")
    await counter.flush()

    assert await _flow(database) == [("b", "acme", 1, 0)]


async def _becomes(database: Database, wanted: list[tuple[Any, ...]]) -> None:
    async def same() -> bool:
        return await _flow(database) == wanted

    await eventually(same)


async def test_the_jobs_service_counts_what_it_creates(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as api:
        await api.create(request_id="r")
        await api.create(request_id="r")
        await api.create(org_id="other")
        requests = [jobs_service_pb2.CreateJobRequest(type=ANY_TYPE) for _ in range(20)]
        await api.jobs.BatchCreateJobs(
            jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=requests)
        )

        await _becomes(database, [(ANY_TYPE, "acme", 21, 0), (ANY_TYPE, "other", 1, 0)])


async def test_a_worker_counts_what_ends_for_good(database: Database, tmp_path: Path) -> None:
    registry = Registry()

    @registry.job_handler("a:good")
    async def good(context: JobContext[dict[str, Any]]) -> None:
        pass

    @registry.job_handler("a:bad")
    async def bad(context: JobContext[dict[str, Any]]) -> None:
        raise JobError("NO", "never", retryable=False)

    async with worker(database, registry, tmp_path):
        await create(database, "a:good", [{}] * 5)
        await create(database, "a:bad", [{}] * 2)

        await _becomes(database, [("a:bad", "acme", 0, 2), ("a:good", "acme", 0, 5)])


async def test_the_jobs_service_counts_what_it_cancels_while_it_waits(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as api:
        jobs = [await api.create() for _ in range(3)]
        async with database.transaction() as conn:
            (running,) = await claim_jobs(conn, await new_worker(conn), {ANY_TYPE: 1}, 1)
        for job in (jobs[0], jobs[1], jobs[1]):
            await api.jobs.CancelJob(jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=job.job_id))
        for org_id in ("other", "other", "third"):
            await api.create(org_id=org_id)
        every_job = jobs_service_pb2.CancelJobsRequest(org_id="-", filter=jobs_service_pb2.JobFilter())
        await api.jobs.CancelJobs(every_job)

        # The one that runs is counted by its worker, once its handler has stopped.
        assert format_id("job", running.claim.id) == jobs[0].job_id
        await _becomes(
            database, [(ANY_TYPE, "acme", 3, 2), (ANY_TYPE, "other", 2, 2), (ANY_TYPE, "third", 1, 1)]
        )


async def test_a_worker_counts_what_its_rescues_and_deadlines_end_and_the_dead_letters_they_make(
    database: Database, tmp_path: Path
) -> None:
    options = JobOptions(dead_letter_type="a:dead")
    async with database.transaction() as conn:
        lost = [
            sample_job(type="a:lost", org_id="umbrella", max_attempts=1, options=options) for _ in range(2)
        ]
        again = sample_job(type="a:again", max_attempts=2)
        late = sample_job(
            type="a:late", options=replace(options, deadline=await conn.fetchval("SELECT now()"))
        )
        await create_jobs(conn, [*lost, again, late])
        await claim_jobs(conn, await new_worker(conn), {"a:lost": 9, "a:again": 9}, 9)
    async with database.connection() as conn:
        await conn.execute("UPDATE queue_workers SET heartbeat_at = now() - interval '1 hour'")
    registry = Registry()

    @registry.job_handler("a:bad", dead_letter="a:dead")
    async def bad(context: JobContext[dict[str, Any]]) -> None:
        raise JobError("NO", "never", retryable=False)

    async with worker(database, registry, tmp_path):
        await create(database, "a:bad", [{}] * 3)

        await _becomes(
            database,
            [
                ("a:bad", "acme", 0, 3),
                ("a:dead", "acme", 4, 0),
                ("a:dead", "umbrella", 2, 0),
                ("a:late", "acme", 0, 1),
                ("a:lost", "umbrella", 0, 2),
            ],
        )

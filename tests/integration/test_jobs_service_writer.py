"""Group commit: what many callers share, and what they must not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import asyncpg
import pytest

from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import CreatedJob, NewJob, create_jobs
from millrace_jobs.job_writer import JobWriter
from millrace_runtime.errors import Unavailable


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[JobWriter]:
    writer = JobWriter(database)
    running = asyncio.create_task(writer.run())
    yield writer
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _job(input_json: str = "{}") -> NewJob:
    return NewJob(new_id(), "acme", "notes:keep", input_json, "{}", "ann", max_attempts=1)


async def test_calls_at_the_same_time_share_transactions(
    writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    async def counted(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        sizes.append(len(jobs))
        return await create_jobs(conn, jobs)

    monkeypatch.setattr(job_lifecycle, "create_jobs", counted)
    jobs = [_job() for _ in range(100)]

    written = await asyncio.gather(*(writer.write(job) for job in jobs))

    assert [result.record.job_id for result in written] == [job.job_id for job in jobs]
    assert sum(sizes) == 100
    assert len(sizes) < 10


async def test_a_job_that_the_database_refuses_fails_alone(writer: JobWriter, database: Database) -> None:
    jobs = [_job(), _job('{"a": "\\u0000"}'), _job(), _job()]

    results = await asyncio.gather(*(writer.write(job) for job in jobs), return_exceptions=True)

    assert [isinstance(result, asyncpg.DataError) for result in results] == [False, True, False, False]
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 3


async def test_a_caller_that_gives_up_does_not_hinder_the_others(writer: JobWriter) -> None:
    impatient = asyncio.create_task(writer.write(_job()))
    patient = asyncio.create_task(writer.write(_job()))
    await asyncio.sleep(0)
    impatient.cancel()

    assert (await patient).record.status == "pending"
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_a_batch_that_gives_way_in_a_deadlock_is_written_again(
    writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [asyncpg.DeadlockDetectedError("deadlock detected")] * 2

    async def deadlocked_at_first(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        created = await create_jobs(conn, jobs)
        if failures:
            raise failures.pop()
        return created

    monkeypatch.setattr(job_lifecycle, "create_jobs", deadlocked_at_first)
    jobs = [_job(), _job()]

    created = await writer.write_all(jobs)

    assert created == [CreatedJob(job.job_id) for job in jobs]


async def test_nobody_waits_for_a_writer_that_has_ended(database: Database) -> None:
    writer = JobWriter(database)
    running = asyncio.create_task(writer.run())
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE jobs")
        waiting = [asyncio.create_task(writer.write(_job())) for _ in range(3)]
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        for task in waiting:
            with pytest.raises(Unavailable):
                await task
    with pytest.raises(Unavailable):
        await writer.write(_job())

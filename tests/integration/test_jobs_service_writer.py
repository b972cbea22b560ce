"""Group commit: what many callers share, and what they must not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import asyncpg
import pytest

from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import CreatedJob, NewJob, create_jobs, create_plain_jobs
from millrace_jobs import job_writer
from millrace_jobs.job_writer import JobWriter, WrittenJob
from millrace_runtime.errors import Unavailable
from support.polling import eventually


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[JobWriter]:
    writer = JobWriter(database, lambda _types: None)
    running = asyncio.create_task(writer.run())
    yield writer
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _job(input_json: str = "{}", request_id: str | None = None) -> NewJob:
    return NewJob(
        new_id(), "acme", "notes:keep", input_json, "{}", "ann", max_attempts=1, request_id=request_id
    )


async def _somebody_waits_for_a_lock(database: Database) -> bool:
    async with database.connection() as connection:
        waits: bool = await connection.fetchval(
            """SELECT EXISTS (
                SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            )"""
        )
    return waits


async def _write(writer: JobWriter, job: NewJob) -> WrittenJob:
    (written,) = await writer.write([job], and_read=True)
    return written


async def test_calls_at_the_same_time_share_transactions(
    writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    async def counted(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        sizes.append(len(jobs))
        return await create_plain_jobs(conn, jobs)

    monkeypatch.setattr(job_lifecycle, "create_plain_jobs", counted)
    jobs = [_job() for _ in range(100)]

    written = await asyncio.gather(*(_write(writer, job) for job in jobs))

    assert [result.record().job_id for result in written] == [job.job_id for job in jobs]
    assert sum(sizes) == 100
    assert len(sizes) < 10


async def test_a_job_that_the_database_refuses_fails_alone(writer: JobWriter, database: Database) -> None:
    jobs = [_job(), _job('{"a": "\\u0000"}'), _job(), _job()]

    results = await asyncio.gather(*(_write(writer, job) for job in jobs), return_exceptions=True)

    assert [isinstance(result, asyncpg.DataError) for result in results] == [False, True, False, False]
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 3


async def test_a_batch_that_the_database_refuses_fails_alone_and_as_a_whole(
    writer: JobWriter, database: Database
) -> None:
    refused = writer.write([_job(), _job('{"a": "\\u0000"}')], and_read=False)
    results = await asyncio.gather(
        refused, writer.write([_job(), _job()], and_read=False), return_exceptions=True
    )

    assert isinstance(results[0], asyncpg.DataError)
    assert not isinstance(results[1], BaseException)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 2


async def test_a_group_that_is_held_up_does_not_hold_up_others(writer: JobWriter, database: Database) -> None:
    # The first job of a type, ever, makes others of the type wait for its commit.
    await _write(writer, _job())
    taken = _job(request_id="r1")
    async with database.transaction() as other:
        await create_jobs(other, [taken])
        held_up = asyncio.create_task(_write(writer, _job(request_id="r1")))
        await eventually(lambda: _somebody_waits_for_a_lock(database))
        async with asyncio.timeout(5):
            for _ in range(3):
                await _write(writer, _job())
        assert not held_up.done()

    written = await held_up
    assert written.created.already_existed
    assert written.record().job_id == taken.job_id


async def test_a_job_that_has_to_wait_takes_no_other_of_its_group_with_it(
    writer: JobWriter, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_writer, "_PATIENCE_SECONDS", 0.2)
    await _write(writer, _job())
    async with database.transaction() as other:
        await create_jobs(other, [_job(request_id="r1")])
        waiting = asyncio.create_task(_write(writer, _job(request_id="r1")))
        innocent = [asyncio.create_task(_write(writer, _job())) for _ in range(2)]
        async with asyncio.timeout(5):
            await asyncio.gather(*innocent)
        assert not waiting.done()

    assert (await waiting).created.already_existed


async def test_jobs_of_which_it_is_not_known_whether_they_were_written_are_written_once(
    writer: JobWriter, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        await create_plain_jobs(conn, jobs)
        raise TimeoutError

    monkeypatch.setattr(job_lifecycle, "create_plain_jobs", late)
    jobs = [_job(), _job(request_id="r1")]

    written = await asyncio.gather(*(_write(writer, job) for job in jobs))

    assert [result.created for result in written] == [CreatedJob(job.job_id) for job in jobs]
    assert [result.record().job_id for result in written] == [job.job_id for job in jobs]


async def test_a_job_is_created_when_the_one_with_its_request_id_is_deleted_before_it_is_read(
    writer: JobWriter, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.transaction() as connection:
        await create_jobs(connection, [_job(request_id="r1")])

    async def create_and_delete_it(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        created = await create_plain_jobs(conn, jobs)
        for made in created:
            if made.already_existed:
                await conn.execute("DELETE FROM queue WHERE id = $1", made.job_id)
                await conn.execute("DELETE FROM jobs WHERE job_id = $1", made.job_id)
        return created

    monkeypatch.setattr(job_lifecycle, "create_plain_jobs", create_and_delete_it)
    jobs = [_job(), _job(request_id="r1")]

    written = await asyncio.gather(*(_write(writer, job) for job in jobs))

    assert [result.created for result in written] == [CreatedJob(job.job_id) for job in jobs]


async def test_existing_jobs_are_read_for_those_who_want_them(writer: JobWriter, database: Database) -> None:
    async with database.transaction() as connection:
        await create_jobs(connection, [_job(request_id="r1")])
        await connection.execute("UPDATE jobs SET progress = 40")

    (wanted,) = await writer.write([_job(request_id="r1")], and_read=True)
    (unwanted,) = await writer.write([_job(request_id="r1")], and_read=False)

    assert wanted.record().progress == 40
    assert unwanted.created == wanted.created
    assert unwanted.existing is None


async def test_a_caller_that_gives_up_does_not_hinder_the_others(writer: JobWriter) -> None:
    impatient = asyncio.create_task(_write(writer, _job()))
    patient = asyncio.create_task(_write(writer, _job()))
    await asyncio.sleep(0)
    impatient.cancel()

    assert (await patient).record().status == "pending"
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_a_batch_that_gives_way_in_a_deadlock_is_written_again(
    writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [asyncpg.DeadlockDetectedError("deadlock detected")] * 2

    async def deadlocked_at_first(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        if failures:
            raise failures.pop()
        return await create_jobs(conn, jobs)

    monkeypatch.setattr(job_lifecycle, "create_plain_jobs", deadlocked_at_first)
    monkeypatch.setattr(job_lifecycle, "create_jobs", deadlocked_at_first)
    jobs = [_job(), _job()]

    written = await writer.write(jobs, and_read=False)

    assert [result.created for result in written] == [CreatedJob(job.job_id) for job in jobs]


async def test_nobody_waits_for_a_writer_that_has_ended(database: Database) -> None:
    writer = JobWriter(database, lambda _types: None)
    running = asyncio.create_task(writer.run())
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE jobs")
        waiting = [asyncio.create_task(_write(writer, _job())) for _ in range(3)]
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        for task in waiting:
            with pytest.raises(Unavailable):
                await task
    with pytest.raises(Unavailable):
        await _write(writer, _job())

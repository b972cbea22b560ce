from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database.bulk_job_control import retry_jobs
from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    claim_jobs,
    expire_jobs,
    fail_jobs,
    rescue_jobs,
    retry_job,
)
from millrace_database.job_options import JobOptions
from millrace_database.jobs_repository import JobRecord
from millrace_queue import promote, seconds_until_expiry
from support.queue_samples import (
    PLENTY,
    created_jobs,
    job_record,
    lose_heartbeat,
    make_due,
    new_worker,
    running_job,
    sample_failure,
    sample_job,
)

_HOUR = timedelta(hours=1)


async def _now(database: Database) -> datetime:
    async with database.connection() as conn:
        now: datetime = await conn.fetchval("SELECT now()")
    return now


async def _let_deadlines_pass(conn: asyncpg.Connection) -> None:
    await conn.execute("UPDATE queue SET expires_at = now() - interval '1 ms'")
    await conn.execute(
        "UPDATE jobs SET options = jsonb_set(options, '{deadline}', to_jsonb(now() - interval '1 ms'))"
    )


async def _expired(database: Database) -> list[UUID]:
    async with database.transaction() as conn:
        return [entry.id for entry in await expire_jobs(conn, limit=PLENTY)]


async def _waiting(database: Database) -> UUID:
    options = JobOptions(deadline=await _now(database) + _HOUR)
    (job_id,) = await created_jobs(database, sample_job(options=options))
    return job_id


def _ended(job: JobRecord) -> tuple[str, int, str | None, bool | None]:
    return job.status, job.attempt, job.error_code, job.error_retryable


async def test_a_job_that_waits_until_its_deadline_fails(database: Database) -> None:
    job_id = await _waiting(database)
    assert await _expired(database) == []
    async with database.connection() as conn:
        await _let_deadlines_pass(conn)
        assert await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1) == []

    assert await _expired(database) == [job_id]

    assert _ended(await job_record(database, job_id)) == ("failed", 0, "DEADLINE_EXCEEDED", False)


@pytest.mark.parametrize("state", ["scheduled", "ready", "parked"])
async def test_it_fails_wherever_it_waits(database: Database, state: str) -> None:
    job_id = await _waiting(database)
    async with database.connection() as conn:
        parked_by = "tenant" if state == "parked" else None
        await conn.execute("UPDATE queue SET state = $1, parked_by = $2", state, parked_by)
        await _let_deadlines_pass(conn)

    assert await _expired(database) == [job_id]


async def test_a_job_that_runs_is_left_alone(database: Database) -> None:
    options = JobOptions(deadline=await _now(database) + _HOUR)
    claimed = await running_job(database, sample_job(options=options))
    async with database.connection() as conn:
        await _let_deadlines_pass(conn)

    assert await _expired(database) == []
    assert (await job_record(database, claimed.claim.id)).status == "processing"


async def test_a_job_that_waits_for_its_next_attempt_fails_at_its_deadline(database: Database) -> None:
    options = JobOptions(deadline=await _now(database) + _HOUR)
    claimed = await running_job(database, sample_job(options=options))
    async with database.transaction() as conn:
        await fail_jobs(conn, [sample_failure(claimed, _HOUR / 2)])
        await _let_deadlines_pass(conn)
        await make_due(conn)
        await promote(conn, limit=PLENTY)

    assert await _expired(database) == [claimed.claim.id]
    job = await job_record(database, claimed.claim.id)
    assert _ended(job) == ("failed", 1, "DEADLINE_EXCEEDED", False)


async def test_a_further_attempt_that_would_come_after_the_deadline_is_not_waited_for(
    database: Database,
) -> None:
    options = JobOptions(deadline=await _now(database) + _HOUR)
    claimed = await running_job(database, sample_job(options=options))
    async with database.transaction() as conn:
        await fail_jobs(conn, [sample_failure(claimed, 2 * _HOUR)])

    job = await job_record(database, claimed.claim.id)
    assert _ended(job) == ("failed", 1, "DISK_FULL", True)
    assert job.error_message == "No space left (Its deadline left no time for another attempt.)"
    async with database.connection() as conn:
        # The attempt tells its own error only.
        assert await conn.fetchval("SELECT error_message FROM job_attempts") == "No space left"


@pytest.mark.parametrize("retry_delay", [None, 2 * _HOUR])
async def test_a_deadline_is_not_blamed_where_no_attempt_was_left_anyway(
    database: Database, retry_delay: timedelta | None
) -> None:
    options = JobOptions(deadline=await _now(database) + _HOUR)
    claimed = await running_job(
        database, sample_job(options=options, max_attempts=4 if retry_delay is None else 1)
    )
    async with database.transaction() as conn:
        await fail_jobs(conn, [sample_failure(claimed, retry_delay)])

    assert (await job_record(database, claimed.claim.id)).error_message == "No space left"


async def test_a_job_whose_worker_is_lost_after_the_deadline_fails(database: Database) -> None:
    options = JobOptions(deadline=await _now(database) + _HOUR)
    claimed = await running_job(database, sample_job(options=options))
    async with database.transaction() as conn:
        await _let_deadlines_pass(conn)
        await conn.execute("DELETE FROM queue_workers")
        await rescue_jobs(conn, limit=PLENTY)

    job = await job_record(database, claimed.claim.id)
    assert _ended(job) == ("failed", 1, "WORKER_LOST", True)
    assert job.error_message == (
        "The worker that ran the job was lost. (Its deadline left no time for another attempt.)"
    )


@pytest.mark.parametrize("several", [False, True])
async def test_a_job_that_is_retried_after_its_deadline_has_none(database: Database, several: bool) -> None:
    job_id = await _waiting(database)
    async with database.transaction() as conn:
        await _let_deadlines_pass(conn)
        await expire_jobs(conn, limit=PLENTY)
        if several:
            await retry_jobs(conn, [job_id], ["failed"])
        else:
            await retry_job(conn, "acme", job_id, 1)
        assert await expire_jobs(conn, limit=PLENTY) == []

        (claimed,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
    assert claimed.claim.id == job_id


async def test_a_job_that_is_retried_before_its_deadline_keeps_it(database: Database) -> None:
    deadline = await _now(database) + _HOUR
    claimed = await running_job(database, sample_job(options=JobOptions(deadline=deadline)))
    async with database.transaction() as conn:
        await fail_jobs(conn, [sample_failure(claimed, None)])
        await retry_job(conn, "acme", claimed.claim.id, 1)

        assert await conn.fetchval("SELECT expires_at FROM queue") == deadline


async def test_the_longest_overdue_expire_first_and_several_at_once_do_not_wait(database: Database) -> None:
    ids = [await _waiting(database) for _ in range(3)]
    async with database.connection() as conn:
        assert 3590 < (await seconds_until_expiry(conn) or 0) <= 3600
        for hours, job_id in enumerate(ids, start=1):
            await conn.execute(
                "UPDATE queue SET expires_at = now() - $1::interval WHERE id = $2", hours * _HOUR, job_id
            )
        assert await seconds_until_expiry(conn) == 0

    async with database.transaction() as one, database.transaction() as other:
        assert [entry.id for entry in await expire_jobs(one, limit=1)] == [ids[2]]
        assert [entry.id for entry in await expire_jobs(other, limit=1)] == [ids[1]]
    assert await _expired(database) == [ids[0]]
    async with database.connection() as conn:
        assert await seconds_until_expiry(conn) is None


async def test_three_workers_lost_in_a_row_quarantine_a_job(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job(max_attempts=100))
    async with database.transaction() as conn:
        for lost in (True, True, False, True, True, True):
            worker_id = await new_worker(conn)
            (claimed,) = await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
            if lost:
                await lose_heartbeat(conn, worker_id)
                await rescue_jobs(conn, limit=PLENTY)
            else:
                await fail_jobs(conn, [sample_failure(claimed, timedelta())])

    job = await job_record(database, job_id)
    assert _ended(job) == ("failed", 6, "QUARANTINED", False)
    assert job.error_message is not None
    assert "Three workers in a row" in job.error_message
    async with database.transaction() as conn:
        await retry_job(conn, "acme", job_id, 3)
        await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
        await conn.execute("DELETE FROM queue_workers")
        assert [entry.outcome.value for entry in await rescue_jobs(conn, limit=PLENTY)] == ["ready"]

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import (
    Cancellation,
    CancelledJob,
    ClaimedJob,
    JobFailure,
    JobSnooze,
    RetriedJob,
    Retry,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    fail_jobs,
    hand_back_jobs,
    rescue_jobs,
    retry_job,
    snooze_jobs,
)
from millrace_queue import HandBack, Rescue, Settled, promote
from support.queue_samples import (
    PLENTY,
    SOON,
    blocked_by_others,
    claimed_jobs,
    created_jobs,
    job_record,
    lose_heartbeat,
    new_worker,
    running_job,
    sample_failure,
    sample_job,
)


async def _worker_of(conn: asyncpg.Connection, claimed: ClaimedJob) -> UUID:
    worker_id: UUID = await conn.fetchval("SELECT worker_id FROM queue WHERE id = $1", claimed.claim.id)
    return worker_id


async def test_a_waiting_job_is_cancelled_at_once(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())

    for ended_type in ("reports:generate", None):
        async with database.transaction() as conn:
            assert await cancel_job(conn, "acme", job_id) == CancelledJob(
                Cancellation.CANCELLED, "cancelled", ended_type=ended_type
            )
        job = await job_record(database, job_id)
        assert (job.status, job.version) == ("cancelled", 2)
    async with database.transaction() as conn:
        assert await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1) == []


async def test_a_running_job_is_cancelled_when_its_handler_has_stopped(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        worker_id = await _worker_of(conn, claimed)
        assert await cancelled_jobs(conn, [claimed.lease]) == set()

    for _ in range(2):
        async with database.transaction() as conn:
            assert await cancel_job(conn, "acme", claimed.claim.id) == CancelledJob(
                Cancellation.CANCELLING, "cancelling", worker_id, {"address": "127.0.0.1:50053"}
            )
        job = await job_record(database, claimed.claim.id)
        assert (job.status, job.version) == ("cancelling", 3)

    async with database.transaction() as conn:
        assert await cancelled_jobs(conn, [claimed.lease]) == {claimed.claim.id}
    job = await job_record(database, claimed.claim.id)
    assert job.status == "cancelled"
    assert job.completed_at is not None


async def test_a_job_that_finished_before_it_stopped_is_completed(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", claimed.claim.id)
        await complete_jobs(conn, [(claimed.lease, "{}")])

    assert (await job_record(database, claimed.claim.id)).status == "completed"
    async with database.transaction() as conn:
        assert await cancel_job(conn, "acme", claimed.claim.id) == CancelledJob(
            Cancellation.FINISHED, "completed"
        )


async def test_a_failure_a_hand_back_and_a_lost_worker_end_a_job_that_is_to_be_cancelled(
    database: Database,
) -> None:
    await created_jobs(database, *(sample_job() for _ in range(3)))
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    failing, handed_back, lost = await claimed_jobs(database, worker_id)
    async with database.transaction() as conn:
        for claimed in (failing, handed_back, lost):
            await cancel_job(conn, "acme", claimed.claim.id)

        assert await fail_jobs(conn, [sample_failure(failing, SOON)]) == {failing.claim.id: Settled.CANCELLED}
        assert await hand_back_jobs(conn, [handed_back.lease]) == {handed_back.claim.id: HandBack.CANCELLED}
        await lose_heartbeat(conn, worker_id)
        assert [entry.outcome for entry in await rescue_jobs(conn, limit=PLENTY)] == [Rescue.CANCELLED]

    for claimed in (failing, handed_back, lost):
        job = await job_record(database, claimed.claim.id)
        assert (job.status, job.error_code) == ("cancelled", None)


async def test_a_completion_that_commits_first_wins_over_a_cancellation(database: Database) -> None:
    claimed = await running_job(database)
    async with database.connection() as worker:
        transaction = worker.transaction()
        await transaction.start()
        await complete_jobs(worker, [(claimed.lease, "{}")])
        async with blocked_by_others(
            database, lambda conn: cancel_job(conn, "acme", claimed.claim.id)
        ) as cancelling:
            await transaction.commit()
            assert await cancelling == CancelledJob(Cancellation.FINISHED, "completed")


async def test_a_failed_job_is_tried_again_with_further_attempts(database: Database) -> None:
    claimed = await running_job(database, sample_job(max_attempts=1, priority=7))
    async with database.transaction() as conn:
        await fail_jobs(conn, [sample_failure(claimed, SOON)])
        assert await retry_job(conn, "acme", claimed.claim.id, 3) == RetriedJob(
            Retry.RETRIED, "pending", "reports:generate"
        )

    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.attempt, job.max_attempts, job.completed_at) == ("pending", 1, 4, None)
    assert job.error_code == "DISK_FULL"
    assert job.run_at <= job.read_at
    async with database.transaction() as conn:
        (again,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
        assert (again.claim.attempt, again.claim.max_attempts) == (2, 4)
        assert await conn.fetchval("SELECT priority FROM queue") == 7
    assert (await job_record(database, claimed.claim.id)).error_code is None


async def test_a_job_that_waits_after_a_failed_attempt_is_due_at_once(database: Database) -> None:
    claimed = await running_job(database, sample_job(max_attempts=3))
    job_id = claimed.claim.id
    async with database.transaction() as conn:
        failure = JobFailure(claimed.lease, timedelta(hours=1), "DISK_FULL", "It is full.", retryable=True)
        await fail_jobs(conn, [failure])
    before = await job_record(database, job_id)
    async with database.transaction() as conn:
        assert await retry_job(conn, "other", job_id, 3) == RetriedJob(Retry.NOT_FOUND)
        assert await promote(conn, limit=10) == []
        retried = await retry_job(conn, "acme", job_id, 3)
        assert retried == RetriedJob(Retry.RETRIED, "pending", "reports:generate")
        # It is due already.
        assert await retry_job(conn, "acme", job_id, 3) == RetriedJob(Retry.WRONG_STATUS, "pending")

    job = await job_record(database, job_id)
    assert (job.status, job.attempt, job.max_attempts, job.error_code) == ("pending", 1, 3, "DISK_FULL")
    assert job.run_at <= job.read_at
    assert job.version == before.version + 1
    async with database.transaction() as conn:
        assert await promote(conn, limit=10) == ["reports:generate"]
        (again,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
    assert (again.claim.id, again.claim.attempt, again.claim.max_attempts) == (job_id, 2, 3)


async def test_a_job_that_waits_for_another_reason_is_not_hastened(database: Database) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    (planned,) = await created_jobs(database, sample_job(run_at=later))
    snoozed = await running_job(database)
    async with database.transaction() as conn:
        await snooze_jobs(conn, [JobSnooze(snoozed.lease, timedelta(hours=1))])
        for job_id in (planned, snoozed.claim.id):
            assert await retry_job(conn, "acme", job_id, 1) == RetriedJob(Retry.WRONG_STATUS, "pending")
        assert await promote(conn, limit=10) == []


async def test_a_cancelled_job_that_never_ran_can_be_tried(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", job_id)
        assert (await retry_job(conn, "acme", job_id, 2)).outcome is Retry.RETRIED

    job = await job_record(database, job_id)
    assert (job.status, job.attempt, job.max_attempts) == ("pending", 0, 2)


async def test_only_failed_and_cancelled_jobs_are_tried_again(database: Database) -> None:
    claimed = await running_job(database)
    (waiting,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        assert await retry_job(conn, "acme", waiting, 1) == RetriedJob(Retry.WRONG_STATUS, "pending")
        assert await retry_job(conn, "acme", claimed.claim.id, 1) == RetriedJob(
            Retry.WRONG_STATUS, "processing"
        )
        await complete_jobs(conn, [(claimed.lease, "{}")])
        assert await retry_job(conn, "acme", claimed.claim.id, 1) == RetriedJob(
            Retry.WRONG_STATUS, "completed"
        )


async def test_of_two_retries_one_finds_the_job_pending(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", job_id)

    async def retry() -> str:
        async with database.transaction() as conn:
            return (await retry_job(conn, "acme", job_id, 1)).outcome.name

    assert sorted(await asyncio.gather(retry(), retry())) == ["RETRIED", "WRONG_STATUS"]
    assert (await job_record(database, job_id)).status == "pending"


async def test_a_job_of_another_organisation_is_not_found(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        assert await cancel_job(conn, "other", job_id) == CancelledJob(Cancellation.NOT_FOUND)
        assert await retry_job(conn, "other", job_id, 1) == RetriedJob(Retry.NOT_FOUND)
        assert await cancel_job(conn, "acme", new_id()) == CancelledJob(Cancellation.NOT_FOUND)

    assert (await job_record(database, job_id)).status == "pending"


async def test_a_job_without_an_entry_cannot_be_cancelled_and_says_so(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.connection() as conn:
        await conn.execute("DELETE FROM queue")
        with pytest.raises(RuntimeError, match="no queue entry"):
            await cancel_job(conn, "acme", job_id)

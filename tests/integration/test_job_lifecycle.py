import asyncio
import json
import logging
from datetime import timedelta
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
    NewJob,
    ProgressReport,
    RetriedJob,
    Retry,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    fail_jobs,
    hand_back_jobs,
    report_progress,
    rescue_jobs,
    retry_job,
)
from millrace_database.jobs_repository import JobRecord, get_job
from millrace_queue import HandBack, Lease, Rescue, Settled, promote
from support.queue_samples import (
    PLENTY,
    blocked_by_others,
    claimed_jobs,
    created_jobs,
    disagreements,
    lose_heartbeat,
    make_due,
    new_worker,
    sample_job,
)

SOON = timedelta(minutes=5)


async def _running(database: Database, job: NewJob | None = None) -> ClaimedJob:
    """A job that a worker of its own runs."""
    await created_jobs(database, job or sample_job())
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    (claimed,) = await claimed_jobs(database, worker_id)
    return claimed


async def _job(database: Database, job_id: UUID) -> JobRecord:
    async with database.connection() as conn:
        assert await disagreements(conn) == []
        job = await get_job(conn, None, job_id)
    assert job is not None
    return job


async def _worker_of(conn: asyncpg.Connection, claimed: ClaimedJob) -> UUID:
    worker_id: UUID = await conn.fetchval("SELECT worker_id FROM queue WHERE id = $1", claimed.claim.id)
    return worker_id


def _failure(claimed: ClaimedJob, retry_delay: timedelta | None) -> JobFailure:
    return JobFailure(claimed.lease, retry_delay, "DISK_FULL", "No space left", retryable=True)


def _error(job: JobRecord) -> tuple[str | None, str | None, bool | None]:
    return job.error_code, job.error_message, job.error_retryable


async def test_a_claim_gives_the_handler_all_it_needs(database: Database) -> None:
    claimed = await _running(database, sample_job(metadata_json='{"colour": "red"}'))

    assert (claimed.org_id, claimed.created_by, claimed.claim.attempt) == ("acme", "ann", 1)
    assert json.loads(claimed.input_json) == {"rows": 3}
    assert json.loads(claimed.metadata_json) == {"colour": "red"}
    job = await _job(database, claimed.claim.id)
    assert (job.status, job.attempt) == ("processing", 1)
    assert job.started_at is not None
    assert job.created_at <= job.started_at <= job.read_at


async def test_a_completed_job_keeps_its_output_and_has_no_entry(database: Database) -> None:
    claimed = await _running(database)

    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(claimed.lease, '{"pages": 9}')]) == {claimed.claim.id}

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.progress) == ("completed", 100)
    assert json.loads(job.output_json or "") == {"pages": 9}
    assert job.started_at is not None
    assert job.completed_at is not None
    assert job.started_at <= job.completed_at


async def test_an_output_is_not_needed(database: Database) -> None:
    claimed = await _running(database)

    async with database.transaction() as conn:
        await complete_jobs(conn, [(claimed.lease, None)])

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.output_json) == ("completed", None)


async def test_a_worker_that_lost_its_lease_changes_nothing(database: Database) -> None:
    claimed = await _running(database)
    async with database.transaction() as conn:
        await lose_heartbeat(conn, await _worker_of(conn, claimed))
        assert [entry.outcome for entry in await rescue_jobs(conn, limit=PLENTY)] == [Rescue.READY]
        new = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
    before = await _job(database, claimed.claim.id)

    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(claimed.lease, "{}")]) == set()
        assert await cancelled_jobs(conn, [claimed.lease]) == set()
        assert await report_progress(conn, [ProgressReport(claimed.lease, 50)]) == set()
        assert await fail_jobs(conn, [_failure(claimed, None)]) == {claimed.claim.id: Settled.LOST}
        assert await hand_back_jobs(conn, [claimed.lease]) == {claimed.claim.id: HandBack.LOST}

    after = await _job(database, claimed.claim.id)
    assert (after.status, after.attempt, after.version) == ("processing", 2, before.version)
    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(new[0].lease, "{}")]) == {claimed.claim.id}


async def test_only_one_of_two_completions_counts(database: Database) -> None:
    claimed = await _running(database)

    async def complete(output: str) -> bool:
        async with database.transaction() as conn:
            return bool(await complete_jobs(conn, [(claimed.lease, output)]))

    accepted = await asyncio.gather(*(complete(f'{{"number": {number}}}') for number in range(4)))

    assert sorted(accepted) == [False, False, False, True]
    job = await _job(database, claimed.claim.id)
    assert json.loads(job.output_json or "") == {"number": accepted.index(True)}
    assert job.version == 3


async def test_a_job_runs_on_while_the_connection_that_claimed_it_is_gone(database: Database) -> None:
    await created_jobs(database, sample_job())
    claimer = await database.direct_connection()
    async with claimer.transaction():
        worker_id = await new_worker(claimer)
        (claimed,) = await claim_jobs(claimer, worker_id, {"reports:generate": 1}, 1)
    await claimer.close()

    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(claimed.lease, "{}")]) == {claimed.claim.id}


async def test_a_failed_job_waits_and_its_error_shows_until_the_next_attempt(database: Database) -> None:
    claimed = await _running(database)

    async with database.transaction() as conn:
        assert await fail_jobs(conn, [_failure(claimed, SOON)]) == {claimed.claim.id: Settled.RETRYING}
        failed_at = await conn.fetchval("SELECT now()")

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.run_at, job.completed_at) == ("pending", failed_at + SOON, None)
    assert _error(job) == ("DISK_FULL", "No space left", True)

    async with database.transaction() as conn:
        await make_due(conn)
        await promote(conn, limit=PLENTY)
        (again,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
    assert again.claim.attempt == 2
    job = await _job(database, claimed.claim.id)
    assert (job.status, job.attempt) == ("processing", 2)
    assert _error(job) == (None, None, None)


@pytest.mark.parametrize(("max_attempts", "retry_delay"), [(1, SOON), (4, None)])
async def test_a_job_fails_for_good(
    database: Database, max_attempts: int, retry_delay: timedelta | None
) -> None:
    claimed = await _running(database, sample_job(max_attempts=max_attempts))

    async with database.transaction() as conn:
        assert await fail_jobs(conn, [_failure(claimed, retry_delay)]) == {claimed.claim.id: Settled.FAILED}

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.output_json) == ("failed", None)
    assert _error(job) == ("DISK_FULL", "No space left", True)
    assert job.completed_at is not None


async def test_one_unstorable_message_does_not_fail_the_batch(database: Database) -> None:
    await created_jobs(database, sample_job(), sample_job())
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    first, second = await claimed_jobs(database, worker_id)

    async with database.transaction() as conn:
        reports = [ProgressReport(first.lease, message="nul \0"), ProgressReport(second.lease, 10)]
        assert len(await report_progress(conn, reports)) == 2
        broken = JobFailure(first.lease, None, "BAD", "nul \0 surrogate \udc80", retryable=False)
        assert len(await fail_jobs(conn, [broken, _failure(second, None)])) == 2

    job = await _job(database, first.claim.id)
    assert (job.message, job.error_message) == ("nul \ufffd", "nul \ufffd surrogate ?")


async def test_progress_leaves_alone_what_is_not_given(database: Database) -> None:
    claimed = await _running(database)
    reports = [
        ProgressReport(claimed.lease, 10, "reading", total_items=200),
        ProgressReport(claimed.lease, 20),
        ProgressReport(claimed.lease, processed_items=50),
        ProgressReport(claimed.lease, message=""),
    ]

    for report in reports[:3]:
        async with database.transaction() as conn:
            assert await report_progress(conn, [report]) == {claimed.claim.id}
    job = await _job(database, claimed.claim.id)
    assert (job.progress, job.message, job.processed_items, job.total_items) == (20, "reading", 50, 200)
    assert job.version == 5

    async with database.transaction() as conn:
        await report_progress(conn, reports[3:])
    assert (await _job(database, claimed.claim.id)).message == ""


async def test_progress_starts_anew_with_each_attempt(database: Database) -> None:
    claimed = await _running(database)
    async with database.transaction() as conn:
        await report_progress(conn, [ProgressReport(claimed.lease, 80, "nearly", 10, 8)])
        await fail_jobs(conn, [_failure(claimed, timedelta())])
    assert (await _job(database, claimed.claim.id)).progress == 80

    async with database.transaction() as conn:
        await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)

    job = await _job(database, claimed.claim.id)
    assert (job.progress, job.message, job.processed_items, job.total_items) == (0, "", 0, 0)


async def test_a_job_handed_back_has_not_lost_an_attempt(database: Database) -> None:
    claimed = await _running(database)

    async with database.transaction() as conn:
        assert await hand_back_jobs(conn, [claimed.lease]) == {claimed.claim.id: HandBack.READY}

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.attempt, job.started_at) == ("pending", 0, None)


async def test_a_job_whose_workers_die_fails_as_worker_lost(database: Database) -> None:
    claimed = await _running(database, sample_job(max_attempts=2))
    async with database.transaction() as conn:
        await lose_heartbeat(conn, await _worker_of(conn, claimed))
        await rescue_jobs(conn, limit=PLENTY)
    job = await _job(database, claimed.claim.id)
    assert (job.status, job.attempt, job.error_code) == ("pending", 1, "WORKER_LOST")

    async with database.transaction() as conn:
        dead = await new_worker(conn)
        await claim_jobs(conn, dead, {"reports:generate": 1}, 1)
        await lose_heartbeat(conn, dead)
        await rescue_jobs(conn, limit=PLENTY)

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.attempt, job.error_code) == ("failed", 2, "WORKER_LOST")
    assert job.completed_at is not None


async def test_a_waiting_job_is_cancelled_at_once(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())

    for _ in range(2):
        async with database.transaction() as conn:
            assert await cancel_job(conn, "acme", job_id) == CancelledJob(Cancellation.CANCELLED, "cancelled")
        job = await _job(database, job_id)
        assert (job.status, job.version) == ("cancelled", 2)
    async with database.transaction() as conn:
        assert await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1) == []


async def test_a_running_job_is_cancelled_when_its_handler_has_stopped(database: Database) -> None:
    claimed = await _running(database)
    async with database.transaction() as conn:
        worker_id = await _worker_of(conn, claimed)
        assert await cancelled_jobs(conn, [claimed.lease]) == set()

    for _ in range(2):
        async with database.transaction() as conn:
            assert await cancel_job(conn, "acme", claimed.claim.id) == CancelledJob(
                Cancellation.CANCELLING, "cancelling", worker_id, {"address": "127.0.0.1:50053"}
            )
        job = await _job(database, claimed.claim.id)
        assert (job.status, job.version) == ("cancelling", 3)

    async with database.transaction() as conn:
        assert await cancelled_jobs(conn, [claimed.lease]) == {claimed.claim.id}
    job = await _job(database, claimed.claim.id)
    assert job.status == "cancelled"
    assert job.completed_at is not None


async def test_a_job_that_finished_before_it_stopped_is_completed(database: Database) -> None:
    claimed = await _running(database)
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", claimed.claim.id)
        await complete_jobs(conn, [(claimed.lease, "{}")])

    assert (await _job(database, claimed.claim.id)).status == "completed"
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

        assert await fail_jobs(conn, [_failure(failing, SOON)]) == {failing.claim.id: Settled.CANCELLED}
        assert await hand_back_jobs(conn, [handed_back.lease]) == {handed_back.claim.id: HandBack.CANCELLED}
        await lose_heartbeat(conn, worker_id)
        assert [entry.outcome for entry in await rescue_jobs(conn, limit=PLENTY)] == [Rescue.CANCELLED]

    for claimed in (failing, handed_back, lost):
        job = await _job(database, claimed.claim.id)
        assert (job.status, job.error_code) == ("cancelled", None)


async def test_a_completion_that_commits_first_wins_over_a_cancellation(database: Database) -> None:
    claimed = await _running(database)
    async with database.connection() as worker:
        transaction = worker.transaction()
        await transaction.start()
        await complete_jobs(worker, [(claimed.lease, "{}")])
        async with blocked_by_others(
            database, lambda conn: cancel_job(conn, "acme", claimed.claim.id)
        ) as cancelling:
            await transaction.commit()
            assert await cancelling == CancelledJob(Cancellation.FINISHED, "completed")


async def test_progress_that_meets_a_completion_does_not_change_the_finished_job(database: Database) -> None:
    claimed = await _running(database)
    async with database.connection() as worker:
        transaction = worker.transaction()
        await transaction.start()
        await complete_jobs(worker, [(claimed.lease, "{}")])
        async with blocked_by_others(
            database, lambda conn: report_progress(conn, [ProgressReport(claimed.lease, 40)])
        ) as reporting:
            await transaction.commit()
            assert await reporting == set()

    assert (await _job(database, claimed.claim.id)).progress == 100


async def test_a_failed_job_is_tried_again_with_further_attempts(database: Database) -> None:
    claimed = await _running(database, sample_job(max_attempts=1, priority=7))
    async with database.transaction() as conn:
        await fail_jobs(conn, [_failure(claimed, SOON)])
        assert await retry_job(conn, "acme", claimed.claim.id, 3) == RetriedJob(
            Retry.RETRIED, "pending", "reports:generate"
        )

    job = await _job(database, claimed.claim.id)
    assert (job.status, job.attempt, job.max_attempts, job.completed_at) == ("pending", 1, 4, None)
    assert job.error_code == "DISK_FULL"
    assert job.run_at <= job.read_at
    async with database.transaction() as conn:
        (again,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
        assert (again.claim.attempt, again.claim.max_attempts) == (2, 4)
        assert await conn.fetchval("SELECT priority FROM queue") == 7
    assert (await _job(database, claimed.claim.id)).error_code is None


async def test_a_cancelled_job_that_never_ran_can_be_tried(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", job_id)
        assert (await retry_job(conn, "acme", job_id, 2)).outcome is Retry.RETRIED

    job = await _job(database, job_id)
    assert (job.status, job.attempt, job.max_attempts) == ("pending", 0, 2)


async def test_only_failed_and_cancelled_jobs_are_tried_again(database: Database) -> None:
    claimed = await _running(database)
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
    assert (await _job(database, job_id)).status == "pending"


async def test_a_job_of_another_organisation_is_not_found(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        assert await cancel_job(conn, "other", job_id) == CancelledJob(Cancellation.NOT_FOUND)
        assert await retry_job(conn, "other", job_id, 1) == RetriedJob(Retry.NOT_FOUND)
        assert await cancel_job(conn, "acme", new_id()) == CancelledJob(Cancellation.NOT_FOUND)

    assert (await _job(database, job_id)).status == "pending"


async def test_a_scheduled_job_runs_once_it_is_promoted(database: Database) -> None:
    async with database.connection() as conn:
        run_at = await conn.fetchval("SELECT now() + interval '1 hour'")
        worker_id = await new_worker(conn)
    (job_id,) = await created_jobs(database, sample_job(run_at=run_at))
    assert (await _job(database, job_id)).run_at == run_at
    assert await claimed_jobs(database, worker_id) == []

    async with database.connection() as conn:
        await make_due(conn)
        assert await promote(conn, limit=PLENTY) == ["reports:generate"]

    assert [claimed.claim.id for claimed in await claimed_jobs(database, worker_id)] == [job_id]


async def test_an_entry_whose_job_was_deleted_by_hand_does_not_stop_the_claims(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    stray, kept = await created_jobs(database, sample_job(), sample_job())
    async with database.connection() as conn:
        await conn.execute("DELETE FROM jobs WHERE job_id = $1", stray)
        worker_id = await new_worker(conn)

    with caplog.at_level(logging.ERROR):
        assert [claimed.claim.id for claimed in await claimed_jobs(database, worker_id)] == [kept]

    assert str(stray) in caplog.text
    async with database.connection() as conn:
        assert await disagreements(conn) == []


async def test_a_job_without_an_entry_cannot_be_cancelled_and_says_so(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.connection() as conn:
        await conn.execute("DELETE FROM queue")
        with pytest.raises(RuntimeError, match="no queue entry"):
            await cancel_job(conn, "acme", job_id)


async def test_nothing_to_do_is_fine(database: Database) -> None:
    async with database.transaction() as conn:
        assert await complete_jobs(conn, []) == set()
        assert await fail_jobs(conn, []) == {}
        assert await hand_back_jobs(conn, []) == {}
        assert await cancelled_jobs(conn, []) == set()
        assert await report_progress(conn, []) == set()
        assert await rescue_jobs(conn, limit=PLENTY) == []
        assert await complete_jobs(conn, [(Lease(new_id(), 1), None)]) == set()

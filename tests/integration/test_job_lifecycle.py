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
    ClaimedJob,
    JobFailure,
    ProgressReport,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    fail_jobs,
    hand_back_jobs,
    report_progress,
    rescue_jobs,
)
from millrace_database.jobs_repository import JobRecord
from millrace_queue import HandBack, Lease, Rescue, Settled, promote
from support.queue_samples import (
    PLENTY,
    SOON,
    blocked_by_others,
    claimed_jobs,
    created_jobs,
    disagreements,
    job_record,
    lose_heartbeat,
    make_due,
    new_worker,
    running_job,
    sample_failure,
    sample_job,
)


async def _worker_of(conn: asyncpg.Connection, claimed: ClaimedJob) -> UUID:
    worker_id: UUID = await conn.fetchval("SELECT worker_id FROM queue WHERE id = $1", claimed.claim.id)
    return worker_id


def _error(job: JobRecord) -> tuple[str | None, str | None, bool | None]:
    return job.error_code, job.error_message, job.error_retryable


async def test_a_claim_gives_the_handler_all_it_needs(database: Database) -> None:
    claimed = await running_job(database, sample_job(metadata_json='{"colour": "red"}'))

    assert (claimed.org_id, claimed.created_by, claimed.claim.attempt) == ("acme", "ann", 1)
    assert json.loads(claimed.input_json) == {"rows": 3}
    assert json.loads(claimed.metadata_json) == {"colour": "red"}
    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.attempt) == ("processing", 1)
    assert job.started_at is not None
    assert job.created_at <= job.started_at <= job.read_at


async def test_a_completed_job_keeps_its_output_and_has_no_entry(database: Database) -> None:
    claimed = await running_job(database)

    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(claimed.lease, '{"pages": 9}')]) == {claimed.claim.id}

    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.progress) == ("completed", 100)
    assert json.loads(job.output_json or "") == {"pages": 9}
    assert job.started_at is not None
    assert job.completed_at is not None
    assert job.started_at <= job.completed_at


async def test_an_output_is_not_needed(database: Database) -> None:
    claimed = await running_job(database)

    async with database.transaction() as conn:
        await complete_jobs(conn, [(claimed.lease, None)])

    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.output_json) == ("completed", None)


async def test_a_worker_that_lost_its_lease_changes_nothing(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await lose_heartbeat(conn, await _worker_of(conn, claimed))
        assert [entry.outcome for entry in await rescue_jobs(conn, limit=PLENTY)] == [Rescue.READY]
        new = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
    before = await job_record(database, claimed.claim.id)

    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(claimed.lease, "{}")]) == set()
        assert await cancelled_jobs(conn, [claimed.lease]) == set()
        assert await report_progress(conn, [ProgressReport(claimed.lease, 50)]) == set()
        assert await fail_jobs(conn, [sample_failure(claimed, None)]) == {claimed.claim.id: Settled.LOST}
        assert await hand_back_jobs(conn, [claimed.lease]) == {claimed.claim.id: HandBack.LOST}

    after = await job_record(database, claimed.claim.id)
    assert (after.status, after.attempt, after.version) == ("processing", 2, before.version)
    async with database.transaction() as conn:
        assert await complete_jobs(conn, [(new[0].lease, "{}")]) == {claimed.claim.id}


async def test_only_one_of_two_completions_counts(database: Database) -> None:
    claimed = await running_job(database)

    async def complete(output: str) -> bool:
        async with database.transaction() as conn:
            return bool(await complete_jobs(conn, [(claimed.lease, output)]))

    accepted = await asyncio.gather(*(complete(f'{{"number": {number}}}') for number in range(4)))

    assert sorted(accepted) == [False, False, False, True]
    job = await job_record(database, claimed.claim.id)
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
    claimed = await running_job(database)

    async with database.transaction() as conn:
        assert await fail_jobs(conn, [sample_failure(claimed, SOON)]) == {claimed.claim.id: Settled.RETRYING}
        failed_at = await conn.fetchval("SELECT now()")

    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.run_at, job.completed_at) == ("pending", failed_at + SOON, None)
    assert _error(job) == ("DISK_FULL", "No space left", True)

    async with database.transaction() as conn:
        await make_due(conn)
        await promote(conn, limit=PLENTY)
        (again,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
    assert again.claim.attempt == 2
    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.attempt) == ("processing", 2)
    assert _error(job) == (None, None, None)


@pytest.mark.parametrize(("max_attempts", "retry_delay"), [(1, SOON), (4, None)])
async def test_a_job_fails_for_good(
    database: Database, max_attempts: int, retry_delay: timedelta | None
) -> None:
    claimed = await running_job(database, sample_job(max_attempts=max_attempts))

    async with database.transaction() as conn:
        assert await fail_jobs(conn, [sample_failure(claimed, retry_delay)]) == {
            claimed.claim.id: Settled.FAILED
        }

    job = await job_record(database, claimed.claim.id)
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
        assert len(await fail_jobs(conn, [broken, sample_failure(second, None)])) == 2

    job = await job_record(database, first.claim.id)
    assert (job.message, job.error_message) == ("nul \ufffd", "nul \ufffd surrogate ?")


async def test_progress_leaves_alone_what_is_not_given(database: Database) -> None:
    claimed = await running_job(database)
    reports = [
        ProgressReport(claimed.lease, 10, "reading", total_items=200),
        ProgressReport(claimed.lease, 20),
        ProgressReport(claimed.lease, processed_items=50),
        ProgressReport(claimed.lease, message=""),
    ]

    for report in reports[:3]:
        async with database.transaction() as conn:
            assert await report_progress(conn, [report]) == {claimed.claim.id}
    job = await job_record(database, claimed.claim.id)
    assert (job.progress, job.message, job.processed_items, job.total_items) == (20, "reading", 50, 200)
    assert job.version == 5

    async with database.transaction() as conn:
        await report_progress(conn, reports[3:])
    assert (await job_record(database, claimed.claim.id)).message == ""


async def test_progress_starts_anew_with_each_attempt(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await report_progress(conn, [ProgressReport(claimed.lease, 80, "nearly", 10, 8)])
        await fail_jobs(conn, [sample_failure(claimed, timedelta())])
    assert (await job_record(database, claimed.claim.id)).progress == 80

    async with database.transaction() as conn:
        await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)

    job = await job_record(database, claimed.claim.id)
    assert (job.progress, job.message, job.processed_items, job.total_items) == (0, "", 0, 0)


async def test_a_job_handed_back_has_not_lost_an_attempt(database: Database) -> None:
    claimed = await running_job(database)

    async with database.transaction() as conn:
        assert await hand_back_jobs(conn, [claimed.lease]) == {claimed.claim.id: HandBack.READY}

    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.attempt, job.started_at) == ("pending", 0, None)


async def test_a_job_whose_workers_die_fails_as_worker_lost(database: Database) -> None:
    claimed = await running_job(database, sample_job(max_attempts=2))
    async with database.transaction() as conn:
        await lose_heartbeat(conn, await _worker_of(conn, claimed))
        await rescue_jobs(conn, limit=PLENTY)
    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.attempt, job.error_code) == ("pending", 1, "WORKER_LOST")

    async with database.transaction() as conn:
        dead = await new_worker(conn)
        await claim_jobs(conn, dead, {"reports:generate": 1}, 1)
        await lose_heartbeat(conn, dead)
        await rescue_jobs(conn, limit=PLENTY)

    job = await job_record(database, claimed.claim.id)
    assert (job.status, job.attempt, job.error_code) == ("failed", 2, "WORKER_LOST")
    assert job.completed_at is not None


async def test_progress_that_meets_a_completion_does_not_change_the_finished_job(database: Database) -> None:
    claimed = await running_job(database)
    async with database.connection() as worker:
        transaction = worker.transaction()
        await transaction.start()
        await complete_jobs(worker, [(claimed.lease, "{}")])
        async with blocked_by_others(
            database, lambda conn: report_progress(conn, [ProgressReport(claimed.lease, 40)])
        ) as reporting:
            await transaction.commit()
            assert await reporting == set()

    assert (await job_record(database, claimed.claim.id)).progress == 100


async def test_a_scheduled_job_runs_once_it_is_promoted(database: Database) -> None:
    async with database.connection() as conn:
        run_at = await conn.fetchval("SELECT now() + interval '1 hour'")
        worker_id = await new_worker(conn)
    (job_id,) = await created_jobs(database, sample_job(run_at=run_at))
    assert (await job_record(database, job_id)).run_at == run_at
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


async def test_nothing_to_do_is_fine(database: Database) -> None:
    async with database.transaction() as conn:
        assert await complete_jobs(conn, []) == set()
        assert await fail_jobs(conn, []) == {}
        assert await hand_back_jobs(conn, []) == {}
        assert await cancelled_jobs(conn, []) == set()
        assert await report_progress(conn, []) == set()
        assert await rescue_jobs(conn, limit=PLENTY) == []
        assert await complete_jobs(conn, [(Lease(new_id(), 1), None)]) == set()

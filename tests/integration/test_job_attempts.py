from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_attempts_repository import AttemptRecord, count_attempts, list_attempts
from millrace_database.job_lifecycle import (
    ClaimedJob,
    JobFailure,
    JobSnooze,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    fail_jobs,
    hand_back_jobs,
    lapse_jobs,
    record_lost_leases,
    rescue_jobs,
    snooze_jobs,
)
from millrace_queue import Lease, register_worker
from support.queue_samples import (
    LEASE,
    PLENTY,
    created_jobs,
    job_record,
    lose_heartbeat,
    running_job,
    sample_failure,
    sample_job,
)

_AT_ONCE = timedelta()


async def _worker(conn: asyncpg.Connection, name: str) -> UUID:
    worker_id = new_id()
    await register_worker(conn, worker_id, lease=LEASE, details={"name": name})
    return worker_id


async def _claimed(conn: asyncpg.Connection, worker_id: UUID) -> ClaimedJob:
    (job,) = await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
    return job


async def _attempts(conn: asyncpg.Connection, job_id: UUID) -> list[AttemptRecord]:
    return await list_attempts(conn, "acme", job_id, None, PLENTY)


def _told(attempts: Sequence[AttemptRecord]) -> list[tuple[int, str, str, str | None]]:
    return [
        (attempt.attempt, attempt.outcome, attempt.worker_name, attempt.error_code) for attempt in attempts
    ]


async def test_every_attempt_is_told_the_latest_first(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job(max_attempts=5))
    async with database.transaction() as conn:
        first, second = await _worker(conn, "host:1"), await _worker(conn, "host:2")
        await hand_back_jobs(conn, [(await _claimed(conn, first)).lease])
        await fail_jobs(conn, [sample_failure(await _claimed(conn, second), _AT_ONCE)])
        job = await _claimed(conn, first)
        late = JobFailure(job.lease, _AT_ONCE, "TIMEOUT", "Too long.", retryable=True, timed_out=True)
        await fail_jobs(conn, [late])
        snooze = JobSnooze((await _claimed(conn, first)).lease, _AT_ONCE, "Waiting for the file.")
        await snooze_jobs(conn, [snooze])
        await _claimed(conn, second)
        await lose_heartbeat(conn, second)
        await rescue_jobs(conn, limit=PLENTY)
        await lapse_jobs(conn, [(await _claimed(conn, first)).lease])
        last = await _claimed(conn, first)

    async with database.connection() as conn:
        running = await _attempts(conn, job_id)
        counts = await count_attempts(conn, "acme", job_id)
    assert _told(running) == [
        (5, "running", "host:1", None),
        (4, "lease_lost", "host:1", "WORKER_LOST"),
        (3, "worker_lost", "host:2", "WORKER_LOST"),
        (3, "snoozed", "host:1", "SNOOZED"),
        (2, "timed_out", "host:1", "TIMEOUT"),
        (1, "failed", "host:2", "DISK_FULL"),
        (1, "handed_back", "host:1", None),
    ]
    assert counts == {
        "lease_lost": 1,
        "worker_lost": 1,
        "snoozed": 1,
        "timed_out": 1,
        "failed": 1,
        "handed_back": 1,
    }
    assert running[3].error_message == "Waiting for the file."
    assert all(attempt.started_at and attempt.worker_id for attempt in running)
    assert [attempt.ended_at is None for attempt in running] == [True] + 6 * [False]

    async with database.transaction() as conn:
        await complete_jobs(conn, [(last.lease, "{}")])
    async with database.connection() as conn:
        (completed, *others) = await _attempts(conn, job_id)
    assert (completed.attempt, completed.outcome, completed.worker_name) == (5, "completed", "host:1")
    assert completed.ended_at is not None
    assert others == running[1:]


async def test_each_job_of_a_lost_worker_tells_its_name_however_many_there_are(database: Database) -> None:
    ids = await created_jobs(database, *(sample_job() for _ in range(3)))
    async with database.transaction() as conn:
        lost = await _worker(conn, "host:1")
        await claim_jobs(conn, lost, {"reports:generate": 3}, 3)
        await lose_heartbeat(conn, lost)
    for _ in range(3):
        async with database.transaction() as conn:
            assert len(await rescue_jobs(conn, limit=1)) == 1

    async with database.connection() as conn:
        names = [(await _attempts(conn, job_id))[0].worker_name for job_id in ids]
    assert names == ["host:1"] * 3


async def test_the_list_goes_on_behind_the_last_attempt_of_a_page(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job(max_attempts=9))
    async with database.transaction() as conn:
        worker_id = await _worker(conn, "host:1")
        for _ in range(4):
            await fail_jobs(conn, [sample_failure(await _claimed(conn, worker_id), _AT_ONCE)])
        last = await _claimed(conn, worker_id)
        (first_page,) = await list_attempts(conn, "acme", job_id, None, 1)
        # What was listed as running is not listed again as failed.
        await fail_jobs(conn, [sample_failure(last, _AT_ONCE)])
        pages = [[first_page]]
        while page := await list_attempts(conn, "acme", job_id, pages[-1][-1].position, 2):
            pages.append(page)

    assert [[attempt.attempt for attempt in page] for page in pages] == [[5], [4, 3], [2, 1]]


async def test_the_list_goes_on_behind_a_completed_attempt(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.transaction() as conn:
        worker_id = await _worker(conn, "host:1")
        await fail_jobs(conn, [sample_failure(await _claimed(conn, worker_id), _AT_ONCE)])
        await complete_jobs(conn, [((await _claimed(conn, worker_id)).lease, None)])
        (completed,) = await list_attempts(conn, "acme", job_id, None, 1)
        rest = await list_attempts(conn, "acme", job_id, completed.position, 1)

    assert [(attempt.attempt, attempt.outcome) for attempt in (completed, *rest)] == [
        (2, "completed"),
        (1, "failed"),
    ]


async def test_attempts_are_shown_to_the_organisation_of_their_job(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await fail_jobs(conn, [sample_failure(claimed, None)])

        assert await list_attempts(conn, "other", claimed.claim.id, None, PLENTY) == []
        assert await count_attempts(conn, "other", claimed.claim.id) == {}
        assert len(await list_attempts(conn, None, claimed.claim.id, None, PLENTY)) == 1
        assert await count_attempts(conn, None, claimed.claim.id) == {"failed": 1}


async def test_a_job_that_succeeds_at_once_leaves_no_record(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await complete_jobs(conn, [(claimed.lease, None)])

        assert await conn.fetchval("SELECT count(*) FROM job_attempts") == 0


async def test_a_hand_back_of_what_was_not_started_leaves_no_record(database: Database) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await hand_back_jobs(conn, [claimed.lease], unstarted={claimed.claim.id})

        assert await conn.fetchval("SELECT count(*) FROM job_attempts") == 0


async def test_the_attempts_of_a_cancelled_job_were_cancelled(database: Database) -> None:
    stopped, failing, snoozed = [await running_job(database) for _ in range(3)]
    async with database.transaction() as conn:
        for job in (stopped, failing, snoozed):
            await cancel_job(conn, "acme", job.claim.id)
        await cancelled_jobs(conn, [stopped.lease])
        await fail_jobs(conn, [sample_failure(failing, _AT_ONCE)])
        await snooze_jobs(conn, [JobSnooze(snoozed.lease, timedelta(hours=1))])

        rows = await conn.fetch("SELECT job_id, outcome, error_code FROM job_attempts")
        statuses = await conn.fetch("SELECT DISTINCT status FROM jobs")
    ids = {job.claim.id for job in (stopped, failing, snoozed)}
    assert {tuple(row) for row in rows} == {(id_, "cancelled", None) for id_ in ids}
    assert [row["status"] for row in statuses] == ["cancelled"]


async def test_a_worker_that_lives_says_that_its_lease_was_lost(database: Database) -> None:
    claimed, dead = await running_job(database), await running_job(database)
    async with database.transaction() as conn:
        await conn.execute("DELETE FROM queue_workers")
        # Nobody has taken it yet: it is to be said again.
        assert await record_lost_leases(conn, [claimed.lease]) == {claimed.lease}
        await rescue_jobs(conn, limit=PLENTY)
        assert await record_lost_leases(conn, [claimed.lease, Lease(new_id(), 1)]) == set()

        counts = [await count_attempts(conn, "acme", job.claim.id) for job in (claimed, dead)]
    assert counts == [{"lease_lost": 1}, {"worker_lost": 1}]


async def test_an_attempt_that_does_not_count_is_told_with_its_error(database: Database) -> None:
    claimed = await running_job(database, sample_job(max_attempts=1))
    failure = replace(sample_failure(claimed, timedelta(hours=1)), counts=False)
    async with database.transaction() as conn:
        await fail_jobs(conn, [failure])
        told = _told(await _attempts(conn, claimed.claim.id))

    job = await job_record(database, claimed.claim.id)
    assert told == [(1, "snoozed", told[0][2], "DISK_FULL")]
    assert (job.status, job.attempt, job.started_at, job.error_code) == ("pending", 0, None, "DISK_FULL")


async def test_a_job_that_kills_its_workers_ends_whatever_does_not_count_in_between(
    database: Database,
) -> None:
    (job_id,) = await created_jobs(database, sample_job(max_attempts=3))
    async with database.transaction() as conn:
        worker_id = await _worker(conn, "host:1")
        for _ in range(3):
            await lapse_jobs(conn, [(await _claimed(conn, worker_id)).lease])
            for claimed in await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1):
                await fail_jobs(conn, [replace(sample_failure(claimed, _AT_ONCE), counts=False)])
        counts = await count_attempts(conn, None, job_id)

    job = await job_record(database, job_id)
    assert (job.status, job.attempt, job.error_code) == ("failed", 3, "WORKER_LOST")
    assert counts == {"lease_lost": 3, "snoozed": 2}


async def test_a_job_that_is_to_be_cancelled_is_so_when_an_attempt_does_not_count(
    database: Database,
) -> None:
    claimed = await running_job(database)
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", claimed.claim.id)
        await fail_jobs(conn, [replace(sample_failure(claimed, _AT_ONCE), counts=False)])
        counts = await count_attempts(conn, None, claimed.claim.id)

    assert (await job_record(database, claimed.claim.id)).status == "cancelled"
    assert counts == {"cancelled": 1}


@pytest.mark.parametrize("delay", [_AT_ONCE, timedelta(hours=1)])
async def test_a_snoozed_job_waits_without_losing_an_attempt(database: Database, delay: timedelta) -> None:
    claimed = await running_job(database, sample_job(max_attempts=1))
    async with database.transaction() as conn:
        await snooze_jobs(conn, [JobSnooze(claimed.lease, delay, "Not yet.")])
        row = await conn.fetchrow("SELECT *, run_at - now() AS waits FROM jobs")
        assert row is not None
        entry = await conn.fetchrow("SELECT state, attempt FROM queue")
        again = await claim_jobs(conn, await _worker(conn, "host:1"), {"reports:generate": 1}, 1)

    assert (row["status"], row["attempt"], row["message"]) == ("pending", 0, "Not yet.")
    assert row["waits"] == delay
    assert tuple(entry or ()) == ("scheduled" if delay else "ready", 0)
    assert [job.claim.attempt for job in again] == ([] if delay else [1])

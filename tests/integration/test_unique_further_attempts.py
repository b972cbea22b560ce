"""Jobs of which one may wait for its first attempt, one for a further attempt, and one may run."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    ClaimedJob,
    claim_jobs,
    complete_jobs,
    create_jobs,
    fail_jobs,
    hand_back_jobs,
    rescue_jobs,
)
from millrace_queue import Settled
from support.queue_samples import (
    PLENTY,
    blocked_by_others,
    disagreements,
    job_record,
    new_worker,
    sample_failure,
)
from support.unique_jobs import unique_job

_LATER = timedelta(hours=1)


async def _running(conn: asyncpg.Connection, key: str, count: int = 1) -> list[ClaimedJob]:
    """So many jobs with the same key that run.

    The concurrency key that comes with a unique one lets only one of them run; here all may.
    """
    worker_id = await new_worker(conn)
    jobs = []
    for _ in range(count):
        await create_jobs(conn, [unique_job(key, states="each")])
        await conn.execute("UPDATE queue SET concurrency_limit = 9")
        jobs += await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
    assert len(jobs) == count
    return jobs


async def _slots(conn: asyncpg.Connection) -> dict[UUID, str | None]:
    assert await disagreements(conn) == []
    return {row["id"]: row["unique_slot"] for row in await conn.fetch("SELECT id, unique_slot FROM queue")}


async def test_an_attempt_that_does_not_count_takes_the_place_too(database: Database) -> None:
    async with database.transaction() as conn:
        first, second = await _running(conn, "k", 2)
        await fail_jobs(conn, [replace(sample_failure(first, _LATER), counts=False)])
        settled = await fail_jobs(conn, [replace(sample_failure(second, _LATER), counts=False)])

        assert settled == {second.claim.id: Settled.KEY_TAKEN}
        assert await _slots(conn) == {first.claim.id: "retry"}
    assert (await job_record(database, second.claim.id)).attempt == 1


async def test_the_second_one_that_fails_does_so_for_good(database: Database) -> None:
    async with database.transaction() as conn:
        first, second, other = [*await _running(conn, "k", 2), *await _running(conn, "l")]
        await fail_jobs(conn, [sample_failure(first, _LATER)])
        settled = await fail_jobs(conn, [sample_failure(job, _LATER) for job in (second, other)])

        assert settled == {second.claim.id: Settled.KEY_TAKEN, other.claim.id: Settled.RETRYING}
        assert await _slots(conn) == {first.claim.id: "retry", other.claim.id: "retry"}
        attempt = await conn.fetchrow(
            "SELECT outcome, error_code FROM job_attempts WHERE job_id = $1", second.claim.id
        )
    assert tuple(attempt or ()) == ("failed", "DISK_FULL")
    job = await job_record(database, second.claim.id)
    assert (job.status, job.error_code, job.error_retryable) == ("failed", "UNIQUE_CONFLICT", True)
    assert job.error_message is not None
    assert "DISK_FULL: No space left" in job.error_message


async def test_of_those_that_fail_together_one_is_tried_again(database: Database) -> None:
    async with database.transaction() as conn:
        jobs = await _running(conn, "k", 3)
        settled = await fail_jobs(conn, [sample_failure(job, _LATER) for job in reversed(jobs)])

        ids = [job.claim.id for job in jobs]
        assert [settled[id_] for id_ in ids] == [Settled.RETRYING, Settled.KEY_TAKEN, Settled.KEY_TAKEN]
        assert await _slots(conn) == {ids[0]: "retry"}


async def test_the_place_is_free_again_once_the_attempt_has_begun(database: Database) -> None:
    async with database.transaction() as conn:
        first, second = await _running(conn, "k", 2)
        await fail_jobs(conn, [sample_failure(first, timedelta())])
        (again,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
        settled = await fail_jobs(conn, [sample_failure(second, _LATER)])

        assert settled == {second.claim.id: Settled.RETRYING}
        assert await complete_jobs(conn, [(again.lease, None)])


async def test_a_lost_attempt_takes_the_place_as_well(database: Database) -> None:
    async with database.transaction() as conn:
        jobs = await _running(conn, "k", 2)
        await conn.execute("DELETE FROM queue_workers")
        rescued = await rescue_jobs(conn, limit=PLENTY)

        outcomes = {entry.id: entry.outcome.value for entry in rescued}
        assert [outcomes[job.claim.id] for job in jobs] == ["ready", "key taken"]
        assert await _slots(conn) == {jobs[0].claim.id: "retry"}


async def test_a_hand_back_takes_no_place(database: Database) -> None:
    async with database.transaction() as conn:
        first, second = await _running(conn, "k", 2)
        await hand_back_jobs(conn, [first.lease, second.lease])

        assert await _slots(conn) == {first.claim.id: None, second.claim.id: None}


@pytest.mark.parametrize("commits", [True, False])
async def test_a_place_that_another_transaction_takes_is_waited_for(
    database: Database, commits: bool
) -> None:
    async with database.transaction() as conn:
        first, second, third = await _running(conn, "k", 3)
        (other,) = await _running(conn, "l")
    async with database.connection() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await fail_jobs(holder, [sample_failure(first, _LATER)])

        failures = [sample_failure(job, _LATER) for job in (second, third, other)]
        async with blocked_by_others(database, lambda conn: fail_jobs(conn, failures)) as task:
            await (transaction.commit() if commits else transaction.rollback())
        settled = task.result()

    ids = [job.claim.id for job in (second, third, other)]
    place = Settled.KEY_TAKEN if commits else Settled.RETRYING
    assert [settled[id_] for id_ in ids] == [place, Settled.KEY_TAKEN, Settled.RETRYING]
    async with database.connection() as conn:
        slots = await _slots(conn)
    holders = {first.claim.id: "retry"} if commits else {first.claim.id: None, second.claim.id: "retry"}
    assert slots == {**holders, other.claim.id: "retry"}

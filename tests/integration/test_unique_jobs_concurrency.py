"""Unique keys when creations, claims and ends of jobs meet: every interleaving of two transactions."""

import asyncio
import random
from datetime import timedelta
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    CreatedJob,
    JobFailure,
    Retry,
    cancel_job,
    claim_jobs,
    complete_jobs,
    create_jobs,
    fail_jobs,
    retry_job,
)
from millrace_database.job_options import UniqueConflict
from support.queue_samples import blocked_by_others, disagreements, job_record, new_worker, sample_job
from support.unique_jobs import claim_all, counts, create, create_one, existing, replaced, taken, unique_job

_WINDOW = timedelta(hours=1)


@pytest.fixture(autouse=True)
async def _known_line(database: Database) -> None:
    """The first job ever of a type and priority is waited for; that is not what is tested here."""
    async with database.connection() as conn:
        await conn.execute("INSERT INTO queue_lines (type, priority) VALUES ('reports:generate', 0)")


@pytest.mark.parametrize("window", [None, _WINDOW])
@pytest.mark.parametrize("on_conflict", ["reject", "return_existing"])
async def test_a_creation_waits_for_the_one_before_it_and_finds_its_job(
    database: Database, on_conflict: UniqueConflict, window: timedelta | None
) -> None:
    first = unique_job(window=window)
    second = unique_job(window=window, on_conflict=on_conflict)
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [first])
        async with blocked_by_others(database, lambda other: create_jobs(other, [second])) as creating:
            await transaction.commit()
            outcome = taken if on_conflict == "reject" else existing
            assert await creating == [outcome(first.job_id)]
        assert await counts(conn) == (1, 1)
        assert await disagreements(conn) == []


@pytest.mark.parametrize("window", [None, _WINDOW])
async def test_a_creation_takes_place_when_the_one_before_it_rolls_back(
    database: Database, window: timedelta | None
) -> None:
    first, second = unique_job(window=window), unique_job(window=window)
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [first])
        async with blocked_by_others(database, lambda other: create_jobs(other, [second])) as creating:
            await transaction.rollback()
            assert await creating == [CreatedJob(second.job_id)]
        assert await counts(conn) == (1, 1)


async def test_a_job_that_ran_while_a_creation_waited_for_it_is_not_replaced(database: Database) -> None:
    first, second = unique_job(), unique_job(on_conflict="replace", input_json='{"rows": 9}')
    await create_one(database, first)
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        transaction = conn.transaction()
        await transaction.start()
        (claimed,) = await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
        failure = JobFailure(claimed.lease, _WINDOW, "AWAY", "", retryable=True, counts=False)
        await fail_jobs(conn, [failure])
        async with blocked_by_others(database, lambda other: create_jobs(other, [second])) as creating:
            await transaction.commit()
            assert await creating == [taken(first.job_id)]
        assert await disagreements(conn) == []
    record = await job_record(database, first.job_id)
    assert (record.input_json, record.error_code) == ('{"rows": 3}', "AWAY")


async def test_a_creation_waits_for_the_one_before_it_and_replaces_its_job(database: Database) -> None:
    first, second = unique_job(), unique_job(on_conflict="replace", input_json='{"rows": 9}')
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [first])
        async with blocked_by_others(database, lambda other: create_jobs(other, [second])) as creating:
            await transaction.commit()
            assert await creating == [replaced(first.job_id)]
    assert (await job_record(database, first.job_id)).input_json == '{"rows": 9}'


async def test_a_creation_waits_for_the_end_of_the_job_that_has_its_key(database: Database) -> None:
    holder = await create_one(database, unique_job())
    newer = unique_job()
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await cancel_job(conn, "acme", holder.job_id)
        # Until the cancellation is committed the job has its key.
        assert await create_one(database, newer) == taken(holder.job_id)
        await transaction.commit()
        assert await create_one(database, newer) == CreatedJob(newer.job_id)


async def test_a_claim_that_comes_first_is_not_undone_by_a_replacement(database: Database) -> None:
    holder = await create_one(database, unique_job())
    newer = unique_job(on_conflict="replace", input_json='{"rows": 9}')
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        transaction = conn.transaction()
        await transaction.start()
        assert len(await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)) == 1
        async with blocked_by_others(database, lambda other: create_jobs(other, [newer])) as creating:
            await transaction.commit()
            assert await creating == [taken(holder.job_id)]
    record = await job_record(database, holder.job_id)
    assert (record.status, record.input_json) == ("processing", '{"rows": 3}')


async def test_a_claim_that_rolls_back_lets_a_replacement_happen(database: Database) -> None:
    holder = await create_one(database, unique_job())
    newer = unique_job(on_conflict="replace", input_json='{"rows": 9}')
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        transaction = conn.transaction()
        await transaction.start()
        await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
        async with blocked_by_others(database, lambda other: create_jobs(other, [newer])) as creating:
            await transaction.rollback()
            assert await creating == [replaced(holder.job_id)]
    assert (await job_record(database, holder.job_id)).input_json == '{"rows": 9}'


async def test_of_a_debounced_job_that_is_just_claimed_a_second_one_is_made(database: Database) -> None:
    holder = await create_one(database, unique_job(states="waiting"))
    newer = unique_job(states="waiting", on_conflict="replace")
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        transaction = conn.transaction()
        await transaction.start()
        await claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
        async with blocked_by_others(database, lambda other: create_jobs(other, [newer])) as creating:
            await transaction.commit()
            assert await creating == [CreatedJob(newer.job_id)]
    assert (await job_record(database, holder.job_id)).status == "processing"


async def test_a_job_that_ends_while_it_is_to_be_replaced_makes_room(database: Database) -> None:
    holder = await create_one(database, unique_job())
    newer = unique_job(on_conflict="replace")
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await cancel_job(conn, "acme", holder.job_id)
        async with blocked_by_others(database, lambda other: create_jobs(other, [newer])) as creating:
            await transaction.commit()
            assert await creating == [CreatedJob(newer.job_id)]
    assert (await job_record(database, holder.job_id)).status == "cancelled"


async def test_a_claim_passes_over_a_job_that_is_being_replaced(database: Database) -> None:
    holder = await create_one(database, unique_job())
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [unique_job(on_conflict="replace", input_json='{"rows": 9}')])
        assert await claim_all(database, worker_id) == []
        await transaction.commit()
    (claimed,) = await claim_all(database, worker_id)
    assert (claimed.claim.id, claimed.input_json) == (holder.job_id, '{"rows": 9}')


async def test_a_cancellation_waits_for_a_replacement(database: Database) -> None:
    holder = await create_one(database, unique_job())
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [unique_job(on_conflict="replace")])
        async with blocked_by_others(
            database, lambda other: cancel_job(other, "acme", holder.job_id)
        ) as cancelling:
            await transaction.commit()
            assert (await cancelling).status == "cancelled"
    assert (await job_record(database, holder.job_id)).status == "cancelled"


async def test_a_retry_waits_for_the_creation_that_takes_its_key(database: Database) -> None:
    first = await create_one(database, unique_job())
    for commits, outcome in ((False, Retry.RETRIED), (True, Retry.KEY_TAKEN)):
        async with database.transaction() as conn:
            await cancel_job(conn, "acme", first.job_id)
        async with database.connection() as conn:
            transaction = conn.transaction()
            await transaction.start()
            second = unique_job()
            await create_jobs(conn, [second])
            async with blocked_by_others(
                database, lambda other: retry_job(other, "acme", first.job_id, 1)
            ) as retrying:
                await (transaction.commit() if commits else transaction.rollback())
                retried = await retrying
        assert (retried.outcome, retried.holder_id) == (outcome, second.job_id if commits else None)


@pytest.mark.parametrize("window", [None, _WINDOW])
async def test_keys_that_meet_in_opposite_orders_do_not_deadlock(
    database: Database, window: timedelta | None
) -> None:
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        (low,) = await create_jobs(conn, [unique_job("k1", window=window)])
        batch = [unique_job("k2", window=window), unique_job("k1", window=window)]
        async with blocked_by_others(database, lambda other: create_jobs(other, batch)) as creating:
            (high,) = await create_jobs(conn, [unique_job("k2", window=window)])
            await transaction.commit()
            assert await creating == [taken(high.job_id), taken(low.job_id)]
        assert await counts(conn) == (2, 2)


async def test_a_request_id_and_a_key_in_two_batches_do_not_deadlock(database: Database) -> None:
    """The one that waits for a request id has no key yet that the other one could wait for."""
    first = [unique_job("k1", request_id="r1"), unique_job("k2", request_id="r2")]
    second = [unique_job("k2", request_id="r3"), unique_job("k3", request_id="r1")]
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [first[0]])
        async with blocked_by_others(database, lambda other: create_jobs(other, second)) as creating:
            await create_jobs(conn, [first[1]])
            await transaction.commit()
            # Its own key is another: the request id says so.
            assert await creating == [taken(first[1].job_id), existing(first[0].job_id)]


async def test_a_replacement_comes_after_all_that_a_batch_may_wait_for(database: Database) -> None:
    holder = await create_one(database, unique_job("k"))
    replacing = unique_job("k", on_conflict="replace")
    batch = [replacing, sample_job(request_id="r")]
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        (repeated,) = await create_jobs(conn, [sample_job(request_id="r")])
        async with blocked_by_others(database, lambda other: create_jobs(other, batch)) as creating:
            assert await create_jobs(conn, [unique_job("k", on_conflict="replace")]) == [
                replaced(holder.job_id)
            ]
            await transaction.commit()
            assert await creating == [replaced(holder.job_id), existing(repeated.job_id)]


async def test_many_batches_with_the_same_keys_make_one_job_of_each(database: Database) -> None:
    keys = [f"k{number}" for number in range(40)]

    async def batch(seed: int) -> list[CreatedJob]:
        chance = random.Random(seed)  # noqa: S311 - a repeatable choice
        jobs = [
            unique_job(
                key,
                on_conflict=chance.choice(["reject", "return_existing"]),
                request_id=f"{key}-{chance.randrange(3)}",
            )
            for key in chance.sample(keys, len(keys))
        ]
        return await create(database, *jobs)

    results = await asyncio.gather(*(batch(seed) for seed in range(8)))

    made = {result.job_id for results_ in results for result in results_}
    assert len(made) == len(keys)
    async with database.connection() as conn:
        assert await counts(conn) == (len(keys), len(keys))
        assert await disagreements(conn) == []


async def test_creations_claims_and_ends_at_once_never_leave_two_of_a_key(database: Database) -> None:
    async with database.connection() as conn:
        workers = [await new_worker(conn) for _ in range(2)]
    stopped = asyncio.Event()
    done: list[UUID] = []

    async def work(worker_id: UUID) -> None:
        while not stopped.is_set() or (await _left(database)):
            claimed = await claim_all(database, worker_id, limit=3)
            async with database.transaction() as conn:
                done.extend(await complete_jobs(conn, [(job.lease, None) for job in claimed]))
            await asyncio.sleep(0)

    async def call(seed: int) -> list[CreatedJob]:
        chance = random.Random(seed)  # noqa: S311 - a repeatable choice
        results = []
        for _ in range(30):
            job = unique_job(
                f"k{chance.randrange(4)}",
                states=chance.choice(["unfinished", "waiting"]),
                on_conflict=chance.choice(["reject", "return_existing", "replace"]),
            )
            results.append(await create_one(database, job))
        return results

    async with asyncio.TaskGroup() as tasks:
        for worker_id in workers:
            tasks.create_task(work(worker_id))
        results = await asyncio.gather(*(call(seed) for seed in range(4)))
        stopped.set()

    made = {result.job_id for results_ in results for result in results_ if not result.already_existed}
    assert set(done) == made
    assert len(done) == len(made)
    async with database.connection() as conn:
        assert await disagreements(conn) == []


async def _left(database: Database) -> bool:
    async with database.connection() as conn:
        return (await counts(conn))[1] > 0


async def test_jobs_without_a_key_never_wait_for_one_with_a_key(database: Database) -> None:
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [unique_job()])
        plain = sample_job()
        assert await create_one(database, plain) == CreatedJob(plain.job_id)
        await transaction.rollback()

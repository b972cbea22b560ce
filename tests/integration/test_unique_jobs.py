"""Unique keys of jobs: what excludes what, and what becomes of the one that comes second."""

from datetime import timedelta
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    CreatedJob,
    JobFailure,
    JobSnooze,
    NewJob,
    RetriedJob,
    Retry,
    cancel_job,
    complete_jobs,
    create_jobs,
    fail_jobs,
    hand_back_jobs,
    retry_job,
    snooze_jobs,
)
from millrace_database.job_options import ConcurrencyRule, JobOptions, UniqueConflict, UniqueStates
from support.queue_samples import disagreements, job_record, new_worker, sample_job
from support.unique_jobs import claim_all, counts, create, create_one, existing, replaced, taken, unique_job


async def _worker(database: Database) -> UUID:
    async with database.connection() as conn:
        return await new_worker(conn)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (unique_job("a"), unique_job("b")),
        (unique_job(org_id="acme"), unique_job(org_id="umbrella")),
        (unique_job(type="a"), unique_job(type="b")),
        (unique_job(scope="organisation"), unique_job(scope="organisation_and_type")),
        (
            unique_job(scope="organisation", org_id="acme"),
            unique_job(scope="organisation", org_id="umbrella"),
        ),
        (unique_job(scope="type", type="a"), unique_job(scope="type", type="b")),
        (unique_job('k"', org_id="o", type="t"), unique_job("k", org_id='o"', type="t")),
        (unique_job('b", "k', org_id="o", type="a"), unique_job("k", org_id="o", type='a", "b')),
    ],
)
async def test_keys_of_different_scopes_do_not_meet(
    database: Database, first: NewJob, second: NewJob
) -> None:
    assert await create(database, first, second) == [CreatedJob(first.job_id), CreatedJob(second.job_id)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (unique_job(), unique_job()),
        (unique_job(scope="organisation", type="a"), unique_job(scope="organisation", type="b")),
        (unique_job(scope="type", org_id="acme"), unique_job(scope="type", org_id="umbrella")),
        (unique_job("k" * 256, type="t" * 128), unique_job("k" * 256, type="t" * 128)),
        (unique_job("\x01" * 256, type="\x01" * 128), unique_job("\x01" * 256, type="\x01" * 128)),
        (unique_job(states="each"), unique_job(states="waiting")),
    ],
)
async def test_keys_of_the_same_scope_meet(database: Database, first: NewJob, second: NewJob) -> None:
    assert await create(database, first) == [CreatedJob(first.job_id)]
    assert await create(database, second) == [taken(first.job_id)]
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)


async def test_an_unfinished_job_excludes_until_it_ends(database: Database) -> None:
    worker_id = await _worker(database)
    holder = await create_one(database, unique_job())
    (claimed,) = await claim_all(database, worker_id)
    assert await create_one(database, unique_job()) == taken(holder.job_id)

    async with database.transaction() as conn:
        retry_later = JobFailure(claimed.lease, timedelta(hours=1), "BROKEN", "It broke.", retryable=True)
        await fail_jobs(conn, [retry_later])
    assert await create_one(database, unique_job()) == taken(holder.job_id)

    async with database.transaction() as conn:
        await cancel_job(conn, "acme", holder.job_id)
    again = unique_job()
    assert await create_one(database, again) == CreatedJob(again.job_id)


@pytest.mark.parametrize("states", ["waiting", "each"])
async def test_a_waiting_job_excludes_until_it_is_claimed(database: Database, states: UniqueStates) -> None:
    worker_id = await _worker(database)
    holder = await create_one(database, unique_job(states=states))
    assert await create_one(database, unique_job(states=states)) == taken(holder.job_id)

    (claimed,) = await claim_all(database, worker_id)
    second = unique_job(states=states)
    assert await create_one(database, second) == CreatedJob(second.job_id)

    async with database.transaction() as conn:
        await hand_back_jobs(conn, [claimed.lease])
    assert await create_one(database, unique_job(states=states)) == taken(second.job_id)


async def test_a_running_state_refuses_nobody(database: Database) -> None:
    jobs = [unique_job(states="running") for _ in range(3)]

    assert await create(database, *jobs) == [CreatedJob(job.job_id) for job in jobs]


async def test_keys_that_let_one_run_cannot_meet_a_caller_s_own(database: Database) -> None:
    own = sample_job(options=JobOptions(concurrency=ConcurrencyRule("k")))
    await create(database, own, unique_job("k", states="running"))

    async with database.connection() as conn:
        keys = {row[0] for row in await conn.fetch("SELECT concurrency_key FROM queue")}
    assert keys == {"k", "millrace:unique:k"}


async def test_a_repeated_request_finds_its_own_job_first(database: Database) -> None:
    worker_id = await _worker(database)
    first = await create_one(database, unique_job(request_id="r"))
    (claimed,) = await claim_all(database, worker_id)
    async with database.transaction() as conn:
        await complete_jobs(conn, [(claimed.lease, None)])
    second = await create_one(database, unique_job(request_id="s"))
    assert second.job_id != first.job_id

    assert await create_one(database, unique_job(request_id="r")) == existing(first.job_id)
    assert await create_one(database, unique_job(request_id="s")) == existing(second.job_id)
    assert await create_one(database, unique_job(request_id="t")) == taken(second.job_id)


async def test_the_existing_job_is_returned_unchanged(database: Database) -> None:
    holder = await create_one(database, unique_job(input_json='{"rows": 1}'))

    found = await create_one(database, unique_job(on_conflict="return_existing", input_json='{"rows": 2}'))

    assert found == existing(holder.job_id)
    assert (await job_record(database, holder.job_id)).input_json == '{"rows": 1}'


@pytest.mark.parametrize("on_conflict", ["return_existing", "replace"])
async def test_another_organisation_s_job_is_neither_returned_nor_replaced(
    database: Database, on_conflict: UniqueConflict
) -> None:
    theirs = await create_one(database, unique_job(scope="type", org_id="umbrella"))

    assert await create_one(database, unique_job(scope="type", on_conflict=on_conflict)) == taken(
        theirs.job_id
    )


async def test_a_job_of_another_type_is_not_replaced(database: Database) -> None:
    holder = await create_one(database, unique_job(scope="organisation", type="a"))
    other = unique_job(scope="organisation", type="b", on_conflict="replace")

    assert await create_one(database, other) == taken(holder.job_id)


async def test_a_waiting_job_is_given_what_the_new_one_asks_for(database: Database) -> None:
    holder = await create_one(
        database, unique_job(states="waiting", request_id="r1", input_json='{"rows": 1}', priority=3)
    )
    before = await job_record(database, holder.job_id)
    async with database.connection() as conn:
        now = await conn.fetchval("SELECT now()")
    options = JobOptions(
        deadline=now + timedelta(days=2), concurrency=ConcurrencyRule("c", 5), timeout=timedelta(minutes=1)
    )
    newer = unique_job(
        states="waiting",
        on_conflict="replace",
        request_id="r2",
        input_json='{"rows": 2}',
        metadata_json='{"by": "bob"}',
        created_by="bob",
        priority=-4,
        max_attempts=9,
        run_at=now + timedelta(days=1),
        options=options,
    )

    assert await create_one(database, newer) == replaced(holder.job_id)

    record = await job_record(database, holder.job_id)
    assert (record.input_json, record.metadata_json) == ('{"rows": 2}', '{"by": "bob"}')
    assert (record.priority, record.max_attempts, record.run_at) == (-4, 9, newer.run_at)
    assert newer.options is not None
    assert JobOptions.from_json(record.options_json) == newer.options
    assert (record.created_at, record.created_by, record.version) == (before.created_at, "ann", 2)
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)
        (entry,) = await conn.fetch("SELECT * FROM queue")
    assert (entry["state"], entry["priority"], entry["max_attempts"]) == ("scheduled", -4, 9)
    assert (entry["run_at"], entry["expires_at"]) == (newer.run_at, options.deadline)
    assert (entry["concurrency_key"], entry["concurrency_limit"]) == ("c", 5)
    # The request that it was replaced by is remembered, and the one before it forgotten.
    assert await create_one(database, newer) == existing(holder.job_id)
    assert await create_one(database, unique_job(states="waiting", request_id="r1")) == taken(holder.job_id)


async def test_a_replaced_job_is_served_as_if_it_came_in_now(database: Database) -> None:
    worker_id = await _worker(database)
    debounced = await create_one(database, unique_job(on_conflict="replace", delay=timedelta(hours=1)))
    others = [await create_one(database, sample_job()) for _ in range(3)]
    assert await create_one(database, unique_job(on_conflict="replace")) == replaced(debounced.job_id)

    claimed = await claim_all(database, worker_id)

    assert [job.claim.id for job in claimed] == [job.job_id for job in [*others, debounced]]


async def test_a_job_that_was_replaced_first_stands_behind_those_that_waited(database: Database) -> None:
    worker_id = await _worker(database)
    debounced = await create_one(database, unique_job(on_conflict="replace"))
    others = [await create_one(database, sample_job()) for _ in range(2)]
    await create_one(database, unique_job(on_conflict="replace"))

    claimed = await claim_all(database, worker_id)

    assert [job.claim.id for job in claimed] == [job.job_id for job in [*others, debounced]]


async def test_a_replaced_job_can_wait_at_a_priority_that_nobody_used(database: Database) -> None:
    worker_id = await _worker(database)
    holder = await create_one(database, unique_job())
    await create_one(database, unique_job(on_conflict="replace", priority=77))

    (claimed,) = await claim_all(database, worker_id)

    assert (claimed.claim.id, claimed.claim.priority) == (holder.job_id, 77)


async def test_a_job_that_has_been_started_is_not_replaced(database: Database) -> None:
    worker_id = await _worker(database)
    holder = await create_one(database, unique_job())
    (claimed,) = await claim_all(database, worker_id)
    assert await create_one(database, unique_job(on_conflict="replace")) == taken(holder.job_id)

    async with database.transaction() as conn:
        await fail_jobs(conn, [JobFailure(claimed.lease, timedelta(0), "BROKEN", "", retryable=True)])
    assert await create_one(database, unique_job(on_conflict="replace")) == taken(holder.job_id)


@pytest.mark.parametrize("given_back", ["handed back", "snoozed", "failed without counting"])
async def test_a_job_that_has_been_started_is_not_replaced_even_if_that_does_not_count(
    database: Database, given_back: str
) -> None:
    worker_id = await _worker(database)
    holder = await create_one(database, unique_job())
    (claimed,) = await claim_all(database, worker_id)
    async with database.transaction() as conn:
        match given_back:
            case "handed back":
                await hand_back_jobs(conn, [claimed.lease])
            case "snoozed":
                await snooze_jobs(conn, [JobSnooze(claimed.lease, timedelta(hours=1))])
            case _:
                failure = JobFailure(claimed.lease, timedelta(hours=1), "AWAY", "", True, counts=False)
                await fail_jobs(conn, [failure])

    newer = unique_job(on_conflict="replace", input_json='{"rows": 2}')
    assert await create_one(database, newer) == taken(holder.job_id)
    record = await job_record(database, holder.job_id)
    assert (record.input_json, record.attempt) == ('{"rows": 3}', 0)


async def test_a_job_that_was_claimed_and_not_started_is_replaced(database: Database) -> None:
    worker_id = await _worker(database)
    holder = await create_one(database, unique_job())
    (claimed,) = await claim_all(database, worker_id)
    async with database.transaction() as conn:
        await hand_back_jobs(conn, [claimed.lease], unstarted={claimed.claim.id})

    assert await create_one(database, unique_job(on_conflict="replace")) == replaced(holder.job_id)


async def test_in_a_batch_the_first_of_a_key_wins(database: Database) -> None:
    plain = sample_job()
    jobs = [
        unique_job("a"),
        unique_job("b"),
        plain,
        unique_job("a", on_conflict="return_existing"),
        unique_job("a"),
        unique_job("b", on_conflict="replace", input_json='{"rows": 8}'),
        unique_job("b", on_conflict="replace", input_json='{"rows": 9}'),
        unique_job("c", on_conflict="replace"),
    ]
    a, b, c = jobs[0].job_id, jobs[1].job_id, jobs[7].job_id

    created = await create(database, *jobs)

    assert created == [
        CreatedJob(a),
        CreatedJob(b),
        CreatedJob(plain.job_id),
        existing(a),
        taken(a),
        replaced(b),
        replaced(b),
        CreatedJob(c),
    ]
    assert (await job_record(database, b)).input_json == '{"rows": 9}'


async def test_in_a_batch_a_request_id_comes_before_a_key(database: Database) -> None:
    plain, keyed = sample_job(request_id="r"), unique_job(request_id="r")
    other = unique_job()

    assert await create(database, plain, keyed, other) == [
        CreatedJob(plain.job_id),
        existing(plain.job_id),
        CreatedJob(other.job_id),
    ]


async def test_a_retried_job_takes_its_key_again(database: Database) -> None:
    first = await create_one(database, unique_job())
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", first.job_id)
        assert (await retry_job(conn, "acme", first.job_id, 1)).outcome is Retry.RETRIED
    assert await create_one(database, unique_job()) == taken(first.job_id)


async def test_a_job_whose_key_is_taken_meanwhile_is_not_retried(database: Database) -> None:
    first = await create_one(database, unique_job())
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", first.job_id)
    second = await create_one(database, unique_job())

    async with database.transaction() as conn:
        assert await retry_job(conn, "acme", first.job_id, 1) == RetriedJob(
            Retry.KEY_TAKEN, "cancelled", "reports:generate", second.job_id
        )
        assert await disagreements(conn) == []
    assert (await job_record(database, first.job_id)).status == "cancelled"


async def test_a_retried_job_that_ran_before_does_not_wait_for_its_first_attempt(database: Database) -> None:
    worker_id = await _worker(database)
    first = await create_one(database, unique_job(states="waiting"))
    (claimed,) = await claim_all(database, worker_id)
    async with database.transaction() as conn:
        await fail_jobs(conn, [JobFailure(claimed.lease, None, "BROKEN", "", retryable=False)])
    second = await create_one(database, unique_job(states="waiting"))

    async with database.transaction() as conn:
        assert (await retry_job(conn, "acme", first.job_id, 1)).outcome is Retry.RETRIED
    assert await create_one(database, unique_job(states="waiting")) == taken(second.job_id)


async def test_a_delay_counts_from_the_database_s_now(database: Database) -> None:
    async with database.transaction() as conn:
        now = await conn.fetchval("SELECT now()")
        jobs = [sample_job(delay=timedelta(hours=2)), unique_job(delay=timedelta(hours=3))]
        created = await create_jobs(conn, jobs)
        newer = unique_job(delay=timedelta(hours=5), on_conflict="replace")
        assert await create_jobs(conn, [newer]) == [replaced(jobs[1].job_id)]
        entries = {row["id"]: row for row in await conn.fetch("SELECT id, run_at, state FROM queue")}

    assert [made.run_at for made in created] == [now + timedelta(hours=2), now + timedelta(hours=3)]
    assert entries[jobs[0].job_id]["run_at"] == now + timedelta(hours=2)
    assert entries[jobs[1].job_id]["run_at"] == now + timedelta(hours=5)
    assert {row["state"] for row in entries.values()} == {"scheduled"}
    assert (await job_record(database, jobs[1].job_id)).run_at == now + timedelta(hours=5)


async def test_what_a_job_asks_for_is_kept_with_it(database: Database) -> None:
    options = JobOptions(timeout=timedelta(seconds=90), dead_letter_type="letters:dead")
    (created,) = await create(database, sample_job(options=options))

    record = await job_record(database, created.job_id)
    assert JobOptions.from_json(record.options_json) == options

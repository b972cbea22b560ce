import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from millrace_database.database import Database, asyncpg_connection
from millrace_database.job_entries import is_plain
from millrace_database.job_lifecycle import CreatedJob, NewJob, create_jobs, create_plain_jobs
from millrace_database.job_options import ConcurrencyRule, JobOptions, UniqueRule
from millrace_database.jobs_repository import get_job
from support.queue_samples import blocked_by_others, created_jobs, disagreements, sample_job


async def _counts(database: Database) -> tuple[int, int]:
    async with database.connection() as conn:
        assert await disagreements(conn) == []
        return (
            await conn.fetchval("SELECT count(*) FROM jobs"),
            await conn.fetchval("SELECT count(*) FROM queue"),
        )


async def test_a_new_job_is_pending_at_the_database_s_time(database: Database) -> None:
    job = sample_job(priority=5, input_json='{"big": 12345678901234567890}')
    async with database.transaction() as conn:
        now = await conn.fetchval("SELECT now()")
        assert await create_jobs(conn, [job]) == [CreatedJob(job.job_id)]
        record = await get_job(conn, "acme", job.job_id)

    assert record is not None
    assert (record.status, record.created_at, record.run_at, record.version) == ("pending", now, now, 1)
    assert (record.priority, record.max_attempts, record.attempt) == (5, 4, 0)
    assert record.input_json == '{"big": 12345678901234567890}'
    assert await _counts(database) == (1, 1)


async def test_results_come_in_the_order_of_the_jobs(database: Database) -> None:
    jobs = [
        sample_job(request_id=None if number % 3 else f"request-{-number}", org_id=f"org-{number % 2}")
        for number in range(50)
    ]
    random.shuffle(jobs)

    assert await created_jobs(database, *jobs) == [job.job_id for job in jobs]
    assert await _counts(database) == (50, 50)


async def test_jobs_of_a_batch_are_served_in_its_order(database: Database) -> None:
    jobs = [sample_job(request_id=f"request-{-number}") for number in range(50)]

    async with database.connection() as conn:
        await create_plain_jobs(conn, jobs)

    async with database.connection() as conn:
        served = await conn.fetch("SELECT id FROM queue ORDER BY rank")
    assert [row["id"] for row in served] == [job.job_id for job in jobs]


async def test_plain_jobs_need_no_transaction(database: Database) -> None:
    jobs = [sample_job(request_id="r"), sample_job()]

    async with database.connection() as conn:
        with pytest.raises(asyncpg.CheckViolationError):
            await create_plain_jobs(conn, [sample_job(), sample_job(max_attempts=0)])
        assert await _counts(database) == (0, 0)
        assert await create_plain_jobs(conn, jobs) == [CreatedJob(job.job_id) for job in jobs]
        again = sample_job(request_id="r")
        assert await create_plain_jobs(conn, [again]) == [CreatedJob(jobs[0].job_id, already_existed=True)]

    assert await _counts(database) == (2, 2)


@pytest.mark.parametrize(
    "options",
    [
        None,
        JobOptions(unique=UniqueRule("key", on_conflict="replace")),
        JobOptions(unique=UniqueRule("key", window=timedelta(hours=1))),
        JobOptions(unique=UniqueRule("key", states="running")),
    ],
)
async def test_a_creation_may_be_repeated(database: Database, options: JobOptions | None) -> None:
    create = create_jobs if options else create_plain_jobs
    job = sample_job(options=options)
    for _ in range(2):
        async with database.transaction() as conn:
            (created,) = await create(conn, [job])
        assert created == CreatedJob(job.job_id)
        assert created.created_at is not None

    assert await _counts(database) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [
        JobOptions(unique=UniqueRule("key")),
        JobOptions(unique=UniqueRule("key", window=timedelta(hours=1))),
        JobOptions(concurrency=ConcurrencyRule("key")),
        JobOptions(deadline=datetime(2100, 1, 1, tzinfo=UTC)),
    ],
)
async def test_jobs_whose_options_concern_the_queue_are_not_plain(options: JobOptions) -> None:
    assert is_plain(sample_job())
    assert not is_plain(sample_job(options=options))


async def test_a_repeated_request_returns_the_first_job(database: Database) -> None:
    (first,) = await created_jobs(database, sample_job(request_id="r"))
    other = sample_job(request_id="s")

    async with database.transaction() as conn:
        results = await create_jobs(
            conn,
            [
                sample_job(request_id="r", input_json='{ "rows": 3.0 }', created_by="bob"),
                sample_job(request_id="r", input_json='{"rows": 4}'),
                other,
                sample_job(request_id="r", type="imports:load"),
            ],
        )

    assert results == [
        CreatedJob(first, already_existed=True),
        CreatedJob(first, already_existed=True, conflict=True),
        CreatedJob(other.job_id),
        CreatedJob(first, already_existed=True, conflict=True),
    ]
    assert await _counts(database) == (2, 2)


async def test_a_request_id_belongs_to_its_organisation(database: Database) -> None:
    jobs = [sample_job(request_id="r", org_id="acme"), sample_job(request_id="r", org_id="umbrella")]

    assert await created_jobs(database, *jobs) == [job.job_id for job in jobs]


async def test_of_the_same_request_twice_in_a_batch_the_first_is_created(database: Database) -> None:
    first, again = sample_job(request_id="r"), sample_job(request_id="r")
    different = sample_job(request_id="r", type="imports:load")

    async with database.transaction() as conn:
        assert await create_jobs(conn, [first, again, different]) == [
            CreatedJob(first.job_id),
            CreatedJob(first.job_id, already_existed=True),
            CreatedJob(first.job_id, already_existed=True, conflict=True),
        ]
    assert await _counts(database) == (1, 1)


async def test_a_request_waits_for_the_same_one_and_finds_its_job(database: Database) -> None:
    first, second = sample_job(request_id="r"), sample_job(request_id="r")
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [first])
        async with blocked_by_others(database, lambda other: create_jobs(other, [second])) as creating:
            await transaction.commit()
            assert await creating == [CreatedJob(first.job_id, already_existed=True)]
    assert await _counts(database) == (1, 1)


async def test_a_request_is_created_when_the_same_one_before_it_rolls_back(database: Database) -> None:
    first, second = sample_job(request_id="r"), sample_job(request_id="r")
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await create_jobs(conn, [first])
        async with blocked_by_others(database, lambda other: create_jobs(other, [second])) as creating:
            await transaction.rollback()
            assert await creating == [CreatedJob(second.job_id)]
    assert await _counts(database) == (1, 1)


async def test_requests_that_meet_in_opposite_orders_do_not_deadlock(database: Database) -> None:
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        (low,) = await create_jobs(conn, [sample_job(request_id="r1")])
        batch = [sample_job(request_id="r2"), sample_job(request_id="r1")]
        # If it had created r2 before it waits for r1, the next creation would be a deadlock.
        async with blocked_by_others(database, lambda other: create_jobs(other, batch)) as creating:
            (high,) = await create_jobs(conn, [sample_job(request_id="r2")])
            await transaction.commit()
            assert [result.job_id for result in await creating] == [high.job_id, low.job_id]
    assert await _counts(database) == (2, 2)


async def test_many_batches_with_the_same_requests_create_each_once(database: Database) -> None:
    requests = [f"r{number}" for number in range(100)]

    async def create(order: list[str]) -> set[UUID]:
        return set(await created_jobs(database, *(sample_job(request_id=request) for request in order)))

    ids = await asyncio.gather(*(create(random.sample(requests, k=len(requests))) for _ in range(8)))

    assert len(set.union(*ids)) == len(requests)
    assert await _counts(database) == (100, 100)


async def test_jobs_join_the_caller_s_own_transaction(database: Database) -> None:
    class _ChangedOurMindError(Exception):
        pass

    async def place_order(*, fails: bool) -> None:
        async with database.engine.begin() as session:
            await session.execute(text("CREATE TABLE IF NOT EXISTS orders (id integer)"))
            await session.execute(text("INSERT INTO orders VALUES (1)"))
            await create_jobs(await asyncpg_connection(session), [sample_job()])
            if fails:
                raise _ChangedOurMindError

    with pytest.raises(_ChangedOurMindError):
        await place_order(fails=True)
    assert await _counts(database) == (0, 0)

    await place_order(fails=False)
    assert await _counts(database) == (1, 1)


@pytest.mark.parametrize(
    "refused", [{"max_attempts": 0}, {"priority": 101}, {"input_json": '{"nul": "\\u0000"}'}]
)
async def test_one_job_that_cannot_be_stored_stops_the_batch(
    database: Database, refused: dict[str, object]
) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await created_jobs(database, sample_job(), sample_job(**refused))

    assert await _counts(database) == (0, 0)


async def test_ten_thousand_jobs_are_one_batch(database: Database) -> None:
    jobs: list[NewJob] = [
        sample_job(request_id=f"r{number}" if number % 2 else None) for number in range(10_000)
    ]

    assert await created_jobs(database, *jobs) == [job.job_id for job in jobs]
    repeated = await created_jobs(database, *(sample_job(request_id=job.request_id) for job in jobs[1::2]))
    assert repeated == [job.job_id for job in jobs[1::2]]


async def test_no_job_is_no_work(database: Database) -> None:
    assert await created_jobs(database) == []

"""Throttled keys: at most one job in a window, whatever becomes of it."""

from datetime import timedelta

import asyncpg

from millrace_database.database import Database
from millrace_database.job_lifecycle import CreatedJob, cancel_job
from millrace_queue import remove_ended_throttles
from support.queue_samples import disagreements, sample_job
from support.unique_jobs import counts, create, create_one, existing, taken, unique_job

_WINDOW = timedelta(minutes=10)


async def _let_pass(conn: asyncpg.Connection, time: timedelta) -> None:
    await conn.execute("UPDATE queue_throttles SET ends_at = ends_at - $1::interval", time)


async def test_one_job_is_let_in_within_a_window(database: Database) -> None:
    first = await create_one(database, unique_job(window=_WINDOW))

    assert await create_one(database, unique_job(window=_WINDOW)) == taken(first.job_id)
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)
        await _let_pass(conn, _WINDOW - timedelta(seconds=5))
        assert await create_one(database, unique_job(window=_WINDOW)) == taken(first.job_id)
        await _let_pass(conn, timedelta(seconds=5))
    second = unique_job(window=_WINDOW)
    assert await create_one(database, second) == CreatedJob(second.job_id)
    assert await create_one(database, unique_job(window=_WINDOW)) == taken(second.job_id)


async def test_the_window_lasts_whatever_became_of_the_job(database: Database) -> None:
    first = await create_one(database, unique_job(window=_WINDOW))
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", first.job_id)

    assert await create_one(database, unique_job(window=_WINDOW)) == taken(first.job_id)


async def test_a_refused_job_does_not_lengthen_the_window(database: Database) -> None:
    await create_one(database, unique_job(window=_WINDOW))
    async with database.connection() as conn:
        ends_at = await conn.fetchval("SELECT ends_at FROM queue_throttles")
        await create_one(database, unique_job(window=timedelta(days=30)))
        assert await conn.fetchval("SELECT ends_at FROM queue_throttles") == ends_at


async def test_the_job_that_was_let_in_last_is_returned(database: Database) -> None:
    first = await create_one(database, unique_job(window=_WINDOW))

    again = unique_job(window=_WINDOW, on_conflict="return_existing")
    assert await create_one(database, again) == existing(first.job_id)


async def test_a_job_that_was_removed_meanwhile_is_named_and_not_returned(database: Database) -> None:
    first = await create_one(database, unique_job(window=_WINDOW))
    async with database.transaction() as conn:
        await cancel_job(conn, "acme", first.job_id)
        await conn.execute("DELETE FROM jobs")

    again = unique_job(window=_WINDOW, on_conflict="return_existing")
    assert await create_one(database, again) == taken(first.job_id)


async def test_a_repeated_request_begins_no_window(database: Database) -> None:
    repeated = await create_one(database, sample_job(request_id="r"))
    assert await create_one(database, unique_job(window=_WINDOW, request_id="r")) == existing(repeated.job_id)

    first = unique_job(window=_WINDOW)
    assert await create_one(database, first) == CreatedJob(first.job_id)


async def test_in_a_batch_the_first_of_a_throttled_key_is_let_in(database: Database) -> None:
    jobs = [unique_job(key, window=_WINDOW) for key in ("b", "a", "b", "a", "c")]

    assert await create(database, *jobs) == [
        CreatedJob(jobs[0].job_id),
        CreatedJob(jobs[1].job_id),
        taken(jobs[0].job_id),
        taken(jobs[1].job_id),
        CreatedJob(jobs[4].job_id),
    ]
    async with database.connection() as conn:
        assert await counts(conn) == (3, 3)
        assert await disagreements(conn) == []


async def test_a_throttled_key_and_a_unique_one_do_not_meet(database: Database) -> None:
    throttled, unique = unique_job(window=_WINDOW), unique_job()

    assert await create(database, throttled, unique) == [
        CreatedJob(throttled.job_id),
        CreatedJob(unique.job_id),
    ]


async def test_windows_that_ended_are_removed_in_batches(database: Database) -> None:
    await create(database, *(unique_job(f"k{number}", window=_WINDOW) for number in range(5)))
    async with database.connection() as conn, database.transaction() as other:
        assert await remove_ended_throttles(conn, limit=2) == 0
        await _let_pass(conn, timedelta(hours=1))
        await create(database, unique_job("k0", window=_WINDOW))
        await other.execute("SELECT FROM queue_throttles WHERE unique_key LIKE '%k1%' FOR UPDATE")

        assert [await remove_ended_throttles(conn, limit=2) for _ in range(3)] == [2, 1, 0]
        assert await conn.fetchval("SELECT count(*) FROM queue_throttles") == 2

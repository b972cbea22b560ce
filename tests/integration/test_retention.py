"""Which finished jobs are removed, and when."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import retry_job
from millrace_database.job_options import RetentionRule, TypeOptions
from millrace_database.retention import (
    LEAST_RETENTION,
    Swept,
    add_sweeps,
    read_retention,
    remove_abandoned_import,
    sweep_jobs,
)
from support.queue_samples import blocked_by_others, created_jobs, new_worker, running_job, sample_job

_DAY = timedelta(days=1)
_MOMENT = timedelta(microseconds=1)
_DEFAULT = RetentionRule(completed=30 * _DAY, failed=20 * _DAY, cancelled=10 * _DAY)

# As if it had been created and had ended so long ago; $4: it took so long in between.
_ADD_OLD = """
INSERT INTO jobs (job_id, org_id, type, status, created_at, completed_at, max_attempts)
SELECT (lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || '7000'
        || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid,
    'acme', $1, $2, created_at, now() - $3::interval, 4
FROM (SELECT now() - $3::interval - $4::interval AS created_at) AS derived
RETURNING job_id
"""
_ADD_MANY = """
INSERT INTO jobs (job_id, org_id, type, status, created_at, completed_at, max_attempts)
SELECT (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid,
    'acme', 'a', 'completed', time, time, 4
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - interval '40 days' + n * interval '1 s' AS time) AS derived
RETURNING job_id
"""
_ADD_ATTEMPT = "INSERT INTO job_attempts (job_id, fence, attempt, outcome) VALUES ($1, $2, 1, 'failed')"
_ALL_DUE = "UPDATE retention_sweeps SET next_at = now() - interval '1 s'"
# Those that came to their end rest, from the beginning of the transaction on.
_END_PAUSES = """
UPDATE retention_sweeps SET next_at = now()
WHERE next_at NOT IN (now() + interval '5 minutes', now() + interval '1 hour', now() + interval '7 days')
"""


async def _finished(
    conn: asyncpg.Connection,
    ago: timedelta,
    *,
    status: str = "completed",
    type_: str = "a",
    took: timedelta = timedelta(),
) -> UUID:
    id_: UUID = await conn.fetchval(_ADD_OLD, type_, status, ago, took)
    return id_


async def _left(conn: asyncpg.Connection) -> set[UUID]:
    return {row["job_id"] for row in await conn.fetch("SELECT job_id FROM jobs")}


async def _publish(conn: asyncpg.Connection, type_: str, rule: RetentionRule, **overrides: Any) -> None:
    await conn.execute(
        "INSERT INTO job_types (type, label, description, input_schema, max_attempts, timeout, concurrency, options,"
        " overrides) VALUES ($1, '', '', '{}', 1, '1 h', 1, $2, $3)",
        type_,
        TypeOptions(retention=rule).to_json(),
        TypeOptions(retention=RetentionRule(**overrides)).to_json(),
    )


async def _sweep_all(
    conn: asyncpg.Connection, default: RetentionRule = _DEFAULT, *, limit: int = 1000
) -> int:
    """Lets every sweep come to its end once; returns how many jobs were looked at."""
    retention = await read_retention(conn, default)
    await add_sweeps(conn, retention.sweeps())
    looked_at = 0
    # Within a transaction time stands still: a sweep whose time is over does not come again.
    await conn.execute(_ALL_DUE)
    while (swept := await sweep_jobs(conn, retention, limit=limit)) is not None:
        looked_at += swept.visited
        await conn.execute(_END_PAUSES)
    return looked_at


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_job_is_kept_to_the_end_of_its_time(database: Database, status: str) -> None:
    kept = {"completed": 30 * _DAY, "failed": 20 * _DAY, "cancelled": 10 * _DAY}[status]
    async with database.transaction() as conn:
        over = await _finished(conn, kept, status=status)
        not_yet = await _finished(conn, kept - _MOMENT, status=status)
        assert await _left(conn) == {over, not_yet}

        await _sweep_all(conn)

        assert await _left(conn) == {not_yet}


async def test_a_type_has_times_of_its_own_and_operators_the_last_word(database: Database) -> None:
    async with database.transaction() as conn:
        await _publish(conn, "short", RetentionRule(completed=2 * _DAY), failed=3 * _DAY)
        await _publish(conn, "long", RetentionRule(completed=2 * _DAY), completed=90 * _DAY)
        await _finished(conn, 2 * _DAY, type_="short")
        await _finished(conn, 3 * _DAY, type_="short", status="failed")
        await _finished(conn, 10 * _DAY, type_="short", status="cancelled")
        await _finished(conn, 90 * _DAY, type_="long")
        await _finished(conn, 30 * _DAY)
        stay = {
            await _finished(conn, 2 * _DAY - _MOMENT, type_="short"),
            await _finished(conn, 3 * _DAY - _MOMENT, type_="short", status="failed"),
            await _finished(conn, 10 * _DAY - _MOMENT, type_="short", status="cancelled"),
            await _finished(conn, 89 * _DAY, type_="long"),
            await _finished(conn, 29 * _DAY),
        }

        await _sweep_all(conn)

        assert await _left(conn) == stay


async def test_nothing_is_removed_before_a_day_has_passed(database: Database) -> None:
    async with database.transaction() as conn:
        await _publish(conn, "a", RetentionRule(completed=timedelta(hours=1)))
        await _finished(conn, LEAST_RETENTION)
        young = await _finished(conn, LEAST_RETENTION - _MOMENT)

        await _sweep_all(conn)

        assert await _left(conn) == {young}


@pytest.mark.parametrize("status", ["pending", "processing", "cancelling"])
async def test_unfinished_jobs_stay_however_old(database: Database, status: str) -> None:
    async with database.transaction() as conn:
        id_ = await _finished(conn, 400 * _DAY)
        await conn.execute("UPDATE jobs SET status = $1, completed_at = NULL", status)

        await _sweep_all(conn)

        assert await _left(conn) == {id_}


@pytest.mark.parametrize("took", [_MOMENT, timedelta(hours=1), timedelta(hours=20), 300 * _DAY])
async def test_it_is_the_end_that_counts_not_the_beginning(database: Database, took: timedelta) -> None:
    async with database.transaction() as conn:
        await _finished(conn, 30 * _DAY, took=took)
        young = await _finished(conn, 30 * _DAY - _MOMENT, took=took)

        await _sweep_all(conn)

        assert await _left(conn) == {young}


async def test_attempts_go_with_their_job_and_only_they(database: Database) -> None:
    async with database.transaction() as conn:
        old, young = await _finished(conn, 31 * _DAY), await _finished(conn, _DAY)
        await conn.executemany(_ADD_ATTEMPT, [(old, 1), (old, 2), (young, 3)])

        await _sweep_all(conn)

        rows = await conn.fetch("SELECT job_id, fence FROM job_attempts")
    assert [tuple(row) for row in rows] == [(young, 3)]


async def test_a_job_that_blocks_its_key_is_kept(database: Database) -> None:
    async with database.transaction() as conn:
        blocks = await _finished(conn, 100 * _DAY, status="failed")
        await _finished(conn, 100 * _DAY, status="failed")
        await conn.execute(
            "INSERT INTO queue_blocked_keys (type, tenant, concurrency_key, id) VALUES ('a', 'acme', 'k', $1)",
            blocks,
        )

        await _sweep_all(conn)

        assert await _left(conn) == {blocks}


async def test_what_was_looked_at_is_not_looked_at_again(database: Database) -> None:
    async with database.connection() as conn:
        async with conn.transaction():
            await conn.execute(_ADD_MANY, 1000)
            await conn.execute("UPDATE jobs SET completed_at = now()")
        async with conn.transaction():
            # Three sweeps for each of three times, and the one of all jobs.
            assert await _sweep_all(conn, limit=100) == 10 * 1000
        async with conn.transaction():
            # The one of all jobs begins anew; here it is made to do so at once.
            assert await _sweep_all(conn, limit=100) == 1000
        assert len(await _left(conn)) == 1000


@pytest.mark.parametrize(
    ("lag", "took"), [(timedelta(hours=3), timedelta(hours=2)), (_DAY, timedelta(hours=23))]
)
async def test_a_job_that_was_passed_by_before_its_time_is_met_again(
    database: Database, lag: timedelta, took: timedelta
) -> None:
    async with database.transaction() as conn:
        id_ = await _finished(conn, 30 * _DAY + lag - took, took=took + timedelta(milliseconds=2))
        retention = await read_retention(conn, RetentionRule(30 * _DAY, 30 * _DAY, 30 * _DAY))
        await add_sweeps(conn, retention.sweeps())
        await conn.execute("UPDATE retention_sweeps SET position = $1 WHERE age < $2", id_, 30 * _DAY + lag)
        await conn.execute(
            "UPDATE retention_sweeps SET next_at = now() + interval '1 h' WHERE age = interval '0'"
        )

        while await sweep_jobs(conn, retention, limit=10) is not None:
            await conn.execute(_END_PAUSES)

        assert await _left(conn) == set()


async def test_a_shorter_time_holds_for_old_jobs_too(database: Database) -> None:
    async with database.connection() as conn:
        async with conn.transaction():
            await _finished(conn, 5 * _DAY)
            await _sweep_all(conn)
            assert len(await _left(conn)) == 1
        await _publish(conn, "a", RetentionRule(completed=4 * _DAY))
        async with conn.transaction():
            await conn.execute("UPDATE retention_sweeps SET next_at = now() + interval '7 days'")
            retention = await read_retention(conn, _DEFAULT)
            await add_sweeps(conn, retention.sweeps())
            assert await sweep_jobs(conn, retention, limit=1000) == Swept(visited=1, removed=1)


async def test_steps_are_pauses_apart(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_MANY, 100)
        retention = await read_retention(conn, _DEFAULT)
        await add_sweeps(conn, retention.sweeps())
        async with conn.transaction():
            await conn.execute("SELECT pg_sleep(0.2)")
            swept = await sweep_jobs(conn, retention, limit=10)
            assert swept == Swept(visited=10, removed=10)
            # The step took 0.2 s or more, which is a tenth of the time.
            pause = await conn.fetchval("SELECT min(next_at) - now() FROM retention_sweeps")
            assert timedelta(seconds=2) <= pause
            assert await sweep_jobs(conn, retention, limit=10) is None
        assert 1 < swept.next_in <= pause.total_seconds()
        await conn.execute(_ALL_DUE)
        async with conn.transaction():
            assert await sweep_jobs(conn, retention, limit=10) == Swept(visited=10, removed=10)


async def _sweep_until_idle(database: Database, steps: list[Swept]) -> None:
    async with database.connection() as conn:
        retention = await read_retention(conn, _DEFAULT)
        await add_sweeps(conn, retention.sweeps())
    while await _any_job(database):
        async with database.transaction() as conn:
            if (swept := await sweep_jobs(conn, retention, limit=20)) is not None:
                steps.append(swept)
                # Whose turn it is may write all sweeps; anybody else might lock them in another order.
                await conn.execute(_END_PAUSES)


async def _any_job(database: Database) -> bool:
    async with database.connection() as conn:
        return bool(await conn.fetchval("SELECT count(*) FROM jobs"))


async def test_several_remove_each_job_once(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_MANY, 500)
    steps: list[Swept] = []

    async with asyncio.timeout(60), asyncio.TaskGroup() as sweeping:
        for _ in range(3):
            sweeping.create_task(_sweep_until_idle(database, steps))

    assert sum(step.removed for step in steps) == 500


async def test_while_one_is_at_work_others_do_not_wait(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_MANY, 100)
        retention = await read_retention(conn, _DEFAULT)
        await add_sweeps(conn, retention.sweeps())
    async with database.transaction() as one, database.transaction() as other:
        assert await sweep_jobs(one, retention, limit=50) == Swept(visited=50, removed=50)
        assert await sweep_jobs(other, retention, limit=50) is None


async def test_one_that_dies_in_the_middle_leaves_everything_as_it_was(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_MANY, 100)
        id_ = await conn.fetchval("SELECT job_id FROM jobs ORDER BY job_id LIMIT 1")
        await conn.execute(_ADD_ATTEMPT, id_, 1)
        retention = await read_retention(conn, _DEFAULT)
        await add_sweeps(conn, retention.sweeps())
    dying = await database.direct_connection()
    await dying.execute("BEGIN")
    assert await sweep_jobs(dying, retention, limit=50) == Swept(visited=50, removed=50)
    async with database.connection() as conn:
        await conn.execute("SELECT pg_terminate_backend($1)", dying.get_server_pid())
        dying.terminate()
        assert len(await _left(conn)) == 100
        assert await conn.fetchval("SELECT count(*) FROM job_attempts") == 1
        async with conn.transaction():
            await _sweep_all(conn, limit=50)
        assert await _left(conn) == set()


async def test_a_job_that_is_retried_at_that_moment_stays(database: Database) -> None:
    async with database.transaction() as conn:
        id_ = await _finished(conn, 31 * _DAY, status="failed")
        other = await _finished(conn, 30 * _DAY, status="failed")
    async with database.transaction() as retrying:
        await retry_job(retrying, "acme", id_, 1)
        async with database.transaction() as conn:
            await _sweep_all(conn)
    async with database.transaction() as conn:
        await _sweep_all(conn)
        assert await _left(conn) == {id_}
    assert other != id_


async def test_a_retry_that_comes_too_late_finds_no_job(database: Database) -> None:
    async with database.transaction() as conn:
        id_ = await _finished(conn, 31 * _DAY, status="failed")

    async def retry(conn: asyncpg.Connection) -> Any:
        return await retry_job(conn, "acme", id_, 1)

    async with database.transaction() as conn:
        await _sweep_all(conn)
        async with blocked_by_others(database, retry) as retried:
            await conn.execute("COMMIT")
            await conn.execute("BEGIN")
            await asyncio.wait([retried])
    assert retried.result().outcome.name == "NOT_FOUND"


async def test_a_request_id_is_free_again_once_its_job_is_removed(database: Database) -> None:
    (first,) = await created_jobs(database, sample_job(request_id="r"))
    (again,) = await created_jobs(database, sample_job(request_id="r"))
    assert again == first
    async with database.transaction() as conn:
        old = new_id()
        await conn.execute("DELETE FROM queue")
        await conn.execute(
            "UPDATE jobs SET status = 'completed', completed_at = now() - interval '30 days', job_id = $1",
            old,
        )
        await _sweep_all(conn)
    (third,) = await created_jobs(database, sample_job(request_id="r"))
    assert third not in (first, old)


async def _begin_import(conn: asyncpg.Connection, job_id: UUID, rows: int, *, completed: bool) -> None:
    dataset_id = new_id()
    await conn.execute(
        "INSERT INTO datasets (dataset_id, org_id, name) VALUES ($1, 'acme', $2)", dataset_id, str(dataset_id)
    )
    await conn.execute(
        "INSERT INTO dataset_imports (job_id, dataset_id, completed_at) VALUES ($1, $2, CASE WHEN $3 THEN now() END)",
        job_id,
        dataset_id,
        completed,
    )
    await conn.execute(
        "INSERT INTO dataset_rows SELECT $1, $2, n, '{}' FROM generate_series(1, $3::integer) AS n",
        dataset_id,
        job_id,
        rows,
    )


async def _imports(conn: asyncpg.Connection) -> Mapping[UUID, int]:
    query = """
        SELECT job_id, (SELECT count(*) FROM dataset_rows AS row WHERE row.job_id = dataset_imports.job_id)
        FROM dataset_imports
    """
    return {job_id: rows for job_id, rows in await conn.fetch(query)}  # noqa: C416 - records are no pairs to mypy


async def _removals(conn: asyncpg.Connection) -> Sequence[int]:
    counts = []
    while await remove_abandoned_import(conn, limit=100) is not None:
        counts.append(sum((await _imports(conn)).values()))
    return counts


async def test_the_rows_of_an_import_that_nobody_can_finish_are_removed(database: Database) -> None:
    running = (await running_job(database)).claim.id
    async with database.transaction() as conn:
        recent = await _finished(conn, _DAY, status="failed")
        await _begin_import(conn, running, 10, completed=False)
        await _begin_import(conn, recent, 10, completed=False)
        finished, abandoned, system = new_id(), new_id(), new_id()
        await _begin_import(conn, finished, 10, completed=True)
        await _begin_import(conn, abandoned, 250, completed=False)
        await _begin_import(conn, system, 10, completed=False)
        await new_worker(conn)
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts) VALUES ($1, 's', 'system', 1)", system
        )

        assert await _removals(conn) == [190, 90, 40]
        assert await _imports(conn) == {running: 10, recent: 10, finished: 10, system: 10}

"""What the statements of firing read when most schedules are not due, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database import firing_statements as statements
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.large_tables import fill_jobs, filled_database, reads_of

_SCHEDULES = 100_000
_DUE = 200
_BATCH = 50
_WATCHED = 100
_JOBS = 10_000
_RUNS = 20

# All but the first ones are not due for an hour; some are watched.
_FILL = """
INSERT INTO scheduled_jobs (
    schedule_id, org_id, name, type, recurrence, time_zone, next_run_at, pause_after_failed_runs
)
SELECT gen_random_uuid(), 'org_' || n % 1000, 'A schedule', 'notes:keep', '{"interval": {"every": "3600s"}}', 'UTC',
    now() + n * interval '1 second' + CASE WHEN n > $2 THEN interval '1 hour' ELSE interval '-1 hour' END,
    CASE WHEN n % 1000 = 0 THEN 2 ELSE 0 END
FROM generate_series(1, $1::integer) AS n
"""
_FILL_RUNS = """
INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome)
SELECT schedule_id, now() - n * interval '1 hour', 'schedule', 'fired'
FROM scheduled_jobs, generate_series(1, $1::integer) AS n
WHERE pause_after_failed_runs > 0 OR next_run_at <= now()
"""


@dataclass
class _Large:
    url: str
    ids: list[UUID]
    times: list[datetime]
    watched: list[UUID]


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[_Large]:
    with filled_database(postgres_url, _filled) as filled:
        yield filled


async def _filled(url: str, conn: asyncpg.Connection) -> _Large:
    await conn.execute(_FILL, _SCHEDULES, _DUE)
    await conn.execute(_FILL_RUNS, _RUNS)
    await fill_jobs(conn, _JOBS, new_id())
    await conn.execute(
        "UPDATE schedule_runs SET job_id = jobs.job_id "
        "FROM (SELECT job_id, row_number() OVER () AS n FROM jobs) AS jobs, "
        "(SELECT schedule_id, scheduled_time, row_number() OVER () AS n FROM schedule_runs) AS runs "
        "WHERE schedule_runs.schedule_id = runs.schedule_id "
        "AND schedule_runs.scheduled_time = runs.scheduled_time AND jobs.n = runs.n"
    )
    await conn.execute("ANALYZE scheduled_jobs, schedule_runs, jobs")
    due = await conn.fetch(
        "SELECT schedule_id, next_run_at FROM scheduled_jobs WHERE next_run_at <= now() LIMIT $1", _BATCH
    )
    watched = await conn.fetch("SELECT schedule_id FROM scheduled_jobs WHERE pause_after_failed_runs > 0")
    return _Large(
        url,
        [row["schedule_id"] for row in due],
        [row["next_run_at"] for row in due],
        [row["schedule_id"] for row in watched],
    )


@pytest.fixture
async def conn(large: _Large) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is rolled back."""
    database = await Database.open(large.url, application_name="test")
    try:
        async with database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
    finally:
        await database.close()


async def test_a_reservation_reads_what_is_due(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.RESERVE_DUE, timedelta(seconds=15), _BATCH, 20_000, ["org_1"])

    # All that is due once, to rank it; four times as much as is wanted to lock it, and that to update it.
    assert _DUE <= reads.rows["scheduled_jobs"] <= _DUE + 5 * _BATCH


async def test_the_time_until_something_is_due_reads_what_is_due(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.SECONDS_UNTIL_DUE)
    # Once for what is due, once for what is reserved of it.
    assert reads.rows["scheduled_jobs"] <= 2 * (_DUE + 1)


async def test_a_record_is_looked_up_by_ids(large: _Large, conn: asyncpg.Connection) -> None:
    reads = await reads_of(
        conn,
        statements.RECORD,
        large.ids,
        large.times,
        large.times,
        ["fired"] * _BATCH,
        large.ids,
        [""] * _BATCH,
        [""] * _BATCH,
        large.times,
        large.times,
        [0] * _BATCH,
        [timedelta(0)] * _BATCH,
        5,
        [],
        [],
    )
    assert 0 < reads.rows["scheduled_jobs"] <= 2 * _BATCH


async def test_failed_runs_are_looked_for_where_they_are_asked_for(
    large: _Large, conn: asyncpg.Connection
) -> None:
    of_some = await reads_of(conn, statements.PAUSE_FAILED_OF, large.watched[:10])
    # Once for the watched ones, once for the paused ones.
    assert of_some.rows["scheduled_jobs"] <= 2 * 10
    assert of_some.rows["jobs"] == 20
    page = await reads_of(conn, statements.PAUSE_FAILED_PAGE, UUID(int=0), _WATCHED // 2)
    assert page.rows["scheduled_jobs"] <= _WATCHED // 2
    assert page.rows["jobs"] == _WATCHED

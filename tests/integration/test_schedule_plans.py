"""What lists of schedules and of their runs read of large tables, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import asyncpg
import pytest

from millrace_database import schedule_runs_repository, schedule_statements
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.large_tables import Reads, fill_jobs, filled_database, reads_of

_SCHEDULES = 40_000
_RUNS = 200_000
_JOBS = 10_000
_PAGE = 50
_NO_FILTER = (None, None, None, None, None)

# One organisation has nearly all of them, the newest and the oldest; half of them are deleted.
_FILL = """
INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, deleted_at, paused)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
    CASE WHEN n BETWEEN 10000 AND 10999 THEN 'small' ELSE 'acme' END,
    'Report ' || n, CASE WHEN n = 10500 THEN 'rare' ELSE 'a' END, '{"cron": {"expression": "0 0 * * *"}}', 'UTC',
    CASE WHEN n % 2 = 1 THEN now() END, n % 2 = 1
FROM generate_series(1, $1::integer) AS n
"""
_FILL_RUNS = """
INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome, job_id)
SELECT $1::uuid, now() - n * interval '1 minute', CASE n % 2 WHEN 0 THEN 'schedule' ELSE 'request' END, 'fired',
    gen_random_uuid()
FROM generate_series(1, $2::integer) AS n
"""


@pytest.fixture(scope="module")
def large_url(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    await fill_jobs(conn, _JOBS, new_id())
    await conn.execute(_FILL, _SCHEDULES)
    for schedule_id in await conn.fetch(
        "SELECT schedule_id FROM scheduled_jobs ORDER BY schedule_id LIMIT 2"
    ):
        await conn.execute(_FILL_RUNS, schedule_id[0], _RUNS // 2)
    await conn.execute("ANALYZE scheduled_jobs, schedule_runs, jobs")
    return url


@pytest.fixture
async def conn(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    database = await Database.open(large_url, application_name="test")
    try:
        async with database.connection() as connection:
            # As a statement has that is run again and again.
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            yield connection
    finally:
        await database.close()


async def _listed(conn: asyncpg.Connection, org_id: str, *filters: object) -> Reads:
    return await reads_of(conn, schedule_statements.LIST_OF_ORG, None, _PAGE, *filters, org_id)


@pytest.mark.parametrize("org_id", ["acme", "small"])
async def test_a_page_reads_no_more_than_itself(conn: asyncpg.Connection, org_id: str) -> None:
    assert (await _listed(conn, org_id, *_NO_FILTER)).rows["scheduled_jobs"] == _PAGE


@pytest.mark.parametrize(
    "filters",
    [
        ("rare", None, None, None, None),
        (None, "daily", None, None, None),
        (None, None, True, None, None),
        (None, None, None, "webhook", None),
        (None, None, None, None, "%no such%"),
    ],
)
async def test_a_filter_reads_what_the_organisation_has(
    conn: asyncpg.Connection, filters: tuple[object, ...]
) -> None:
    assert (await _listed(conn, "small", *filters)).rows["scheduled_jobs"] <= 500


async def test_a_page_of_all_organisations_reads_no_more_than_itself(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, schedule_statements.LIST_ALL, None, _PAGE, *_NO_FILTER)
    assert reads.rows["scheduled_jobs"] <= 2 * _PAGE


async def test_a_page_of_runs_reads_no_more_than_itself(conn: asyncpg.Connection) -> None:
    schedule_id = await conn.fetchval("SELECT min(schedule_id::text)::uuid FROM scheduled_jobs")
    middle = await conn.fetchval("SELECT min(scheduled_time) + interval '7 days' FROM schedule_runs")
    for after in ((None, None), (middle, "schedule")):
        reads = await reads_of(conn, schedule_runs_repository.LIST, schedule_id, *after, _PAGE)
        assert reads.rows["schedule_runs"] == _PAGE
    reads = await reads_of(
        conn, schedule_runs_repository.LIST, new_id(), datetime.now(UTC), "schedule", _PAGE
    )
    assert reads.rows["schedule_runs"] == 0


async def test_old_runs_are_found_by_their_age(conn: asyncpg.Connection) -> None:
    async with conn.transaction():
        await conn.execute(
            "UPDATE schedule_runs SET recorded_at = now() - interval '91 days'"
            " WHERE scheduled_time < (SELECT min(scheduled_time) + interval '1 day' FROM schedule_runs)"
        )
        reads = await reads_of(
            conn, schedule_runs_repository.REMOVE_OLD_RUNS, schedule_runs_repository.RUNS_KEPT, 100
        )
        assert reads.rows["schedule_runs"] <= 4 * 100

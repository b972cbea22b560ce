"""What the creation of deliveries reads of large tables, by EXPLAIN ANALYZE."""

from collections.abc import Iterator
from uuid import UUID

import asyncpg
import pytest

from millrace_database.connection_url import asyncpg_dsn
from millrace_database.database import Database
from millrace_database.deliveries import CREATE_DELIVERIES
from millrace_database.ids import new_id
from support.large_tables import Reads, fill_jobs, filled_database, reads_of

_JOBS = 50_000
_SCHEDULES = 20_000
_BATCH = 100
_DELIVERING = 5_000

_FILL_SCHEDULES = """
INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, delivery)
SELECT gen_random_uuid(), 'acme', n::text, 'reports:generate', '{}', 'UTC', '{"email": {"to": ["ann@example.com"]}}'
FROM generate_series(1, $1::integer) AS n
"""
_LET_DELIVER = """
WITH chosen AS (
    SELECT job_id, schedule_id
    FROM (SELECT job_id, row_number() OVER () AS n FROM jobs WHERE org_id = 'acme' AND status = 'completed' LIMIT $1) AS job
    JOIN (SELECT schedule_id, row_number() OVER () AS n FROM scheduled_jobs LIMIT $1) AS schedule USING (n)
)
UPDATE jobs SET options = '{"delivers": true}', schedule_id = chosen.schedule_id
FROM chosen WHERE jobs.job_id = chosen.job_id
RETURNING jobs.job_id
"""


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[tuple[str, list[UUID]]]:
    with filled_database(postgres_url, _filled) as filled:
        yield filled


async def _filled(url: str, conn: asyncpg.Connection) -> tuple[str, list[UUID]]:
    ended = await _fill(conn)
    await conn.execute("ANALYZE")
    return url, ended


async def _fill(conn: asyncpg.Connection) -> list[UUID]:
    await fill_jobs(conn, _JOBS, new_id())
    await conn.execute(_FILL_SCHEDULES, _SCHEDULES)
    rows = await conn.fetch(_LET_DELIVER, _DELIVERING)
    return [row["job_id"] for row in rows][:_BATCH]


async def test_jobs_and_schedules_are_looked_up_one_by_one(large: tuple[str, list[UUID]]) -> None:
    url, ended = large
    conn = await asyncpg.connect(asyncpg_dsn(url))
    try:
        reads = await reads_of(conn, CREATE_DELIVERIES, ended, [new_id() for _ in ended], 4)
        assert await conn.fetchval("SELECT count(*) FROM jobs WHERE parent_job_id IS NOT NULL") == _BATCH
    finally:
        await conn.close()
    assert (reads.rows["jobs"], reads.rows["scheduled_jobs"]) == (_BATCH, _BATCH), reads.plan


@pytest.fixture(scope="module")
def kept(postgres_url: str) -> Iterator[Reads]:
    with filled_database(postgres_url, _read_by_kept_plan) as reads:
        yield reads


async def _read_by_kept_plan(url: str, conn: asyncpg.Connection) -> Reads:
    database = await Database.open(url, application_name="test", keep_plans=True)
    try:
        async with database.connection() as keeping:
            await conn.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)")
            await conn.execute("ALTER TABLE scheduled_jobs SET (autovacuum_enabled = off)")
            await keeping.execute(f"PREPARE kept AS {CREATE_DELIVERIES}")
            await keeping.execute("EXPLAIN EXECUTE kept (NULL, NULL, NULL)")
            ended = await _fill(conn)
            ids = [
                await conn.fetchval("SELECT format('%L', $1::uuid[])", some)
                for some in (ended, [new_id() for _ in ended])
            ]
            return Reads(
                await keeping.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE kept ({ids[0]}, {ids[1]}, 4)")
            )
    finally:
        await database.close()


def test_a_plan_made_when_nothing_was_there_looks_them_up_one_by_one(kept: Reads) -> None:
    assert (kept.rows["jobs"], kept.rows["scheduled_jobs"]) == (_BATCH, _BATCH), kept.plan

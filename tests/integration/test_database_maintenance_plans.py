"""What the batches of the maintenance read of large tables, by EXPLAIN ANALYZE."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database import bloat_statements, file_usage_recount, leftovers, retention_statements
from millrace_database.ids import new_id
from millrace_database.maintained_tables import MAINTAINED_TABLES
from support.large_tables import fill_jobs, filled_database, rolled_back

_JOBS = 100_000
_ATTEMPTS = 100_000
_FILES = 100_000
_WAITING = 30_000
_OTHER_TABLES = 2_000
_BATCH = 100
_KEPT = (["a"], [timedelta(days=2)], [timedelta(days=2)], [timedelta(days=2)], *[timedelta(days=3)] * 3)

_FILL_ATTEMPTS = """
INSERT INTO job_attempts (job_id, fence, attempt, outcome)
SELECT CASE WHEN n % 2 = 0 THEN gen_random_uuid() ELSE job_id END, n, 1, 'failed'
FROM (SELECT job_id, row_number() OVER () AS n FROM jobs LIMIT $1::integer) AS job
"""
# One organisation has nearly all of them.
_FILL_FILES = """
INSERT INTO files (file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key)
SELECT gen_random_uuid(), CASE WHEN n % 1000 = 1 THEN 'small ' || n ELSE 'acme' END, 'a', 'text/plain', n, '', 'local', n::text
FROM generate_series(1, $1::integer) AS n
"""
_FILL_QUEUE = """
INSERT INTO queue (id, type, tenant, max_attempts, state, enqueued_at)
SELECT gen_random_uuid(), 'reports:generate', 'acme', 4, 'ready', now() - interval '2 days'
FROM generate_series(1, $1::integer) AS n
"""


@pytest.fixture(scope="module")
def large_url(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    await fill_jobs(conn, _JOBS, new_id())
    await conn.execute(_FILL_ATTEMPTS, _ATTEMPTS)
    await conn.execute(_FILL_FILES, _FILES)
    await conn.execute(_FILL_QUEUE, _WAITING)
    await conn.execute("ANALYZE jobs, job_attempts, files, queue, file_usage")
    return url


@pytest.fixture
async def conn(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with rolled_back(large_url) as connection:
        yield connection


async def _reads(conn: asyncpg.Connection, statement: str, *arguments: object) -> dict[str, int]:
    """How many rows were looked at, by table; whatever was read whole counts with all its rows."""
    plan = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)
    rows: dict[str, int] = {}
    nodes: list[dict[str, Any]] = [json.loads(plan)[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if (table := node.get("Relation Name")) and "Scan" in node["Node Type"]:
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows[table] = rows.get(table, 0) + round((node["Actual Rows"] + removed) * node["Actual Loops"])
    return rows


async def _middle(conn: asyncpg.Connection, table: str, column: str) -> Any:
    return await conn.fetchval(
        f"SELECT {column} FROM {table} ORDER BY {column} OFFSET 40000 LIMIT 1"  # noqa: S608 - of the test
    )


@pytest.mark.parametrize(
    ("statement", "times"),
    [(retention_statements.REMOVE_EXPIRED, 3), (retention_statements.COUNT_EXPIRED, 1)],
)
async def test_a_batch_of_jobs_reads_these_jobs(conn: asyncpg.Connection, statement: str, times: int) -> None:
    after = await _middle(conn, "jobs", "job_id")
    reads = await _reads(conn, statement, after, *_KEPT, _BATCH, timedelta(days=2))
    # Once to look at it, once to lock it, once to remove it.
    assert _BATCH <= reads["jobs"] <= times * _BATCH
    assert reads.get("job_attempts", 0) <= 2 * _BATCH
    assert reads.get("files", 0) == 0


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_batch_of_attempts_looks_each_job_up(conn: asyncpg.Connection, dry_run: bool) -> None:
    after = await _middle(conn, "job_attempts", "job_id")
    reads = await _reads(conn, leftovers.WALK_ATTEMPTS, after, 0, _BATCH, dry_run)
    assert _BATCH <= reads["job_attempts"] <= 2 * _BATCH
    assert reads["jobs"] <= _BATCH
    assert reads.get("queue", 0) <= _BATCH


async def test_organisations_are_found_without_reading_their_files(conn: asyncpg.Connection) -> None:
    reads = await _reads(conn, file_usage_recount.NEXT_ORGANISATIONS, "", _BATCH)
    assert 0 < reads["files"] <= _BATCH + 2


async def test_files_are_counted_by_their_organisation(conn: asyncpg.Connection) -> None:
    reads = await _reads(conn, file_usage_recount.DIFFERS, "small 1001")
    assert reads["files"] == 1


@pytest.mark.parametrize(
    ("statement", "more"), [(leftovers.COUNT_ABANDONED_RUNS, []), (leftovers.REMOVE_ABANDONED_RUNS, [_BATCH])]
)
async def test_system_runs_are_found_by_their_tenant(
    conn: asyncpg.Connection, statement: str, more: list[int]
) -> None:
    await conn.execute(
        "INSERT INTO queue (id, type, tenant, max_attempts, state, enqueued_at)"
        " VALUES ($1, 'system/test:gone', ':system', 3, 'ready', now() - interval '2 days')",
        UUID(int=7),
    )
    reads = await _reads(conn, statement, ":system", "system/", *more)
    assert reads["queue"] <= 2


async def test_sizes_are_measured_without_a_look_at_other_tables(conn: asyncpg.Connection) -> None:
    """A database may have others besides, say those of an organisation each."""
    await conn.execute(
        "".join(f"CREATE TABLE other_{number} (n integer);" for number in range(_OTHER_TABLES))
    )
    for statement in (bloat_statements.MEASURE_TABLES, bloat_statements.MEASURE_INDEXES):
        reads = await _reads(conn, statement, MAINTAINED_TABLES)
        assert reads["pg_class"] < _OTHER_TABLES

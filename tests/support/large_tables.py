"""Large tables, and what a statement reads of them by EXPLAIN ANALYZE."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg

from millrace_database.connection_url import asyncpg_dsn, with_database
from millrace_database.database import Database
from millrace_database.migrate import migrate

_T = TypeVar("_T")

# One job a minute, the newest an hour old. All but every thousandth belong to one organisation, are completed, of
# one type, and so on: what is rare must not be searched for among what is not. One organisation has nothing new.
_FILL_JOBS = """
INSERT INTO jobs (
    job_id, org_id, type, status, metadata, created_by, created_at, completed_at, max_attempts, schedule_id, request_id,
    error_code
)
SELECT
    (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
    CASE WHEN n % 1000 = 1 THEN 'small' WHEN n > $1 / 2 AND n % 2 = 0 THEN 'past' ELSE 'acme' END,
    CASE WHEN n % 1000 = 2 THEN 'imports:load' ELSE 'reports:generate' END,
    CASE WHEN n % 1000 = 3 THEN 'failed' WHEN n % 1000 = 4 THEN 'pending' ELSE 'completed' END,
    CASE WHEN n % 100 = 5 THEN jsonb_build_object('order', n) ELSE '{}' END,
    CASE WHEN n % 1000 = 6 THEN 'bob' ELSE 'ann' END,
    time,
    CASE WHEN n % 1000 <> 4 THEN time END,
    4,
    CASE WHEN n % 1000 = 7 THEN $2::uuid END,
    n::text,
    CASE WHEN n % 50000 = 3 THEN 'RARE' WHEN n % 1000 = 3 THEN 'HANDLER_ERROR' END
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - (n + 59) * interval '1 minute' AS time) AS derived
"""


async def fill_jobs(conn: asyncpg.Connection, count: int, schedule_id: UUID) -> None:
    await conn.execute(_FILL_JOBS, count, schedule_id)


@asynccontextmanager
async def rolled_back(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of a pool, in a transaction that is rolled back."""
    database = await Database.open(url, application_name="test")
    try:
        async with database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
    finally:
        await database.close()


@contextmanager
def filled_database(
    postgres_url: str, fill: Callable[[str, asyncpg.Connection], Awaitable[_T]]
) -> Iterator[_T]:
    """What `fill` returns, given the URL of a new database with all tables and a connection; dropped at the end."""
    name = f"plans_{uuid4().hex}"

    async def filled(url: str) -> _T:
        await migrate(url)
        conn = await asyncpg.connect(asyncpg_dsn(url))
        try:
            return await fill(url, conn)
        finally:
            await conn.close()

    with asyncio.Runner() as runner:
        runner.run(_on(postgres_url, f"CREATE DATABASE {name}"))
        yield runner.run(filled(with_database(postgres_url, name)))
        runner.run(_on(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


class Reads:
    """How many rows of which table a statement looked at, and how."""

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.rows: dict[str, int] = {
            "jobs": 0,
            "job_subscriptions": 0,
            "job_attempts": 0,
            "queue": 0,
            "queue_throttles": 0,
            "scheduled_jobs": 0,
            "schedule_runs": 0,
            "files": 0,
            "file_uploads": 0,
            "file_removals": 0,
        }
        self.whole: set[str] = set()
        self._add(json.loads(plan)[0]["Plan"])

    def _add(self, node: dict[str, Any]) -> None:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        if (table := node.get("Relation Name")) in self.rows and "Scan" in node["Node Type"]:
            self.rows[table] += round((node["Actual Rows"] + removed) * node["Actual Loops"])
            if node["Node Type"] == "Seq Scan":
                self.whole.add(table)
        for child in node.get("Plans", []):
            self._add(child)


async def reads_of(conn: asyncpg.Connection, statement: str, *arguments: object) -> Reads:
    reads = Reads(await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))
    assert reads.whole == set(), reads.plan
    return reads


async def _on(url: str, statement: str) -> None:
    conn = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await conn.execute(statement)
    finally:
        await conn.close()

"""Which tables and indexes are said to be too large, measured on real ones."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from millrace_database.bloat import IndexSize, Sizes, TableSize, btree_bytes, measure_sizes, table_bytes
from millrace_database.bloat_hints import DEFAULT_THRESHOLDS, Hint, hints_of
from millrace_database.database import Database
from millrace_database.maintained_tables import MAINTAINED_TABLES
from millrace_database.queue_health import HOT_TABLES, OldestTransaction, oldest_transaction
from support.worker_runs import fetch

_ROWS = 200_000
_MEBIBYTE = 2**20

# Tables of a test are small: here a few MiB are much.
_SMALL = replace(DEFAULT_THRESHOLDS, table_bytes=8 * _MEBIBYTE, index_bytes=2 * _MEBIBYTE)

_ADD_JOBS = """
INSERT INTO jobs (job_id, org_id, type, status, created_by, created_at, completed_at, max_attempts, metadata)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
    'acme', 'reports:generate', 'completed', 'ann', now(), now(), 4,
    CASE WHEN n % 10 = 0 THEN jsonb_build_object('n', n) ELSE '{}' END
FROM generate_series(1, $1::integer) AS n
"""


async def _measured(conn: asyncpg.Connection) -> Sizes:
    return await measure_sizes(conn, MAINTAINED_TABLES)


async def _bloat(conn: asyncpg.Connection) -> dict[str, Hint]:
    hints = hints_of(await _measured(conn), None, _SMALL)
    return {hint.name: hint for hint in hints if hint.kind.endswith("bloat")}


async def _vacuumed(database: Database, changed_by: asyncpg.Connection, live: range) -> None:
    """Vacuum until Postgres's statistics say that there are so many live and no dead jobs."""
    # What was changed must not be counted on top of what the vacuum finds.
    await changed_by.execute("SELECT pg_stat_force_next_flush()")
    connection = await database.direct_connection()
    try:
        async with asyncio.timeout(60):
            # Beside an autovacuum that analyses it leaves what has died since that began.
            while True:
                await connection.execute("VACUUM (ANALYZE) jobs", timeout=120)
                if await _is_settled(connection, live):
                    return
    finally:
        await connection.close()


async def _is_settled(conn: asyncpg.Connection, live: range) -> bool:
    (row,) = await conn.fetch("SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'")
    return row["n_live_tup"] in live and row["n_dead_tup"] == 0


async def test_all_tables_are_ours_and_measured(database: Database) -> None:
    async with database.connection() as conn:
        sizes = await _measured(conn)
        there = await conn.fetch("SELECT relname FROM pg_stat_user_tables WHERE relname !~ 'version'")
    assert {table.name for table in sizes.tables} == {row["relname"] for row in there}
    assert set(HOT_TABLES) <= set(MAINTAINED_TABLES)
    assert {index.table for index in sizes.indexes} <= set(MAINTAINED_TABLES)


async def test_what_was_emptied_is_told_of_and_what_is_full_is_not(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_JOBS, _ROWS, timeout=120)
        await _vacuumed(database, conn, range(_ROWS, _ROWS + 1))
        healthy = await _measured(conn)
        assert await _bloat(conn) == {}

        await conn.execute("DELETE FROM jobs WHERE metadata = '{}' OR job_id::text !~ '0$'", timeout=120)
        await _vacuumed(database, conn, range(1, _ROWS // 10))
        hints = await _bloat(conn)

        assert {"jobs", "jobs_pkey", "jobs_by_org", "jobs_by_org_type", "jobs_by_org_creator"} <= hints.keys()
        assert hints["jobs"].command == "VACUUM (ANALYZE, TRUNCATE) jobs"
        index = hints["jobs_by_org"]
        assert index.command == "REINDEX INDEX CONCURRENTLY jobs_by_org"
        size = await conn.fetchval("SELECT pg_relation_size('jobs_by_org')")
        assert index.bytes == size
        assert index.ratio is not None
        assert index.ratio >= 3

        await conn.execute(index.command, timeout=120)
        after = await _bloat(conn)
        assert "jobs_by_org" not in after
        assert "jobs_pkey" in after

    # What is needed is known to a tenth or so where a table is as it was made.
    for name, least, most in (
        ("jobs_pkey", 0.9, 1.2),
        ("jobs_by_org", 1.6, 2.2),
        ("jobs_by_org_type", 1.6, 2.2),
    ):
        (made,) = (index for index in healthy.indexes if index.name == name)
        assert made.needed_bytes is not None
        # In the order of ids pages are filled, in the opposite one they are split in the middle.
        assert least < made.bytes / made.needed_bytes < most, made
    (table,) = (table for table in healthy.tables if table.name == "jobs")
    assert table.needed_bytes is not None
    assert 0.8 < table.bytes / table.needed_bytes < 1.5


async def test_keys_that_come_in_no_order_are_no_bloat(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_JOBS.replace("'ann'", "md5(n::text)"), 60_000, timeout=120)
        await _vacuumed(database, conn, range(60_000, 60_001))
        assert await _bloat(conn) == {}
        (index,) = (index for index in (await _measured(conn)).indexes if index.name == "jobs_by_org_creator")
    assert index.needed_bytes is not None
    assert 1 < index.bytes / index.needed_bytes < 2.2


async def test_of_a_table_that_was_never_analyzed_nothing_is_known(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)")
        await conn.execute(_ADD_JOBS, 1_000)
        sizes = await _measured(conn)
    (table,) = (table for table in sizes.tables if table.name == "jobs")
    assert table.needed_bytes is None
    assert all(index.needed_bytes is None for index in sizes.indexes if index.table == "jobs")


async def test_an_index_that_was_not_built_to_its_end_is_named(database: Database) -> None:
    async with database.connection() as conn:
        await conn.execute(
            "INSERT INTO datasets (dataset_id, org_id, name) VALUES (gen_random_uuid(), 'a', 'a')"
        )
        await conn.execute(
            "INSERT INTO datasets (dataset_id, org_id, name) VALUES (gen_random_uuid(), 'a', 'b')"
        )
        with pytest.raises(asyncpg.UniqueViolationError):
            await conn.execute("CREATE UNIQUE INDEX CONCURRENTLY one_of_each ON datasets (org_id)")
        (hint,) = hints_of(await _measured(conn), None)
    assert (hint.kind, hint.name) == ("invalid_index", "one_of_each")
    assert hint.command == "REINDEX INDEX CONCURRENTLY one_of_each"


async def test_what_holds_vacuum_back_is_named(database: Database) -> None:
    async with database.transaction() as holding, database.connection() as conn:
        await holding.execute("SELECT pg_current_xact_id()")
        pid = holding.get_server_pid()
        for _ in range(3):
            await fetch(database, "SELECT pg_current_xact_id()")
        oldest = await oldest_transaction(conn, old=timedelta(0))
        assert await oldest_transaction(conn) is None
    assert oldest is not None
    assert oldest.pid == pid
    (hint,) = hints_of(_no_sizes(), oldest)
    assert (hint.kind, hint.command) == ("old_transaction", f"SELECT pg_terminate_backend({pid})")
    assert "idle in transaction" in hint.found


_NOW = datetime(2026, 5, 1, 3, 30, tzinfo=UTC)
_TABLE = TableSize(
    name="jobs",
    live_rows=1_000_000,
    dead_rows=0,
    changes=0,
    bytes=2**30,
    needed_bytes=2**30,
    last_vacuum_at=_NOW - timedelta(days=2),
    last_analyze_at=_NOW,
    unfrozen_age=1_000,
)


def _no_sizes(*tables: TableSize, indexes: Sequence[IndexSize] = ()) -> Sizes:
    return Sizes(tables, indexes, freeze_age=200_000_000, measured_at=_NOW)


@pytest.mark.parametrize(
    ("table", "command"),
    [
        (_TABLE, None),
        (replace(_TABLE, dead_rows=199_999), None),
        (replace(_TABLE, dead_rows=200_000), "VACUUM (ANALYZE) jobs"),
        (replace(_TABLE, dead_rows=200_000, last_vacuum_at=None), "VACUUM (ANALYZE) jobs"),
        (replace(_TABLE, dead_rows=200_000, last_vacuum_at=_NOW - timedelta(minutes=1)), None),
        (replace(_TABLE, live_rows=0, dead_rows=9_999), None),
        (replace(_TABLE, changes=499_999), None),
        (replace(_TABLE, changes=500_000), "ANALYZE jobs"),
        (replace(_TABLE, unfrozen_age=250_000_000), None),
        (replace(_TABLE, unfrozen_age=250_000_001), "VACUUM (FREEZE) jobs"),
        (replace(_TABLE, bytes=3 * 2**30 - 1), None),
        (replace(_TABLE, bytes=3 * 2**30), "VACUUM (ANALYZE, TRUNCATE) jobs"),
        (replace(_TABLE, bytes=2**27, needed_bytes=0), None),
        (replace(_TABLE, bytes=2**29, needed_bytes=0), "VACUUM (ANALYZE, TRUNCATE) jobs"),
        (replace(_TABLE, bytes=2**40, needed_bytes=None), None),
    ],
)
def test_what_is_said_of_a_table(table: TableSize, command: str | None) -> None:
    hints = hints_of(_no_sizes(table), None)
    assert [hint.command for hint in hints] == ([] if command is None else [command])


@pytest.mark.parametrize(
    ("index", "command"),
    [
        (IndexSize("i", "jobs", 2**30, 2**30, is_valid=True), None),
        (IndexSize("i", "jobs", 3 * 2**24, 2**24, is_valid=True), "REINDEX INDEX CONCURRENTLY i"),
        (IndexSize("i", "jobs", 3 * 2**24 - 1, 2**24, is_valid=True), None),
        (IndexSize("i", "jobs", 2**24, 8192, is_valid=True), None),
        (IndexSize("i", "jobs", 2**40, None, is_valid=True), None),
        (IndexSize("i", "jobs", 8192, None, is_valid=False), "REINDEX INDEX CONCURRENTLY i"),
        (IndexSize("i_ccnew1", "jobs", 8192, None, is_valid=False), "DROP INDEX CONCURRENTLY i_ccnew1"),
        (
            IndexSize("i_ccnewton", "jobs", 8192, None, is_valid=False),
            "REINDEX INDEX CONCURRENTLY i_ccnewton",
        ),
        (
            IndexSize('I\'m "i"', "jobs", 8192, None, is_valid=False),
            'REINDEX INDEX CONCURRENTLY "I\'m ""i"""',
        ),
        (IndexSize("I", "jobs", 3 * 2**24, 2**24, is_valid=True), 'REINDEX INDEX CONCURRENTLY "I"'),
    ],
)
def test_what_is_said_of_an_index(index: IndexSize, command: str | None) -> None:
    hints = hints_of(_no_sizes(indexes=[index]), None)
    assert [hint.command for hint in hints] == ([] if command is None else [command])


@pytest.mark.parametrize(
    ("state", "owner", "command"),
    [
        ("replication slot", "x", "SELECT pg_drop_replication_slot('x')"),
        ("prepared transaction", "it's x", "ROLLBACK PREPARED 'it''s x'"),
        ("", "x", "SELECT pg_terminate_backend(0)"),
    ],
)
def test_how_a_transaction_is_ended(state: str, owner: str, command: str) -> None:
    (hint,) = hints_of(_no_sizes(), OldestTransaction(0, owner, state, None, 10_000))
    assert hint.command == command


def test_what_rows_need() -> None:
    # 32 for its header and a bit for each column, 16 of data, a pointer of 4: 157 rows on a page.
    assert table_bytes(157, 16, 20, 100, page=8192) == 8192
    assert table_bytes(158, 16, 20, 100, page=8192) == 2 * 8192
    assert table_bytes(0, 16, 20, 100, page=8192) == 0
    # 8 for its header, 16 of data, a pointer of 4: 262 entries on a page that is filled to 90 %.
    assert btree_bytes(262, 16, 90, page=8192) == 2 * 8192
    assert btree_bytes(263, 16, 90, page=8192) == 3 * 8192

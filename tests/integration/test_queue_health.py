"""What operators are told of the queue, against states that are known."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_flow import add_flow, remove_old_flow
from millrace_database.queue_health import (
    HOT_TABLES,
    MOST_DEPTHS,
    OldestTransaction,
    QueueDepth,
    queue_health,
)

_NOTHING = timedelta()

_ADD = """
INSERT INTO queue (id, type, tenant, max_attempts, state, attempt, fence, worker_id, parked_by, run_at)
SELECT gen_random_uuid(), $1, $2, 4, $3::text, CASE WHEN running THEN 1 ELSE 0 END,
    CASE WHEN running THEN nextval('queue_fence') END, CASE WHEN running THEN gen_random_uuid() END,
    CASE WHEN $3 = 'parked' THEN 'tenant' END, now() + $5::interval + n * interval '1 s'
FROM generate_series(0, $4::integer - 1) AS n, LATERAL (SELECT $3::text = 'running' AS running) AS derived
"""


async def _add(
    conn: asyncpg.Connection, type_: str, tenant: str, state: str, count: int, *, run_in: timedelta = _NOTHING
) -> None:
    await conn.execute(_ADD, type_, tenant, state, count, run_in)


async def _depths(
    conn: asyncpg.Connection, type_: str = "", org_id: str = ""
) -> dict[tuple[str, str], QueueDepth]:
    health = await queue_health(conn, type_, org_id)
    return {(depth.type, depth.org_id): depth for depth in health.depths}


async def test_an_empty_queue(database: Database) -> None:
    async with database.connection() as conn:
        health = await queue_health(conn)
    assert health.depths == []
    assert [table.table for table in health.tables] == list(HOT_TABLES)
    assert health.oldest_transaction is None


async def test_jobs_are_counted_by_type_organisation_and_state(database: Database) -> None:
    async with database.transaction() as conn:
        for state, count in (("ready", 3), ("scheduled", 5), ("parked", 7), ("running", 11)):
            await _add(conn, "imports:load", "acme", state, count, run_in=-timedelta(hours=1))
        await _add(conn, "imports:load", "other", "ready", 2, run_in=-timedelta(hours=2))
        await _add(conn, "reports:generate", "acme", "parked", 1, run_in=-timedelta(minutes=5))
        await _add(conn, "reports:generate", "acme", "scheduled", 1, run_in=timedelta(hours=1))
        await _add(conn, "reports:generate", "acme", "running", 1, run_in=-timedelta(days=1))
        health = await queue_health(conn)

    assert [
        (depth.type, depth.org_id, depth.ready, depth.scheduled, depth.held, depth.running)
        for depth in health.depths
    ] == [
        ("imports:load", "acme", 3, 5, 7, 11),
        ("reports:generate", "acme", 0, 1, 1, 1),
        ("imports:load", "other", 2, 0, 0, 0),
    ]
    assert [depth.oldest_wait for depth in health.depths] == [
        timedelta(hours=1),
        timedelta(minutes=5),
        timedelta(hours=2),
    ]


async def test_nobody_waits_when_all_run_or_have_time(database: Database) -> None:
    async with database.transaction() as conn:
        await _add(conn, "a", "acme", "running", 1, run_in=-timedelta(hours=1))
        await _add(conn, "a", "acme", "scheduled", 1, run_in=timedelta(hours=1))
        assert (await _depths(conn))["a", "acme"].oldest_wait is None


async def test_only_what_was_asked_for_is_counted(database: Database) -> None:
    async with database.transaction() as conn:
        for type_, org_id in (("a", "acme"), ("a", "other"), ("b", "acme")):
            await _add(conn, type_, org_id, "ready", 1)
            await add_flow(conn, new_id(), {(type_, org_id): (1, 1)})
        assert set(await _depths(conn, "a")) == {("a", "acme"), ("a", "other")}
        assert set(await _depths(conn, "", "acme")) == {("a", "acme"), ("b", "acme")}
        assert set(await _depths(conn, "b", "acme")) == {("b", "acme")}
        assert set(await _depths(conn, "b", "other")) == set()


_TYPE = "INSERT INTO queue_types (type, {}) VALUES ('a', {})"
_TENANT = "INSERT INTO queue_tenants (tenant, {}) VALUES ('acme', {})"
_RATE = "INSERT INTO queue_rates (type, tenant, next_at) VALUES ('{}', '{}', now() + interval '1 minute')"


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ([_TYPE.format("paused", "true")], {"acme": 4, "other": 3}),
        ([_TYPE.format("max_running", "3")], {"acme": 4, "other": 3}),
        ([_TYPE.format("max_running", "4")], {"acme": 1, "other": 0}),
        ([_TYPE.format("max_running_per_tenant", "2")], {"acme": 4, "other": 0}),
        (
            [_TYPE.format("rate_count, rate_period", "1, '1 s'"), _RATE.format("a", "")],
            {"acme": 4, "other": 3},
        ),
        ([_TYPE.format("rate_count, rate_period", "1, '1 s'")], {"acme": 1, "other": 0}),
        (
            [_TYPE.format("tenant_rate_count, tenant_rate_period", "1, '1 s'"), _RATE.format("a", "acme")],
            {"acme": 4, "other": 0},
        ),
        ([_TENANT.format("paused", "true")], {"acme": 4, "other": 0}),
        ([_TENANT.format("max_running", "2")], {"acme": 4, "other": 0}),
        ([_TENANT.format("max_running", "3")], {"acme": 1, "other": 0}),
        (
            [_TENANT.format("rate_count, rate_period", "1, '1 s'"), _RATE.format("", "acme")],
            {"acme": 4, "other": 0},
        ),
    ],
)
@pytest.mark.parametrize("org_id", ["", "acme"])
async def test_what_stands_before_a_shut_gate_is_held(
    database: Database, settings: list[str], held: dict[str, int], org_id: str
) -> None:
    async with database.transaction() as conn:
        for setting in settings:
            await conn.execute(setting)
        await _add(conn, "a", "acme", "ready", 3)
        await _add(conn, "a", "acme", "parked", 1)
        await _add(conn, "a", "acme", "running", 2)
        await _add(conn, "a", "other", "ready", 3)
        await _add(conn, "a", "other", "running", 1)
        await conn.execute("UPDATE queue SET gated = true WHERE state = 'running'")
        depths = await _depths(conn, org_id=org_id)

    for (_, tenant), depth in depths.items():
        waiting = 4 if tenant == "acme" else 3
        assert (depth.held, depth.ready) == (held[tenant], waiting - held[tenant])
    assert len(depths) == (1 if org_id else 2)


async def test_only_the_deepest_are_told(database: Database) -> None:
    async with database.transaction() as conn:
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts) SELECT gen_random_uuid(), 'a', n::text, 1"
            " FROM generate_series(1, $1::integer) AS n",
            MOST_DEPTHS + 5,
        )
        await _add(conn, "z", "zz", "ready", 2)
        health = await queue_health(conn)
    assert len(health.depths) == MOST_DEPTHS
    assert (health.depths[0].type, health.depths[0].org_id) == ("z", "zz")


async def _move_flow(conn: asyncpg.Connection, by: timedelta) -> None:
    await conn.execute("UPDATE job_flow SET bucket = bucket - $1::interval", by)


async def test_rates_are_those_of_the_last_minute_over_all_processes(database: Database) -> None:
    async with database.transaction() as conn:
        await add_flow(conn, new_id(), {("a", "acme"): (6000, 1), ("b", "acme"): (1, 0)})
        await _move_flow(conn, timedelta(seconds=80))
        one, other = new_id(), new_id()
        await add_flow(conn, one, {("a", "acme"): (100, 50)})
        await _move_flow(conn, timedelta(seconds=30))
        await add_flow(conn, one, {("a", "acme"): (200, 0)})
        await add_flow(conn, one, {("a", "acme"): (300, 25)})
        await add_flow(conn, other, {("a", "acme"): (60, 45)})
        depths = await _depths(conn)

    assert set(depths) == {("a", "acme")}
    depth = depths["a", "acme"]
    assert (depth.ready, depth.running, depth.oldest_wait) == (0, 0, None)
    # What was counted within 60 to 70 s, depending on where in its 10 s the moment lies.
    assert 660 / 70 <= depth.created_per_second <= 660 / 60
    assert depth.finished_per_second == pytest.approx(depth.created_per_second * 120 / 660)


async def test_old_counts_are_removed(database: Database) -> None:
    async with database.transaction() as conn:
        await add_flow(conn, new_id(), {("a", str(n)): (1, 1) for n in range(5)})
        await _move_flow(conn, timedelta(minutes=6))
        await add_flow(conn, new_id(), {("a", "acme"): (1, 1)})
        assert await remove_old_flow(conn, limit=3) == 3
        assert await remove_old_flow(conn, limit=3) == 2
        assert await remove_old_flow(conn, limit=3) == 0
        assert await conn.fetchval("SELECT org_id FROM job_flow") == "acme"


async def test_tables_tell_their_rows_size_and_vacuum(database: Database) -> None:
    async with database.connection() as conn:
        before = {table.table: table for table in (await queue_health(conn)).tables}["queue"]
        await _add(conn, "a", "acme", "ready", 2000)
        await conn.execute("DELETE FROM queue WHERE id IN (SELECT id FROM queue LIMIT 500)")
        await conn.execute("SELECT pg_stat_force_next_flush()")
        after = {table.table: table for table in (await queue_health(conn)).tables}["queue"]
        await conn.execute("VACUUM queue")
        vacuumed = {table.table: table for table in (await queue_health(conn)).tables}["queue"]
    assert (before.live_rows, before.last_vacuum_at) == (0, None)
    assert after.live_rows == 1500
    assert after.size_bytes > before.size_bytes + 100_000
    assert vacuumed.dead_rows == 0
    assert vacuumed.last_vacuum_at is not None


@pytest.fixture
async def session(database_url: str, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session of somebody else, to be left in a transaction."""
    other = await Database.open(database_url, application_name="nightly report")
    connection = await other.direct_connection()
    yield connection
    await connection.close()
    await other.close()


async def _oldest(database: Database, old: timedelta = _NOTHING) -> OldestTransaction | None:
    async with database.connection() as conn:
        return (await queue_health(conn, old=old)).oldest_transaction


async def _burn(database: Database, transactions: int) -> None:
    async with database.connection() as conn:
        for _ in range(transactions):
            await conn.execute("SELECT pg_current_xact_id()")


async def test_a_session_that_is_idle_in_its_transaction_is_named(
    database: Database, session: asyncpg.Connection
) -> None:
    await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await session.fetch("SELECT count(*) FROM jobs")
    await _burn(database, 20)

    oldest = await _oldest(database)

    assert oldest is not None
    assert (oldest.pid, oldest.owner, oldest.state) == (
        session.get_server_pid(),
        "nightly report as postgres",
        "idle in transaction",
    )
    assert oldest.transactions_behind >= 20
    assert oldest.started_at == await session.fetchval("SELECT now()")
    await session.execute("ROLLBACK")
    assert await _oldest(database) is None


async def test_a_transaction_that_wrote_holds_back_without_a_snapshot(
    database: Database, session: asyncpg.Connection
) -> None:
    await session.execute("BEGIN")
    await session.execute(
        "INSERT INTO datasets (dataset_id, org_id, name) VALUES (gen_random_uuid(), 'acme', 'x')"
    )
    await _burn(database, 5)
    oldest = await _oldest(database)
    assert oldest is not None
    assert oldest.pid == session.get_server_pid()
    assert oldest.transactions_behind >= 5


async def test_one_that_only_read_and_has_no_snapshot_holds_back_nothing(
    database: Database, session: asyncpg.Connection
) -> None:
    await session.execute("BEGIN")
    await session.execute("SELECT count(*) FROM jobs")
    await _burn(database, 5)
    assert await _oldest(database) is None


async def test_young_transactions_are_nobodys_concern(
    database: Database, session: asyncpg.Connection
) -> None:
    await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await session.fetch("SELECT count(*) FROM jobs")
    await _burn(database, 5)
    assert await _oldest(database, timedelta(minutes=1)) is None


async def test_the_oldest_of_several_is_told(database: Database, session: asyncpg.Connection) -> None:
    await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await session.fetch("SELECT count(*) FROM jobs")
    await _burn(database, 3)
    async with database.transaction() as younger:
        await younger.execute("SELECT pg_current_xact_id()")
        oldest = await _oldest(database)
    assert oldest is not None
    assert oldest.pid == session.get_server_pid()


async def test_it_is_told_while_others_claim(database: Database) -> None:
    async with database.transaction() as conn:
        await _add(conn, "a", "acme", "ready", 1)
        await conn.fetch("SELECT id FROM queue FOR UPDATE")
        async with asyncio.timeout(5), database.connection() as other:
            assert (await queue_health(other)).depths == []

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    Concurrency,
    NewEntry,
    Outlook,
    TypeGates,
    claim,
    complete,
    enqueue,
    keep_lines,
    look,
    pause_tenant,
    pause_type,
    set_type_limits,
)
from support.queue_samples import PLENTY, lose_heartbeat, new_worker, sample_entry

NOTHING = Outlook(ready=False, behind=False, lost=False, gates=False, due_in=None, expires_in=None)


async def outlook(conn: asyncpg.Connection, *types: str, from_beginning: bool = True) -> Outlook:
    return await look(conn, types or ("a",), from_beginning=from_beginning)


async def claim_all(conn: asyncpg.Connection, worker_id: UUID) -> None:
    async with conn.transaction():
        claims = await claim(conn, worker_id, {"a": PLENTY}, PLENTY)
        await complete(conn, [entry.lease for entry in claims])


async def in_time(conn: asyncpg.Connection, delay: timedelta) -> datetime:
    time: datetime = await conn.fetchval("SELECT now() + $1::interval", delay)
    return time


def with_options(**options: Any) -> NewEntry:
    return NewEntry(new_id(), "a", "acme", 4, **options)


async def test_an_empty_queue_has_nothing_to_do(database: Database) -> None:
    async with database.connection() as conn:
        await new_worker(conn)

        assert await outlook(conn) == NOTHING


async def test_what_is_ready_concerns_those_who_run_its_type(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [sample_entry("a", priority=3)])

        assert (await outlook(conn)).ready
        assert not (await outlook(conn, "b")).ready
        await pause_type(conn, "a")
        assert not (await outlook(conn)).ready
        await conn.execute("UPDATE queue_types SET paused = false")
        await claim_all(conn, worker_id)
        assert await outlook(conn) == NOTHING


async def test_an_entry_before_the_start_of_its_line_is_behind(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry("a")])
        await conn.execute("UPDATE queue_lines SET start = 10, next_start = 10")

        assert (await outlook(conn)).behind
        assert not (await outlook(conn)).ready
        assert not (await outlook(conn, from_beginning=False)).behind


async def test_an_entry_that_a_release_without_lines_wrote_is_behind(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry("a")])
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts, priority) VALUES ($1, 'a', 'acme', 4, 5)",
            new_id(),
        )

        assert (await outlook(conn)).behind
        assert not (await outlook(conn, from_beginning=False)).behind
        await keep_lines(conn, {}, from_beginning=True)
        assert not (await outlook(conn)).behind


async def test_a_worker_that_is_late_or_gone_is_lost(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [sample_entry("a")])
        await claim(conn, worker_id, {"a": 1}, 1)
        assert not (await outlook(conn)).lost

        await lose_heartbeat(conn, worker_id)
        assert (await outlook(conn)).lost
        await conn.execute("DELETE FROM queue_workers")
        assert (await outlook(conn)).lost


async def test_gates_are_wanted_while_there_are_any(database: Database) -> None:
    async with database.connection() as conn:
        assert not (await outlook(conn)).gates
        await set_type_limits(conn, "a", TypeGates(max_running=1))
        assert (await outlook(conn)).gates
        await set_type_limits(conn, "a", TypeGates())
        assert not (await outlook(conn)).gates
        async with conn.transaction():
            await pause_tenant(conn, "acme")
        assert (await outlook(conn)).gates


async def test_a_concurrency_key_makes_gates_wanted(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [with_options(concurrency=Concurrency("k"))])

        assert (await outlook(conn)).gates


async def test_the_next_times_are_told(database: Database) -> None:
    async with database.connection() as conn:
        for minutes in (30, 10, 20):
            time = await in_time(conn, timedelta(minutes=minutes))
            await enqueue(conn, [with_options(run_at=time, expires_at=time + timedelta(minutes=5))])

        seen = await outlook(conn)

    assert seen.due_in is not None
    assert 540 < seen.due_in <= 600
    assert seen.expires_in is not None
    assert 840 < seen.expires_in <= 900


async def test_what_is_overdue_is_due_now(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [with_options(run_at=await in_time(conn, timedelta(hours=1)))])
        await conn.execute("UPDATE queue SET run_at = now() - interval '1 h'")

        assert (await outlook(conn)).due_in == 0

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_queue import (
    Claim,
    NewEntry,
    ServedRanks,
    claim,
    complete,
    enqueue,
    hand_back,
    keep_lines,
    promote,
    statements,
)
from support.queue_samples import PLENTY, new_worker, sample_entry


def entries_of(tenant: str, count: int, *, priority: int = 0) -> list[NewEntry]:
    return [sample_entry("a", tenant=tenant, priority=priority) for _ in range(count)]


async def served(conn: asyncpg.Connection, worker_id: UUID, count: int = PLENTY) -> list[Claim]:
    claims = await claim(conn, worker_id, {"a": count}, count)
    await complete(conn, [entry.lease for entry in claims])
    return claims


def tenants(claims: Sequence[Claim]) -> str:
    return "".join(entry.tenant for entry in claims)


async def moved_on(conn: asyncpg.Connection, ranks: ServedRanks) -> None:
    """Keeps the lines twice, as if a second lay before each time."""
    served_ranks = ranks.take()
    for _ in range(2):
        await conn.execute("UPDATE queue_lines SET kept_at = kept_at - interval '1 s'")
        await keep_lines(conn, served_ranks)


async def test_tenants_take_turns_whoever_came_first(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, entries_of("A", 5))
        await enqueue(conn, [*entries_of("B", 3), *entries_of("C", 1)])

        assert sorted(tenants(await served(conn, worker_id, 3))) == ["A", "B", "C"]
        assert sorted(tenants(await served(conn, worker_id, 2))) == ["A", "B"]
        assert tenants(await served(conn, worker_id))[:2] in ("AB", "BA")


async def test_a_flood_delays_another_tenant_by_one_round(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, entries_of("A", 2000))
        await served(conn, worker_id, 700)
        await enqueue(conn, entries_of("B", 1))

        assert "B" in tenants(await served(conn, worker_id, 2))


async def test_many_at_once_get_their_tenant_no_further_share(database: Database) -> None:
    """Three transactions bring a tenant's entries in at the same time, as a caller does with three batches."""

    async def bring_in() -> None:
        async with database.transaction() as conn:
            await enqueue(conn, entries_of("A", 200))
            # The others come in meanwhile, as far as they do not wait.
            await asyncio.sleep(0.03)

    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, entries_of("B", 1))
        await served(conn, worker_id)
        await asyncio.gather(*(bring_in() for _ in range(3)))
        await enqueue(conn, entries_of("B", 200))

        claims = tenants(await served(conn, worker_id, 200))

    assert 98 <= claims.count("B") <= 102


async def test_an_open_transaction_holds_up_others_for_a_moment_only(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, entries_of("A", 1))
    async with database.transaction() as long, database.transaction() as conn:
        await enqueue(long, entries_of("A", 100))
        async with asyncio.timeout(10):
            assert len(await enqueue(conn, entries_of("A", 100))) == 100


async def test_entries_of_a_tenant_keep_their_order(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        entries = entries_of("A", 30)
        for start in range(0, 30, 10):
            await enqueue(conn, entries[start : start + 10])
            await enqueue(conn, entries_of("B", 5))

        claims = await served(conn, worker_id)

    assert [entry.id for entry in claims if entry.tenant == "A"] == [entry.id for entry in entries]


async def test_a_tenant_of_twice_the_weight_has_twice_the_share(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await conn.execute("INSERT INTO queue_tenants (tenant, weight) VALUES ('A', 2)")
        await enqueue(conn, [*entries_of("B", 100), *entries_of("A", 100)])

        claims = tenants(await served(conn, worker_id, 90))

    assert 58 <= claims.count("A") <= 62


async def test_a_higher_priority_is_found_wherever_the_line_is(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, ranks = await new_worker(conn), ServedRanks()
        await enqueue(conn, entries_of("A", 10))
        ranks.add(await served(conn, worker_id, 5))
        await moved_on(conn, ranks)
        (urgent,) = entries_of("B", 1, priority=3)
        await enqueue(conn, [urgent])

        assert [entry.id for entry in await served(conn, worker_id, 1)] == [urgent.id]


async def test_what_comes_back_is_found_although_its_line_has_gone_on(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, ranks = await new_worker(conn), ServedRanks()
        await enqueue(conn, entries_of("A", 10))
        first = await claim(conn, worker_id, {"a": 2}, 2)
        ranks.add([*first, *await served(conn, worker_id, 4)])
        await moved_on(conn, ranks)
        await hand_back(conn, [entry.lease for entry in first])

        assert {entry.id for entry in await served(conn, worker_id, 3)} >= {entry.id for entry in first}


async def test_what_fell_due_is_served_in_turn_with_what_waits(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, entries_of("A", 20))
        await enqueue(conn, [sample_entry("a", tenant="B", run_at=await _soon(conn)) for _ in range(20)])
        await conn.execute("UPDATE queue SET run_at = now() WHERE state = 'scheduled'")
        assert len(await promote(conn, limit=PLENTY)) == 20

        claims = tenants(await served(conn, worker_id, 20))

    assert 9 <= claims.count("B") <= 11


async def test_what_has_its_rank_from_before_a_line_went_on_is_found(database: Database) -> None:
    """The line is empty again and again, and an entry is on its way while its start moves on."""
    async with database.connection() as conn, database.connection() as slow:
        worker_id, ranks = await new_worker(conn), ServedRanks()
        await enqueue(conn, entries_of("A", 4))
        transaction = slow.transaction()
        await transaction.start()
        (late,) = entries_of("B", 1)
        await enqueue(slow, [late])
        ranks.add(await served(conn, worker_id))
        await conn.execute("UPDATE queue_lines SET kept_at = kept_at - interval '1 s'")
        await keep_lines(conn, ranks.take())
        await keep_lines(conn, {("a", 0): 10**9})
        await transaction.commit()

        assert [entry.id for entry in await served(conn, worker_id)] == [late.id]


async def test_a_late_commit_is_found_by_a_search_from_the_beginning(database: Database) -> None:
    async with database.connection() as conn, database.connection() as slow:
        worker_id, ranks = await new_worker(conn), ServedRanks()
        await enqueue(conn, entries_of("A", 4))
        transaction = slow.transaction()
        await transaction.start()
        (late,) = entries_of("B", 1)
        await enqueue(slow, [late])
        ranks.add(await served(conn, worker_id))
        await moved_on(conn, ranks)
        await transaction.commit()
        assert await served(conn, worker_id) == []

        assert await keep_lines(conn, {}, from_beginning=True)

        assert [entry.id for entry in await served(conn, worker_id)] == [late.id]


async def test_entries_of_a_release_without_lines_are_found(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts, priority) VALUES (gen_random_uuid(), 'a', 'A', 4, 7)"
        )
        await keep_lines(conn, {}, from_beginning=True)

        assert tenants(await served(conn, worker_id)) == "A"


async def test_two_keepers_do_not_wait_for_each_other(database: Database) -> None:
    async with database.connection() as conn, database.transaction() as other:
        await enqueue(conn, entries_of("A", 1))
        await other.execute("SELECT FROM queue_lines FOR UPDATE")

        assert not await keep_lines(conn, {("a", 0): 10**9}, from_beginning=True)


@pytest.mark.parametrize("backlog", [0, 3000])
async def test_a_long_transaction_elsewhere_does_not_slow_claims(database: Database, backlog: int) -> None:
    """What it keeps in the index lies before the start of the line, and is not read again and again."""
    async with database.connection() as old, database.connection() as conn:
        worker_id, ranks = await new_worker(conn), ServedRanks()
        await enqueue(conn, entries_of("A", 5000 + backlog))
        old_transaction = old.transaction(isolation="repeatable_read", readonly=True)
        await old_transaction.start()
        assert await old.fetchval("SELECT count(*) FROM queue") == 5000 + backlog
        for _ in range(10):
            ranks.add(await served(conn, worker_id, 500))

        before = await _blocks_read(conn, worker_id)
        await moved_on(conn, ranks)
        after = await _blocks_read(conn, worker_id)
        await old_transaction.rollback()

    assert after * 4 < before


async def _soon(conn: asyncpg.Connection) -> datetime:
    soon: datetime = await conn.fetchval("SELECT now() + interval '1 hour'")
    return soon


async def _blocks_read(conn: asyncpg.Connection, worker_id: UUID) -> int:
    """How many blocks a claim of one entry reads."""
    transaction = conn.transaction()
    await transaction.start()
    plan = await conn.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statements.CLAIM}", worker_id, ["a"], [1], 1
    )
    await transaction.rollback()
    blocks: int = json.loads(plan)[0]["Plan"]["Shared Hit Blocks"]
    return blocks

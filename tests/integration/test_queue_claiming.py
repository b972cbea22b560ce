import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    ClaimCursor,
    Failure,
    Lease,
    claim,
    complete,
    enqueue,
    fail,
    hand_back,
    statements,
)
from support.queue_samples import PLENTY, claimed_entries, lose_heartbeat, new_worker, sample_entry


async def test_claims_by_priority_then_by_age(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        first, second = sample_entry(), sample_entry()
        urgent, idle = sample_entry(priority=5), sample_entry(priority=-5)

        claims = await claimed_entries(conn, worker_id, idle, second, first, urgent)

    assert [entry.id for entry in claims] == [urgent.id, first.id, second.id, idle.id]
    assert {(entry.attempt, entry.max_attempts, entry.tenant) for entry in claims} == {(1, 4, "acme")}


async def test_the_limit_is_shared_out_by_priority_over_all_types(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        low = [sample_entry("a", priority=1) for _ in range(3)]
        high = [sample_entry("b", priority=2) for _ in range(2)]
        lowest = sample_entry("c")
        await enqueue(conn, [*low, *high, lowest])

        claims = await claim(conn, worker_id, {"a": 10, "b": 10, "c": 10}, 4)

    assert [entry.id for entry in claims] == [high[0].id, high[1].id, low[0].id, low[1].id]


async def test_takes_no_more_of_a_type_than_its_capacity(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [sample_entry(type_) for type_ in ("a", "b", "c") for _ in range(5)])

        claims = await claim(conn, worker_id, {"a": 2, "b": 3, "c": 0, "unknown": 4}, 100)

    assert Counter(entry.type for entry in claims) == {"a": 2, "b": 3}


async def test_claims_nothing_without_capacity(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [sample_entry("a")])

        assert await claim(conn, worker_id, {}, 10) == []
        assert await claim(conn, worker_id, {"a": 0}, 10) == []
        assert await claim(conn, worker_id, {"a": 5}, 0) == []


async def test_entries_of_the_future_are_not_claimed(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        now = datetime.now(UTC)
        past = sample_entry(run_at=now - timedelta(hours=1))

        claims = await claimed_entries(conn, worker_id, past, sample_entry(run_at=now + timedelta(hours=1)))

    assert [entry.id for entry in claims] == [past.id]


async def test_only_registered_workers_claim(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry("a")])

        assert await claim(conn, new_id(), {"a": 1}, 1) == []


async def test_a_late_worker_may_claim_until_it_counts_as_lost(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await lose_heartbeat(conn, worker_id)

        assert len(await claimed_entries(conn, worker_id, sample_entry())) == 1


async def test_many_claimers_share_the_entries_without_claiming_one_twice(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry(type_) for type_ in ("a", "b") for _ in range(150)])
        workers = [await new_worker(conn) for _ in range(5)]
    taken: list[Lease] = []

    async def drain(worker: int) -> None:
        async with database.connection() as conn:
            while len(taken) < 300:
                taken.extend(
                    entry.lease for entry in await claim(conn, workers[worker], {"a": 7, "b": 7}, 10)
                )

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for worker in range(5):
            tasks.create_task(drain(worker))

    assert len(taken) == len({lease.id for lease in taken}) == len({lease.fence for lease in taken}) == 300


async def test_a_claim_passes_over_what_another_is_just_claiming(database: Database) -> None:
    async with database.connection() as conn:
        one, other = await new_worker(conn), await new_worker(conn)
        entries = [sample_entry("a") for _ in range(4)]
        await enqueue(conn, entries)

    async with database.transaction() as first, database.connection() as second:
        assert [entry.id for entry in await claim(first, one, {"a": 2}, 2)] == [e.id for e in entries[:2]]
        assert [entry.id for entry in await claim(second, other, {"a": 2}, 2)] == [e.id for e in entries[2:]]


async def test_each_claim_counts_an_attempt_and_gets_a_new_fence(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (first,) = await claimed_entries(conn, worker_id, sample_entry("a"))
        await fail(conn, [Failure(first.id, first.fence, timedelta())])
        (second,) = await claim(conn, worker_id, {"a": 1}, 1)

    assert (first.attempt, second.attempt) == (1, 2)
    assert second.fence > first.fence


async def test_a_lease_from_before_a_hand_back_is_worth_nothing(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (first,) = await claimed_entries(conn, worker_id, sample_entry("a"))
        await hand_back(conn, [first.lease])
        (second,) = await claim(conn, worker_id, {"a": 1}, PLENTY)

        assert second.attempt == first.attempt
        assert await complete(conn, [first.lease]) == set()
        assert await complete(conn, [second.lease]) == {second.id}


async def test_a_cursor_goes_on_behind_what_was_claimed(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, cursor = await new_worker(conn), ClaimCursor()
        first, *others = [sample_entry("a") for _ in range(6)]
        await enqueue(conn, [first, *others])
        (claimed,) = await claim(conn, worker_id, {"a": 1}, 1, cursor=cursor)
        await hand_back(conn, [claimed.lease])

        assert [entry.id for entry in await claim(conn, worker_id, {"a": 4}, 4, cursor=cursor)] == [
            entry.id for entry in others[:4]
        ]


async def test_a_claim_that_finds_too_little_behind_the_cursor_searches_from_the_beginning(
    database: Database,
) -> None:
    async with database.connection() as conn:
        worker_id, cursor = await new_worker(conn), ClaimCursor()
        first, second, third = [sample_entry("a") for _ in range(3)]
        await enqueue(conn, [first, second, third])
        claimed = await claim(conn, worker_id, {"a": 2}, 2, cursor=cursor)
        await hand_back(conn, [entry.lease for entry in claimed])
        urgent = sample_entry("a", priority=1)
        await enqueue(conn, [urgent])

        found = await claim(conn, worker_id, {"a": 3}, 3, cursor=cursor)

        assert [entry.id for entry in found] == [urgent.id, first.id, third.id]
        assert [entry.id for entry in await claim(conn, worker_id, {"a": 3}, 3, cursor=cursor)] == [second.id]


async def test_the_cursor_goes_back_in_time_for_what_came_before_it(database: Database) -> None:
    times = iter([100.0, 100.0, 100.5, 100.9, 101.1, 101.1, 101.2])
    async with database.connection() as conn:
        worker_id, cursor = await new_worker(conn), ClaimCursor(clock=lambda: next(times))
        entries = [sample_entry("a") for _ in range(10)]
        await enqueue(conn, entries)
        await claim(conn, worker_id, {"a": 1}, 1, cursor=cursor)
        urgent = sample_entry("a", priority=1)
        await enqueue(conn, [urgent])

        claimed = [await claim(conn, worker_id, {"a": 1}, 1, cursor=cursor) for _ in range(4)]

    assert [entry.id for (entry,) in claimed] == [entries[1].id, entries[2].id, urgent.id, entries[3].id]


async def test_types_with_places_left_are_found_although_the_cursor_has_moved(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, cursor = await new_worker(conn), ClaimCursor()
        entries = {type_: [sample_entry(type_) for _ in range(3)] for type_ in ("a", "b")}
        await enqueue(conn, [*entries["a"], *entries["b"]])
        await claim(conn, worker_id, {"a": 3}, 3, cursor=cursor)
        again = sample_entry("a")
        await enqueue(conn, [again])

        found = await claim(conn, worker_id, {"a": 5, "b": 2}, 10, cursor=cursor)

        assert [entry.id for entry in found] == [*(entry.id for entry in entries["b"][:2]), again.id]


async def test_a_type_that_has_nothing_does_not_keep_the_cursor_of_another_at_the_beginning(
    database: Database,
) -> None:
    async with database.connection() as conn:
        worker_id, cursor = await new_worker(conn), ClaimCursor()
        first, *others = [sample_entry("a") for _ in range(4)]
        await enqueue(conn, [first, *others])
        (claimed,) = await claim(conn, worker_id, {"a": 1, "idle": 5}, 10, cursor=cursor)
        await hand_back(conn, [claimed.lease])

        found = await claim(conn, worker_id, {"a": 2, "idle": 5}, 10, cursor=cursor)

        assert [entry.id for entry in found] == [entry.id for entry in others[:2]]


async def test_a_long_transaction_elsewhere_does_not_slow_claims_with_a_cursor(database: Database) -> None:
    """What it keeps in the index lies before the cursor, and is not read again and again."""
    async with database.connection() as old, database.connection() as conn:
        worker_id, cursor = await new_worker(conn), ClaimCursor()
        await enqueue(conn, [sample_entry("a") for _ in range(5000)])
        old_transaction = old.transaction(isolation="repeatable_read", readonly=True)
        await old_transaction.start()
        assert await old.fetchval("SELECT count(*) FROM queue") == 5000
        for _ in range(9):
            claimed = await claim(conn, worker_id, {"a": 500}, 500, cursor=cursor)
            await complete(conn, [entry.lease for entry in claimed])

        rank, id_ = cursor.place("a")
        from_cursor = await _blocks_read(conn, worker_id, rank, id_)
        from_beginning = await _blocks_read(conn, worker_id, -1000, UUID(int=0))
        await old_transaction.rollback()

    assert from_cursor * 4 < from_beginning


async def _blocks_read(conn: asyncpg.Connection, worker_id: UUID, rank: int, id_: UUID) -> int:
    """How many blocks a claim of one entry reads that begins there."""
    transaction = conn.transaction()
    await transaction.start()
    plan = await conn.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statements.CLAIM}", worker_id, ["a"], [1], 1, [rank], [id_]
    )
    await transaction.rollback()
    blocks: int = json.loads(plan)[0]["Plan"]["Shared Hit Blocks"]
    return blocks

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    Failure,
    Lease,
    claim,
    complete,
    enqueue,
    fail,
    hand_back,
)
from support.queue_samples import PLENTY, claimed_entries, lose_heartbeat, new_worker, sample_entry


async def test_claims_by_priority_then_in_the_order_of_coming_in(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        first, second = sample_entry(), sample_entry()
        urgent, idle = sample_entry(priority=5), sample_entry(priority=-5)

        claims = await claimed_entries(conn, worker_id, idle, first, second, urgent)

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

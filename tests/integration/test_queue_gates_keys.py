from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_queue import (
    Claim,
    Failure,
    KeyOrder,
    NewEntry,
    TypeGates,
    cancel,
    enqueue,
    fail,
    promote,
    rescue,
    set_type_limits,
    unblock_key,
)
from support.gates import claimed, completed, enqueued, entry, ids, served, states, swept
from support.queue_samples import PLENTY, lose_heartbeat, make_due, new_worker

_STRICT: list[KeyOrder] = ["block", "skip"]


async def _failed(conn: asyncpg.Connection, claim_: Claim, delay: float | None = None) -> None:
    async with conn.transaction():
        retry_delay = None if delay is None else timedelta(seconds=delay)
        await fail(conn, [Failure(claim_.id, claim_.fence, retry_delay)])


def _strict(order: KeyOrder, priority: int = 0) -> NewEntry:
    return entry(key="k", order=order, priority=priority)


async def test_entries_of_a_key_run_one_after_the_other_and_others_beside(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        keyed = await enqueued(conn, *(entry(key=key) for key in "xxyyy"))
        other_type = await enqueued(conn, entry("b", key="x"))
        other_tenant = await enqueued(conn, entry(tenant="B", key="x"))
        free = await enqueued(conn, entry())

        claims = await claimed(conn, worker_id, "a", "b")

        assert set(ids(claims)) == {keyed[0], keyed[2], *other_type, *other_tenant, *free}
        assert await states(conn) == {"running": 5, "key": 3}
        await completed(conn, claims)
        assert set(ids(await claimed(conn, worker_id))) == {keyed[1], keyed[3]}


async def test_a_key_lets_as_many_run_as_it_says(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry(key="k", limit=3) for _ in range(30)])

        running = await claimed(conn, worker_id)
        assert len(running) == 3
        await completed(conn, running[:2])
        running = [running[2], *await claimed(conn, worker_id)]
        assert len(running) == 3
        await completed(conn, running)
        assert len(await served(conn, worker_id)) == 25


async def test_the_limit_of_the_entry_that_is_to_start_counts(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry(key="k", limit=3) for _ in range(2)])
        assert len(await claimed(conn, worker_id)) == 2
        alone, beside = await enqueued(conn, entry(key="k", limit=1), entry(key="k", limit=3))

        assert ids(await claimed(conn, worker_id)) == [beside]
        assert alone not in ids(await claimed(conn, worker_id))


async def test_the_first_keyed_entry_of_a_busy_type_counts(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry() for _ in range(5)])
        assert len(await claimed(conn, worker_id, limit=2)) == 2
        first, _ = await enqueued(conn, entry(key="k", priority=1), entry(key="k", priority=1))

        claims = await claimed(conn, worker_id)

        assert first in ids(claims)
        assert len(claims) == 4


@pytest.mark.parametrize("order", _STRICT)
async def test_strict_order_is_that_of_coming_in_whatever_the_priority(
    database: Database, order: KeyOrder
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        expected = await enqueued(conn, *(_strict(order, priority=n % 3 - 1) for n in range(9)))

        served_ids: list[UUID] = []
        for _ in range(9):
            (running,) = await claimed(conn, worker_id)
            served_ids.append(running.id)
            await completed(conn, [running])
            await swept(conn)

    assert served_ids == expected


@pytest.mark.parametrize("order", _STRICT)
async def test_a_retry_that_waits_holds_up_those_behind_it(database: Database, order: KeyOrder) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        first, second = await enqueued(conn, _strict(order), _strict(order))
        (running,) = await claimed(conn, worker_id)
        await _failed(conn, running, delay=60)
        newer = await enqueued(conn, _strict(order, priority=5))

        await swept(conn)
        assert await claimed(conn, worker_id) == []
        await make_due(conn)
        await promote(conn, limit=PLENTY)

        assert ids(await served(conn, worker_id)) == [first, second, *newer]


async def test_a_retry_without_strict_order_holds_up_nobody(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        _, second = await enqueued(conn, entry(key="k"), entry(key="k"))
        (running,) = await claimed(conn, worker_id)
        await _failed(conn, running, delay=60)

        assert ids(await claimed(conn, worker_id)) == [second]


@pytest.mark.parametrize("waits", [True, False])
async def test_a_failure_for_good_blocks_its_key_until_somebody_lets_the_rest_go(
    database: Database, waits: bool
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        first, second = _strict("block"), _strict("block")
        await enqueued(conn, *([first, second] if waits else [first]))
        (running,) = await claimed(conn, worker_id)
        await _failed(conn, running)
        if not waits:
            await enqueue(conn, [second])

        await swept(conn)
        assert await claimed(conn, worker_id) == []
        assert await unblock_key(conn, "a", "A", "k") == first.id
        assert await unblock_key(conn, "a", "A", "k") is None
        assert ids(await claimed(conn, worker_id)) == [second.id]


async def test_a_failed_entry_that_is_tried_again_comes_first(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        failing = _strict("block")
        _, second = await enqueued(conn, failing, _strict("block"))
        (running,) = await claimed(conn, worker_id)
        await _failed(conn, running)
        third = await enqueued(conn, _strict("block"))
        assert await claimed(conn, worker_id) == []

        again = NewEntry(failing.id, "a", "A", 8, attempt=1, concurrency=failing.concurrency)
        await enqueue(conn, [again])

        assert ids(await served(conn, worker_id)) == [failing.id, second, *third]


async def test_a_failure_for_good_is_skipped_when_asked(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        _, second = await enqueued(conn, _strict("skip"), _strict("skip"))
        (running,) = await claimed(conn, worker_id)
        await _failed(conn, running)

        assert ids(await claimed(conn, worker_id)) == [second]


@pytest.mark.parametrize("order", _STRICT)
async def test_what_was_cancelled_in_front_holds_up_nobody(database: Database, order: KeyOrder) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        first, second = await enqueued(conn, _strict(order), _strict(order))
        (running,) = await claimed(conn, worker_id)
        await _failed(conn, running, delay=60)
        assert await claimed(conn, worker_id) == []
        await cancel(conn, [first])

        await swept(conn)

        assert ids(await claimed(conn, worker_id)) == [second]


async def test_a_future_entry_has_no_place_yet(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        tomorrow = await conn.fetchval("SELECT now() + interval '1 day'")
        future = _strict("block")
        await enqueue(
            conn, [NewEntry(future.id, "a", "A", 4, run_at=tomorrow, concurrency=future.concurrency)]
        )
        (second,) = await enqueued(conn, _strict("block"))

        assert ids(await claimed(conn, worker_id)) == [second]


async def test_a_lost_worker_leaves_its_place_in_a_strict_key_to_nobody_else(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, other = await new_worker(conn), await new_worker(conn)
        first, second = await enqueued(conn, _strict("block"), _strict("block"))
        await claimed(conn, worker_id)
        await lose_heartbeat(conn, worker_id)
        async with conn.transaction():
            await rescue(conn, limit=PLENTY)
        await swept(conn)

        assert ids(await served(conn, other)) == [first, second]


async def test_the_place_of_a_tenant_goes_to_whoever_its_key_lets_through(database: Database) -> None:
    """What comes back to the line and waits at its key then must not hold the place of its tenant."""
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=2))
        await enqueue(conn, [entry(key="x"), entry(key="y")])
        running = await claimed(conn, worker_id)
        await enqueue(conn, [entry(key="x") for _ in range(40)])
        await enqueue(conn, [entry(key="z")])
        assert await claimed(conn, worker_id) == []
        assert await states(conn) == {"running": 2, "key": 40, "tenant": 1}
        await conn.execute("UPDATE queue SET parked_by = 'tenant' WHERE parked_by = 'key'")

        await completed(conn, running[1:])

        assert len(await claimed(conn, worker_id)) == 1
        assert (await states(conn))["running"] == 2


@pytest.mark.parametrize("order", [None, *_STRICT])
async def test_many_keys_are_all_served(database: Database, order: KeyOrder | None) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=7, max_running_per_tenant=3))
        entries = [entry("a", "ABC"[n % 3], key=f"k{n % 11}", order=order) for n in range(150)]
        await enqueue(conn, entries)

        claims = await served(conn, worker_id)

    assert {claim_.id for claim_ in claims} == {new.id for new in entries}

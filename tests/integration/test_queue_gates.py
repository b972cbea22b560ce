from collections import Counter
from datetime import timedelta

import pytest

from millrace_database.database import Database
from millrace_queue import (
    ClaimGates,
    Rate,
    TypeGates,
    claim,
    confirm,
    enqueue,
    hand_back,
    pause_type,
    resume_type,
    set_tenant,
    set_type_limits,
)
from support.gates import claimed, completed, entry, ids, served, states, swept, tenants
from support.queue_samples import new_worker


async def test_no_more_of_a_type_run_than_may(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, other = await new_worker(conn), await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=3))
        await enqueue(conn, [entry("a", tenant) for tenant in "ABCABC"])

        first = await claimed(conn, worker_id, limit=2)
        second = await claimed(conn, other)
        assert (len(first), len(second)) == (2, 1)
        assert await claimed(conn, other) == []
        await completed(conn, first)
        assert len(await claimed(conn, other)) == 2
        # What cannot start stays where it is: nothing has to be woken up.
        assert await states(conn) == {"running": 3, "ready": 1}


async def test_no_more_of_a_tenant_and_type_run_than_may_and_others_go_on(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=2))
        await enqueue(conn, [entry("a", "A") for _ in range(300)])
        await enqueue(conn, [entry("a", "B") for _ in range(3)])
        await enqueue(conn, [entry("b", "A") for _ in range(3)])

        claims = await claimed(conn, worker_id, "a", "b", limit=20)

        assert tenants([claim_ for claim_ in claims if claim_.type == "a"]) == {"A": 2, "B": 2}
        assert sum(1 for claim_ in claims if claim_.type == "b") == 3
        await completed(conn, claims)
        assert tenants(await served(conn, worker_id, "a")) == {"A": 298, "B": 1}
        assert await states(conn) == {}


async def test_a_tenant_has_a_limit_over_all_types(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=3)
        await enqueue(conn, [entry(type_, tenant) for type_ in "abc" for tenant in "AB" for _ in range(4)])

        claims = await claimed(conn, worker_id, "a", "b", "c")

        assert tenants(claims) == {"A": 3, "B": 12}
        await completed(conn, claims)
        seen = set()
        while claims := await claimed(conn, worker_id, "a", "b", "c"):
            assert len(claims) <= 3
            seen |= {claim_.type for claim_ in claims}
            await completed(conn, claims)
        assert await states(conn) == {}


async def test_limits_hold_together(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=5, max_running_per_tenant=3))
        await set_tenant(conn, "A", max_running=2)
        await enqueue(
            conn, [entry("a", tenant, key=f"k{n % 2}", limit=1) for n in range(20) for tenant in "ABCD"]
        )

        while claims := await claimed(conn, worker_id):
            assert len(claims) <= 5
            assert max(tenants(claims).values()) <= 2
            await completed(conn, claims)
        assert await states(conn) == {}


async def test_what_ran_before_a_limit_was_set_counts(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry() for _ in range(10)])
        before = await claimed(conn, worker_id, limit=4)
        await set_type_limits(conn, "a", TypeGates(max_running=5))

        assert len(await claimed(conn, worker_id)) == 1
        await swept(conn)
        assert await conn.fetchval("SELECT count(*) FROM queue WHERE gated") == 5
        await completed(conn, before)
        assert len(await claimed(conn, worker_id)) == 4


@pytest.mark.parametrize("of_tenant", [False, True])
async def test_what_ran_before_and_is_locked_for_long_counts_all_the_same(
    database: Database, of_tenant: bool
) -> None:
    table = "queue_tenants" if of_tenant else "queue_types"
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry() for _ in range(10)])
        (before,) = await claimed(conn, worker_id, limit=1)
        if of_tenant:
            await set_tenant(conn, "A", max_running=3)
        else:
            await set_type_limits(conn, "a", TypeGates(max_running=3))
        async with database.transaction() as holder:
            await confirm(holder, [before.lease])
            for _ in range(3):
                await conn.execute(f"UPDATE {table} SET gated_since = gated_since - interval '50 seconds'")  # noqa: S608
                await swept(conn)

            assert len(await claimed(conn, worker_id)) == 2


async def test_a_limit_may_be_raised_lowered_and_lifted_at_any_time(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=2))
        await enqueue(conn, [entry() for _ in range(2000)])
        running = await claimed(conn, worker_id)
        assert len(running) == 2

        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=6))
        await swept(conn)
        running += await claimed(conn, worker_id)
        assert len(running) == 6
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        await completed(conn, running[1:])
        assert await claimed(conn, worker_id) == []
        await set_type_limits(conn, "a", TypeGates())
        assert await swept(conn) == {"a"}
        assert len(await served(conn, worker_id)) == 1994


async def test_a_worker_that_is_full_takes_nothing_of_a_type_with_gates(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=10))
        await enqueue(conn, [entry(type_) for type_ in "ab" for _ in range(20)])
        gates = ClaimGates(places={"a": 2, "b": 1})

        claims = await claimed(conn, worker_id, "a", "b", limit=10, gates=gates)

        assert sorted(claim_.type for claim_ in claims) == ["a"] * 2 + ["b"] * 8
        assert gates.gated == {"a"}


async def test_types_with_gates_share_what_room_a_worker_has_for_them(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        for type_ in "abc":
            await set_type_limits(conn, type_, TypeGates(max_running=10))
        await enqueue(conn, [entry(type_) for type_ in "abbbbbbcccccc"])

        claims = await claimed(conn, worker_id, "a", "b", "c", limit=50, gates=ClaimGates(most=7))

        assert Counter(claim_.type for claim_ in claims) == {"a": 1, "b": 3, "c": 3}


async def test_types_without_gates_get_what_those_with_gates_cannot_use(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        await enqueue(conn, [entry("a", "A", priority=5) for _ in range(50)])
        await enqueue(conn, [entry("b", "A") for _ in range(50)])

        claims = await claimed(conn, worker_id, "a", "b", limit=10)

        assert sorted(claim_.type for claim_ in claims) == ["a"] + ["b"] * 9


async def test_a_paused_type_is_left_out_until_it_is_resumed(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry(type_) for type_ in "ab"])
        await pause_type(conn, "a")

        assert [claim_.type for claim_ in await claimed(conn, worker_id, "a", "b")] == ["b"]
        await set_type_limits(conn, "a", TypeGates(max_running=1))
        assert await claimed(conn, worker_id, "a", "b") == []
        await resume_type(conn, "a")
        assert [claim_.type for claim_ in await claimed(conn, worker_id, "a", "b")] == ["a"]


async def test_what_is_handed_back_leaves_its_place(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        first, second = entry(), entry()
        await enqueue(conn, [first])
        await enqueue(conn, [second])
        (running,) = await claimed(conn, worker_id)

        await hand_back(conn, [running.lease])

        assert len(await claimed(conn, worker_id)) == 1
        assert await conn.fetchval("SELECT count(*) FROM queue WHERE gated") == 1


async def test_a_parked_entry_that_is_overdue_takes_no_place(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        await enqueue(conn, [entry() for _ in range(3)])
        running = await claimed(conn, worker_id)
        overdue = await conn.fetchval(
            """UPDATE queue SET expires_at = now() - interval '1 s'
            WHERE id = (SELECT id FROM queue WHERE state = 'parked' ORDER BY rank LIMIT 1) RETURNING id"""
        )

        await completed(conn, running)

        (next_,) = await claimed(conn, worker_id)
        assert next_.id != overdue


async def test_parked_entries_come_back_in_turn_with_other_tenants(database: Database) -> None:
    """A tenant that waits at its gate does not get ahead of those that wait in line."""
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=4, max_running_per_tenant=3))
        await enqueue(conn, [entry("a", "A") for _ in range(100)])
        await enqueue(conn, [entry("a", "B") for _ in range(100)])

        claims = []
        running = await claimed(conn, worker_id)
        for _ in range(60):
            claims.append(running[0])
            await completed(conn, running[:1])
            running = running[1:] + await claimed(conn, worker_id)

    assert 25 <= tenants(claims)["A"] <= 35


@pytest.mark.parametrize("weight", [1, 4])
async def test_priority_and_order_of_parked_entries(database: Database, weight: int) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", weight=weight)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        late, early, high = entry(priority=-1), entry(), entry(priority=3)
        later = entry()
        await enqueue(conn, [entry(priority=9)])
        running = await claimed(conn, worker_id)
        for new in (late, early, high, later):
            await enqueue(conn, [new])
        assert await claimed(conn, worker_id) == []
        await completed(conn, running)

        assert ids(await served(conn, worker_id)) == [high.id, early.id, later.id, late.id]


async def test_no_place_at_all(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=0))
        await enqueue(conn, [entry()])
        assert await claimed(conn, worker_id) == []
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=0))
        assert await claimed(conn, worker_id) == []
        await set_type_limits(conn, "a", TypeGates(tenant_rate=Rate(1, timedelta(days=1))))
        await swept(conn)
        assert len(await claim(conn, worker_id, {"a": 1}, 1)) == 1

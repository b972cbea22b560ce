from datetime import timedelta

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_queue import (
    Rate,
    SweepProgress,
    Tenant,
    TypeGates,
    cancel,
    enqueue,
    get_tenant,
    pause_tenant,
    resume_tenant,
    set_tenant,
    set_type_limits,
    sweep_gates,
)
from support.gates import claimed, completed, entry, ids, served, states, swept, tenants
from support.queue_samples import new_worker


async def test_settings_of_a_tenant(database: Database) -> None:
    async with database.connection() as conn:
        assert await get_tenant(conn, "A") == Tenant()
        await set_tenant(conn, "A", weight=3, max_running=5, rate=Rate(2, timedelta(seconds=1), smooth=True))
        await pause_tenant(conn, "A")
        expected = Tenant(True, 3, 5, Rate(2, timedelta(seconds=1), smooth=True))
        assert await get_tenant(conn, "A") == expected
        await set_tenant(conn, "A")
        assert await get_tenant(conn, "A") == Tenant(paused=True)
        with pytest.raises(asyncpg.CheckViolationError):
            await set_tenant(conn, "A", weight=101)


@pytest.mark.parametrize("gates", [TypeGates(), TypeGates(max_running=100)])
async def test_claims_leave_a_paused_tenant_out_at_once(database: Database, gates: TypeGates) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", gates)
        await enqueue(conn, [entry("a", "A") for _ in range(5)])
        running = await claimed(conn, worker_id, limit=1)
        await conn.execute("INSERT INTO queue_tenants (tenant, paused) VALUES ('A', true)")
        await enqueue(conn, [entry("a", tenant) for tenant in "ABAB"])

        assert tenants(await claimed(conn, worker_id)) == {"B": 2}
        await completed(conn, running)
        await resume_tenant(conn, "A")
        assert tenants(await claimed(conn, worker_id)) == {"A": 6}


async def test_what_a_paused_tenant_has_in_line_is_taken_out_of_it(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [entry("a", "A") for _ in range(1500)])
        await pause_tenant(conn, "A")
        # What comes in later, too.
        await enqueue(conn, [entry("b", "A") for _ in range(700)])
        await enqueue(conn, [entry("a", "B")])
        await swept(conn)

        assert await states(conn) == {"tenant": 2200, "ready": 1}


async def test_a_resumed_tenant_comes_back_in_batches_without_delaying_others(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        entries = [entry("a", "A") for _ in range(3000)]
        await enqueue(conn, entries)
        await pause_tenant(conn, "A")
        await swept(conn)
        await enqueue(conn, [entry("a", "B") for _ in range(500)])
        assert tenants(await claimed(conn, worker_id, limit=100)) == {"B": 100}

        await resume_tenant(conn, "A")
        progress = SweepProgress()
        sweep = await sweep_gates(conn, progress)
        assert (sweep.types, sweep.more) == ({"a"}, True)
        assert 500 <= (await states(conn))["ready"] - 400 <= 2000
        await swept(conn)

        claims = await claimed(conn, worker_id, limit=200)
        assert 90 <= tenants(claims)["B"] <= 110
        of_resumed = [claim_.id for claim_ in claims if claim_.tenant == "A"]
        assert of_resumed == [new.id for new in entries][: len(of_resumed)]
        assert len(await served(conn, worker_id)) == 3200


@pytest.mark.parametrize("max_running", [None, 30])
async def test_a_limit_that_is_lifted_or_raised_leaves_no_place_empty_until_the_next_sweep(
    database: Database, max_running: int | None
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=2)
        await enqueue(conn, [entry("a", "A") for _ in range(40)])
        assert len(await claimed(conn, worker_id)) == 2

        await set_tenant(conn, "A", max_running=max_running)

        assert len(await claimed(conn, worker_id)) == (38 if max_running is None else 28)


async def test_a_limit_that_is_lowered_lets_nothing_go(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=2)
        await enqueue(conn, [entry("a", "A") for _ in range(5)])
        await claimed(conn, worker_id)
        await set_tenant(conn, "A", max_running=1)

        assert await states(conn) == {"running": 2, "tenant": 3}


async def test_a_tenant_that_is_resumed_has_something_in_line_before_the_next_sweep(
    database: Database,
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await enqueue(conn, [entry("a", "A") for _ in range(20)])
        await pause_tenant(conn, "A")
        assert await states(conn) == {"tenant": 20}

        await resume_tenant(conn, "A")

        assert len(await claimed(conn, worker_id)) == 20


async def test_a_tenant_that_is_paused_while_its_entries_wait_at_a_gate(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        await enqueue(conn, [entry() for _ in range(20)])
        running = await claimed(conn, worker_id)
        await pause_tenant(conn, "A")
        await completed(conn, running)
        await swept(conn)
        assert await claimed(conn, worker_id) == []

        await resume_tenant(conn, "A")
        await swept(conn)

        assert len(await claimed(conn, worker_id)) == 1


async def test_a_place_taken_by_a_type_nobody_runs_is_given_to_another(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=1)
        await enqueue(conn, [entry(type_) for type_ in "abcd" for _ in range(3)])
        for _ in range(3):
            await completed(conn, await claimed(conn, worker_id, "a", "b", "c", "d", limit=1))

        done = []
        while True:
            await swept(conn)
            claims = await served(conn, worker_id, "a")
            if not claims:
                break
            done += claims

        assert await conn.fetchval("SELECT count(*) FROM queue WHERE type = 'a'") == 0


async def test_a_parked_entry_can_be_cancelled(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=1)
        await enqueue(conn, [entry() for _ in range(3)])
        running = await claimed(conn, worker_id)
        parked = await conn.fetchval("SELECT id FROM queue WHERE state = 'parked' ORDER BY rank LIMIT 1")

        assert (await cancel(conn, [parked]))[parked].removed
        await completed(conn, running)
        assert parked not in ids(await served(conn, worker_id))
        assert await states(conn) == {}


async def test_a_limit_of_a_tenant_is_lifted(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=1)
        await enqueue(conn, [entry(type_) for type_ in "ab" for _ in range(10)])
        assert len(await claimed(conn, worker_id, "a", "b")) == 1

        await set_tenant(conn, "A")
        await swept(conn)

        assert len(await claimed(conn, worker_id, "a", "b")) == 19

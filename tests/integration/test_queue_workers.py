import asyncio
from datetime import timedelta

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    HeldLease,
    Rescue,
    Rescued,
    cancel,
    claim,
    complete,
    enqueue,
    heartbeat,
    held_leases,
    register_worker,
    rescue,
    unregister_worker,
)
from support.queue_samples import (
    PLENTY,
    blocked_by_others,
    claimed_entries,
    lose_heartbeat,
    new_worker,
    sample_entry,
)


async def test_a_heartbeat_tells_what_the_worker_holds(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, other = await new_worker(conn), await new_worker(conn)
        assert (await heartbeat(conn, worker_id, draining=False)).held == []
        first, second = await claimed_entries(conn, worker_id, sample_entry(), sample_entry())
        await claimed_entries(conn, other, sample_entry())
        await cancel(conn, [second.id])

        beat = await heartbeat(conn, worker_id, draining=True)

        assert beat.known
        assert sorted(beat.held, key=lambda held: held.id) == [
            HeldLease(first.id, first.fence, cancel_requested=False),
            HeldLease(second.id, second.fence, cancel_requested=True),
        ]
        assert await held_leases(conn, worker_id) == beat.held
        assert await conn.fetchval("SELECT draining FROM queue_workers WHERE worker_id = $1", worker_id)


async def test_leases_whose_claim_was_never_answered_can_be_handed_back(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (lost_answer,) = await claimed_entries(conn, worker_id, sample_entry())

        (held,) = (await heartbeat(conn, worker_id, draining=False)).held

        assert held.lease == lost_answer.lease


async def test_the_heartbeat_of_an_unknown_worker_is_refused(database: Database) -> None:
    async with database.connection() as conn:
        beat = await heartbeat(conn, new_id(), draining=False)

    assert not beat.known
    assert beat.held == []


async def test_a_heartbeat_saves_a_worker_that_was_late(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (held,) = await claimed_entries(conn, worker_id, sample_entry())
        await lose_heartbeat(conn, worker_id)
        await heartbeat(conn, worker_id, draining=False)

        assert await rescue(conn, limit=PLENTY) == []
        assert await complete(conn, [held.lease]) == {held.id}


async def test_rescue_goes_by_missing_heartbeats_and_not_by_age(database: Database) -> None:
    async with database.connection() as conn:
        alive, dead = await new_worker(conn), await new_worker(conn)
        await claimed_entries(conn, alive, sample_entry())
        (lost,) = await claimed_entries(conn, dead, sample_entry())
        await conn.execute("UPDATE queue SET run_at = now() - interval '1 year'")
        await conn.execute("UPDATE queue_workers SET started_at = now() - interval '1 year'")
        await lose_heartbeat(conn, dead)

        rescued = await rescue(conn, limit=PLENTY)

        assert rescued == [
            Rescued(
                lost.id,
                lost.type,
                lost.tenant,
                dead,
                1,
                lost.fence,
                Rescue.READY,
                {"address": "127.0.0.1:50053"},
            )
        ]
        assert not (await heartbeat(conn, dead, draining=False)).known
        assert len((await heartbeat(conn, alive, draining=False)).held) == 1


async def test_a_rescued_entry_runs_again_and_its_old_lease_is_void(database: Database) -> None:
    async with database.connection() as conn:
        dead, other = await new_worker(conn), await new_worker(conn)
        (lost,) = await claimed_entries(conn, dead, sample_entry("a"))
        await lose_heartbeat(conn, dead)
        await rescue(conn, limit=PLENTY)

        (again,) = await claim(conn, other, {"a": 1}, 1)

        assert (again.id, again.attempt) == (lost.id, 2)
        assert await complete(conn, [lost.lease]) == set()
        assert await complete(conn, [again.lease]) == {again.id}


async def test_an_entry_that_kills_its_workers_ends(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry("a", max_attempts=2)])
        outcomes = []
        for _ in range(2):
            worker_id = await new_worker(conn)
            assert len(await claim(conn, worker_id, {"a": 1}, 1)) == 1
            await lose_heartbeat(conn, worker_id)
            outcomes += [rescued.outcome for rescued in await rescue(conn, limit=PLENTY)]

        assert outcomes == [Rescue.READY, Rescue.EXHAUSTED]
        assert await conn.fetchval("SELECT count(*) FROM queue") == 0


async def test_an_entry_to_be_cancelled_is_not_run_again(database: Database) -> None:
    async with database.connection() as conn:
        dead = await new_worker(conn)
        (lost,) = await claimed_entries(conn, dead, sample_entry())
        await cancel(conn, [lost.id])
        await lose_heartbeat(conn, dead)

        assert [entry.outcome for entry in await rescue(conn, limit=PLENTY)] == [Rescue.CANCELLED]
        assert await conn.fetchval("SELECT count(*) FROM queue") == 0


async def test_rescue_goes_on_where_its_limit_stopped_it(database: Database) -> None:
    async with database.connection() as conn:
        dead = await new_worker(conn)
        await claimed_entries(conn, dead, *(sample_entry() for _ in range(5)))
        await lose_heartbeat(conn, dead)

        batches = [await rescue(conn, limit=2) for _ in range(4)]
        assert [len(batch) for batch in batches] == [2, 2, 1, 0]
        details = [entry.worker_details for batch in batches for entry in batch]
        assert details == [{"address": "127.0.0.1:50053"}] * 5


async def test_what_an_unregistered_worker_still_holds_says_whose_it_was(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await claimed_entries(conn, worker_id, sample_entry())
        await unregister_worker(conn, worker_id)

        (rescued,) = await rescue(conn, limit=PLENTY)

    assert rescued.worker_details == {"address": "127.0.0.1:50053"}


async def test_lost_workers_are_forgotten_once_nothing_is_left_to_take_back(database: Database) -> None:
    async with database.connection() as conn:
        known = []
        for entries in (0, 3):
            dead = await new_worker(conn)
            await claimed_entries(conn, dead, *(sample_entry() for _ in range(entries)))
            await lose_heartbeat(conn, dead)
        await rescue(conn, limit=2)
        for _ in range(2):
            await conn.execute("UPDATE queue_lost_workers SET removed_at = now() - interval '61 minutes'")
            known.append(await conn.fetchval("SELECT count(*) FROM queue_lost_workers"))
            await rescue(conn, limit=PLENTY)
        await rescue(conn, limit=PLENTY)

        assert known == [2, 1]
        assert await conn.fetchval("SELECT count(*) FROM queue_lost_workers") == 0


async def test_several_rescuers_share_the_entries(database: Database) -> None:
    async with database.connection() as conn:
        for _ in range(10):
            dead = await new_worker(conn)
            await claimed_entries(conn, dead, *(sample_entry() for _ in range(10)))
            await lose_heartbeat(conn, dead)
    rescued: list[Rescued] = []

    async def rescue_all() -> None:
        async with asyncio.timeout(20):
            while len(rescued) < 100:
                async with database.transaction() as conn:
                    rescued.extend(await rescue(conn, limit=7))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(rescue_all())

    assert len(rescued) == len({entry.id for entry in rescued}) == 100


async def test_what_a_worker_claims_while_it_is_removed_is_rescued_too(database: Database) -> None:
    async with database.connection() as rescuer, database.connection() as claimer:
        dead = await new_worker(rescuer)
        await lose_heartbeat(rescuer, dead)
        async with rescuer.transaction():
            assert await rescue(rescuer, limit=PLENTY) == []
            (claimed,) = await claimed_entries(claimer, dead, sample_entry())

        assert [entry.id for entry in await rescue(rescuer, limit=PLENTY)] == [claimed.id]


async def test_a_heartbeat_that_meets_a_rescue_learns_that_it_came_too_late(database: Database) -> None:
    async with database.connection() as rescuer:
        dead = await new_worker(rescuer)
        await claimed_entries(rescuer, dead, sample_entry())
        await lose_heartbeat(rescuer, dead)
        transaction = rescuer.transaction()
        await transaction.start()
        await rescue(rescuer, limit=PLENTY)
        async with blocked_by_others(database, lambda conn: heartbeat(conn, dead, draining=False)) as beat:
            await transaction.commit()
            assert not (await beat).known


async def test_an_entry_that_is_being_completed_is_not_rescued(database: Database) -> None:
    async with database.connection() as worker, database.connection() as rescuer:
        dead = await new_worker(worker)
        (held,) = await claimed_entries(worker, dead, sample_entry())
        await lose_heartbeat(worker, dead)
        async with worker.transaction():
            assert await complete(worker, [held.lease]) == {held.id}
            assert await rescue(rescuer, limit=PLENTY) == []

        assert await rescue(rescuer, limit=PLENTY) == []


async def test_a_completion_that_meets_a_rescue_is_refused(database: Database) -> None:
    async with database.connection() as rescuer:
        dead = await new_worker(rescuer)
        (held,) = await claimed_entries(rescuer, dead, sample_entry())
        await lose_heartbeat(rescuer, dead)
        transaction = rescuer.transaction()
        await transaction.start()
        assert len(await rescue(rescuer, limit=PLENTY)) == 1
        async with blocked_by_others(database, lambda conn: complete(conn, [held.lease])) as completing:
            await transaction.commit()
            assert await completing == set()


async def test_a_clock_set_back_hides_a_dead_worker_for_one_lease_only(database: Database) -> None:
    async with database.connection() as conn:
        dead = await new_worker(conn)
        await claimed_entries(conn, dead, sample_entry())
        await conn.execute("UPDATE queue_workers SET heartbeat_at = now() + interval '1 day'")

        assert await rescue(conn, limit=PLENTY) == []
        await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - lease - interval '1 ms'")
        assert len(await rescue(conn, limit=PLENTY)) == 1


async def test_a_clock_set_forward_costs_an_attempt_but_no_entry(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (held,) = await claimed_entries(conn, worker_id, sample_entry("a"))
        await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - interval '1 day'")

        assert len(await rescue(conn, limit=PLENTY)) == 1
        assert await complete(conn, [held.lease]) == set()
        again = await claim(conn, await new_worker(conn), {"a": 1}, 1)
        assert [entry.id for entry in again] == [held.id]


async def test_a_worker_that_registers_again_finds_what_was_not_rescued_yet(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (held,) = await claimed_entries(conn, worker_id, sample_entry())
        await unregister_worker(conn, worker_id)
        assert not (await heartbeat(conn, worker_id, draining=False)).known

        await register_worker(conn, worker_id, lease=timedelta(seconds=3), details={})

        assert [lease.id for lease in await held_leases(conn, worker_id)] == [held.id]
        assert await rescue(conn, limit=PLENTY) == []


async def test_what_an_unregistered_worker_still_holds_is_rescued(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await claimed_entries(conn, worker_id, sample_entry())
        await unregister_worker(conn, worker_id)

        assert len(await rescue(conn, limit=PLENTY)) == 1


async def test_a_lease_without_length_is_refused(database: Database) -> None:
    async with database.connection() as conn:
        with pytest.raises(asyncpg.CheckViolationError):
            await register_worker(conn, new_id(), lease=timedelta(), details={})

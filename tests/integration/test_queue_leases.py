import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    CancelOutcome,
    Claim,
    Failure,
    HandBack,
    Lease,
    Settled,
    cancel,
    cancel_free,
    complete,
    confirm,
    confirm_alone,
    enqueue,
    fail,
    hand_back,
    settle_cancelled,
)
from support.queue_samples import blocked_by_others, claimed_entries, new_worker, sample_entry

SOON = timedelta(minutes=5)


async def _one_claim(conn: asyncpg.Connection, *, max_attempts: int = 4) -> Claim:
    worker_id = await new_worker(conn)
    (claimed,) = await claimed_entries(conn, worker_id, sample_entry(max_attempts=max_attempts))
    return claimed


async def _entry(conn: asyncpg.Connection, id_: UUID) -> asyncpg.Record | None:
    return await conn.fetchrow("SELECT *, run_at - now() AS wait FROM queue WHERE id = $1", id_)


def _failure(claimed: Claim, retry_delay: timedelta | None) -> Failure:
    return Failure(claimed.id, claimed.fence, retry_delay)


async def test_a_completed_entry_is_gone(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)

        assert await complete(conn, [claimed.lease]) == {claimed.id}
        assert await _entry(conn, claimed.id) is None
        assert await complete(conn, [claimed.lease]) == set()


async def test_a_failed_entry_waits_for_its_next_attempt(database: Database) -> None:
    async with database.transaction() as conn:
        claimed = await _one_claim(conn)

        outcome = (await fail(conn, [_failure(claimed, SOON)]))[claimed.id]

        assert outcome.settled is Settled.RETRYING
        entry = await _entry(conn, claimed.id)
        assert entry is not None
        assert entry["wait"] == SOON
        assert outcome.run_at == entry["run_at"]
        assert (entry["state"], entry["attempt"]) == ("scheduled", 1)


async def test_without_a_delay_a_failed_entry_is_ready_at_once(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)

        await fail(conn, [_failure(claimed, timedelta())])

        entry = await _entry(conn, claimed.id)
        assert entry is not None
        assert entry["state"] == "ready"


@pytest.mark.parametrize(("max_attempts", "retry_delay"), [(1, SOON), (4, None)])
async def test_an_entry_fails_for_good(
    database: Database, max_attempts: int, retry_delay: timedelta | None
) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn, max_attempts=max_attempts)

        outcome = (await fail(conn, [_failure(claimed, retry_delay)]))[claimed.id]

        assert (outcome.settled, outcome.run_at) == (Settled.FAILED, None)
        assert await _entry(conn, claimed.id) is None


async def test_an_attempt_that_does_not_count_is_given_back(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn, max_attempts=1)

        outcome = (await fail(conn, [Failure(claimed.id, claimed.fence, SOON, counts=False)]))[claimed.id]

        assert outcome.settled is Settled.RETRYING
        entry = await _entry(conn, claimed.id)
        assert entry is not None
        assert (entry["state"], entry["attempt"], entry["run_at"]) == ("scheduled", 0, outcome.run_at)


async def test_each_failure_of_a_batch_has_its_own_outcome(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        claims = await claimed_entries(conn, worker_id, *(sample_entry(max_attempts=n) for n in (1, 2, 2, 2)))
        last, retried, hopeless, cancelled = claims
        await cancel(conn, [cancelled.id])
        stale = Failure(retried.id, retried.fence - 1000, SOON)

        assert (await fail(conn, [stale]))[retried.id].settled is Settled.LOST
        outcomes = await fail(
            conn,
            [_failure(claimed, None if claimed is hopeless else SOON) for claimed in reversed(claims)],
        )

    assert {id_: outcome.settled for id_, outcome in outcomes.items()} == {
        last.id: Settled.FAILED,
        retried.id: Settled.RETRYING,
        hopeless.id: Settled.FAILED,
        cancelled.id: Settled.CANCELLED,
    }


async def test_a_completion_wins_over_a_requested_cancellation(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
        await cancel(conn, [claimed.id])

        assert await complete(conn, [claimed.lease]) == {claimed.id}


async def test_only_a_requested_cancellation_settles_an_entry(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
        assert await settle_cancelled(conn, [claimed.lease]) == set()
        await cancel(conn, [claimed.id])

        assert await settle_cancelled(conn, [Lease(claimed.id, claimed.fence + 1)]) == set()
        assert await settle_cancelled(conn, [claimed.lease]) == {claimed.id}
        assert await _entry(conn, claimed.id) is None


async def test_an_entry_handed_back_has_not_lost_an_attempt(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn, max_attempts=1)

        assert await hand_back(conn, [claimed.lease]) == {claimed.id: HandBack.READY}
        entry = await _entry(conn, claimed.id)
        assert entry is not None
        assert (entry["state"], entry["attempt"], entry["worker_id"]) == ("ready", 0, None)
        assert await hand_back(conn, [claimed.lease]) == {claimed.id: HandBack.LOST}


async def test_handing_back_what_was_to_be_cancelled_cancels_it(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
        await cancel(conn, [claimed.id])

        assert await hand_back(conn, [claimed.lease]) == {claimed.id: HandBack.CANCELLED}
        assert await _entry(conn, claimed.id) is None


@pytest.mark.parametrize("operation", [complete, settle_cancelled, confirm, confirm_alone, hand_back])
async def test_nothing_to_do_is_fine(
    database: Database, operation: Callable[[asyncpg.Connection, list[Lease]], Awaitable[Any]]
) -> None:
    async with database.connection() as conn:
        assert not await operation(conn, [])
        assert await fail(conn, []) == {}
        assert await cancel(conn, []) == {}
        assert await cancel_free(conn, []) == {}


async def test_a_batch_larger_than_any_worker_sends_is_settled_at_once(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        claims = await claimed_entries(conn, worker_id, *(sample_entry() for _ in range(1000)))

        assert len(await confirm(conn, [claimed.lease for claimed in claims])) == 1000
        assert len(await complete(conn, [claimed.lease for claimed in claims])) == 1000


async def test_a_cancellation_requested_meanwhile_makes_a_failure_final(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
    async with database.connection() as canceller:
        transaction = canceller.transaction()
        await transaction.start()
        await cancel(canceller, [claimed.id])
        async with blocked_by_others(database, lambda conn: fail(conn, [_failure(claimed, SOON)])) as failing:
            await transaction.commit()
            assert (await failing)[claimed.id].settled is Settled.CANCELLED


async def test_a_confirmed_lease_cannot_be_settled_until_the_transaction_ends(database: Database) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
    async with database.connection() as reporter:
        transaction = reporter.transaction()
        await transaction.start()
        assert await confirm(reporter, [claimed.lease]) == {claimed.id}
        async with blocked_by_others(database, lambda conn: complete(conn, [claimed.lease])) as completing:
            assert not completing.done()
            await transaction.commit()
            assert await completing == {claimed.id}


@pytest.mark.parametrize("ask", [cancel, cancel_free])
async def test_a_cancellation_does_not_wait_for_a_confirmed_lease(
    database: Database, ask: Callable[[asyncpg.Connection, list[UUID]], Awaitable[dict[UUID, CancelOutcome]]]
) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
        async with database.transaction() as handler:
            assert await confirm(handler, [claimed.lease]) == {claimed.id}
            async with asyncio.timeout(5):
                outcomes = await ask(conn, [claimed.id])
            assert not outcomes[claimed.id].removed
            assert await confirm(handler, [claimed.lease]) == {claimed.id}

        assert await settle_cancelled(conn, [claimed.lease]) == {claimed.id}


async def test_a_handler_that_has_confirmed_its_lease_may_end_its_entry_in_the_same_transaction(
    database: Database,
) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
        async with database.transaction() as handler:
            await confirm(handler, [claimed.lease])
            await cancel(conn, [claimed.id])
            assert await complete(handler, [claimed.lease]) == {claimed.id}
        assert await conn.fetchval("SELECT count(*) FROM queue") == 0


async def test_a_handler_that_has_confirmed_its_lease_does_not_deadlock_with_who_waits_for_it(
    database: Database,
) -> None:
    async with database.connection() as conn:
        claimed = await _one_claim(conn)
        async with database.connection() as handler:
            transaction = handler.transaction()
            await transaction.start()
            await confirm(handler, [claimed.lease])
            await cancel(conn, [claimed.id])
            async with blocked_by_others(database, lambda other: complete(other, [claimed.lease])) as ending:
                assert await confirm_alone(handler, [claimed.lease]) == {claimed.id}
                assert await complete(handler, [claimed.lease]) == {claimed.id}
                await transaction.commit()
                assert await ending == set()


async def test_what_somebody_else_ends_just_now_is_not_waited_for_when_many_are_cancelled(
    database: Database,
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        ending, running = await claimed_entries(conn, worker_id, sample_entry(), sample_entry())
        waiting = sample_entry()
        await enqueue(conn, [waiting])
        async with database.transaction() as other:
            await complete(other, [ending.lease])
            async with asyncio.timeout(5):
                outcomes = await cancel_free(conn, [ending.id, running.id, waiting.id, new_id()])
        assert {id_: outcome and outcome.removed for id_, outcome in outcomes.items()} == {
            ending.id: None,
            running.id: False,
            waiting.id: True,
        }
        assert await cancel_free(conn, [ending.id]) == {}


@pytest.mark.parametrize(
    "settle",
    [
        complete,
        confirm,
        confirm_alone,
        hand_back,
        settle_cancelled,
        lambda conn, leases: fail(conn, [Failure(lease.id, lease.fence, SOON) for lease in leases]),
        lambda conn, leases: cancel(conn, [lease.id for lease in leases]),
    ],
    ids=["complete", "confirm", "confirm alone", "hand back", "settle cancelled", "fail", "cancel"],
)
async def test_batches_in_opposite_orders_do_not_deadlock(
    database: Database, settle: Callable[[asyncpg.Connection, list[Lease]], Coroutine[Any, Any, Any]]
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        low, high = await claimed_entries(conn, worker_id, sample_entry(), sample_entry())
        await cancel(conn, [low.id, high.id])
    async with database.connection() as first:
        transaction = first.transaction()
        await transaction.start()
        await confirm_alone(first, [low.lease])
        # If it had locked the higher one before it waits for the lower, the next line would be a deadlock.
        async with blocked_by_others(
            database, lambda conn: settle(conn, [high.lease, low.lease])
        ) as settling:
            assert await confirm_alone(first, [high.lease]) == {high.id}
            await transaction.commit()
            assert set(await settling) == {low.id, high.id}

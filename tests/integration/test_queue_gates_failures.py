"""Entries that end without being completed make room at the gates they held."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_queue import Claim, Failure, Snooze, TypeGates, fail, lapse, rescue, set_type_limits, snooze
from support.gates import claimed, enqueued, entry, states
from support.queue_samples import PLENTY, new_worker

_LATER = timedelta(hours=1)


async def _lose(conn: asyncpg.Connection, claim: Claim) -> None:
    await conn.execute("DELETE FROM queue_workers")
    await rescue(conn, limit=PLENTY)


_ENDS: dict[str, Callable[[asyncpg.Connection, Claim], Awaitable[object]]] = {
    "fail": lambda conn, claim: fail(conn, [Failure(claim.id, claim.fence, None)]),
    "retry": lambda conn, claim: fail(conn, [Failure(claim.id, claim.fence, _LATER)]),
    "snooze": lambda conn, claim: snooze(conn, [Snooze(claim.id, claim.fence, _LATER)]),
    "stand still": lambda conn, claim: lapse(conn, [claim.lease]),
    "lose": _lose,
}


@pytest.mark.parametrize("end", _ENDS)
@pytest.mark.parametrize("by_key", [False, True])
async def test_whatever_ends_an_attempt_lets_the_next_one_through(
    database: Database, end: str, by_key: bool
) -> None:
    key = "k" if by_key else None
    async with database.connection() as conn:
        if not by_key:
            await set_type_limits(conn, "a", TypeGates(max_running_per_tenant=1))
        worker_id = await new_worker(conn)
        first, second = await enqueued(conn, entry(key=key), entry(key=key))
        (claim,) = await claimed(conn, worker_id)
        assert (claim.id, await states(conn)) == (first, {"running": 1, "key" if by_key else "tenant": 1})
        async with conn.transaction():
            await _ENDS[end](conn, claim)

        assert await conn.fetchval("SELECT count(*) FROM queue WHERE gated") == 0
        # What was lost is in line at once, in front of the other.
        (next_one,) = await claimed(conn, await new_worker(conn))
        assert next_one.id == (first if end in ("stand still", "lose") else second)


async def test_an_entry_that_snoozes_keeps_its_place_in_a_strict_key(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        first, second = await enqueued(conn, entry(key="k", order="block"), entry(key="k", order="block"))
        (claim,) = await claimed(conn, worker_id)
        async with conn.transaction():
            await snooze(conn, [Snooze(claim.id, claim.fence, _LATER)])
        assert await claimed(conn, worker_id) == []
        await conn.execute("UPDATE queue SET run_at = now(), state = 'ready' WHERE id = $1", first)

        assert [again.id for again in await claimed(conn, worker_id)] == [first]
        assert await conn.fetchval("SELECT state FROM queue WHERE id = $1", second) == "parked"


async def test_an_entry_that_is_lost_for_good_blocks_its_key(database: Database) -> None:
    async with database.connection() as conn:
        await enqueued(conn, entry(key="k", order="block", max_attempts=1), entry(key="k", order="block"))
        (claim,) = await claimed(conn, await new_worker(conn))
        async with conn.transaction():
            await lapse(conn, [claim.lease])

        assert await conn.fetchval("SELECT id FROM queue_blocked_keys") == claim.id
        assert await claimed(conn, await new_worker(conn)) == []

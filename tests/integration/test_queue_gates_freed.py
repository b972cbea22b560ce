"""What may be claimed instead of entries that ended, as whoever ends them is told."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_queue import (
    Claim,
    Failure,
    Freed,
    Snooze,
    TypeGates,
    cancel,
    complete,
    enqueue,
    fail,
    hand_back,
    lapse,
    rescue,
    set_tenant,
    set_type_limits,
    settle_cancelled,
    snooze,
)
from support.gates import claimed, entry
from support.queue_samples import new_worker

_HOUR = timedelta(hours=1)


async def _completed(conn: asyncpg.Connection, claims: Sequence[Claim], freed: Freed) -> None:
    await complete(conn, [claim_.lease for claim_ in claims], freed=freed)


async def _cancelled(conn: asyncpg.Connection, claims: Sequence[Claim], freed: Freed) -> None:
    await cancel(conn, [claim_.id for claim_ in claims])
    await settle_cancelled(conn, [claim_.lease for claim_ in claims], freed=freed)


async def _handed_back(conn: asyncpg.Connection, claims: Sequence[Claim], freed: Freed) -> None:
    await hand_back(conn, [claim_.lease for claim_ in claims], freed=freed)


async def _failed(conn: asyncpg.Connection, claims: Sequence[Claim], freed: Freed) -> None:
    await fail(conn, [Failure(claim_.id, claim_.fence, _HOUR) for claim_ in claims], freed=freed)


async def _lapsed(conn: asyncpg.Connection, claims: Sequence[Claim], freed: Freed) -> None:
    await lapse(conn, [claim_.lease for claim_ in claims], freed=freed)


async def _snoozed(conn: asyncpg.Connection, claims: Sequence[Claim], freed: Freed) -> None:
    await snooze(conn, [Snooze(claim_.id, claim_.fence, _HOUR) for claim_ in claims], freed=freed)


@pytest.mark.parametrize("end", [_completed, _cancelled, _failed, _snoozed], ids=lambda end: end.__name__)
async def test_whoever_ends_entries_learns_what_may_start_instead(
    database: Database, end: Callable[[asyncpg.Connection, Sequence[Claim], Freed], Awaitable[None]]
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=3))
        await set_type_limits(conn, "b", TypeGates(max_running_per_tenant=2))
        await enqueue(conn, [entry("a") for _ in range(5)] + [entry("b") for _ in range(3)])
        await enqueue(conn, [entry("c", key="x") for _ in range(2)] + [entry("d")])
        claims = await claimed(conn, worker_id, "a", "b", "c", "d")
        assert Counter(claim_.type for claim_ in claims) == {"a": 3, "b": 2, "c": 1, "d": 1}

        freed: Freed = Counter()
        async with conn.transaction():
            await end(conn, claims, freed)

        assert (freed["a"], freed["b"], freed["c"], freed["d"]) == (3, 1, 1, 0)


@pytest.mark.parametrize("end", [_handed_back, _lapsed], ids=lambda end: end.__name__)
async def test_so_does_who_gives_them_back(
    database: Database, end: Callable[[asyncpg.Connection, Sequence[Claim], Freed], Awaitable[None]]
) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=3))
        await enqueue(conn, [entry() for _ in range(5)])
        claims = await claimed(conn, worker_id)

        freed: Freed = Counter()
        await end(conn, claims, freed)

        assert freed == {"a": 3}


async def test_nothing_is_free_for_others_where_nobody_waits(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(max_running=3, max_running_per_tenant=2))
        await set_tenant(conn, "A", max_running=2)
        await enqueue(conn, [entry("a"), entry("a", key="x"), entry("b", "B")])
        claims = await claimed(conn, worker_id, "a", "b")
        assert len(claims) == 3

        freed: Freed = Counter()
        await _completed(conn, claims, freed)

        assert not freed


async def test_a_place_of_a_tenant_is_free_for_its_other_types(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_tenant(conn, "A", max_running=1)
        await enqueue(conn, [entry("a")])
        claims = await claimed(conn, worker_id, "a")
        await enqueue(conn, [entry("b")])
        assert await claimed(conn, worker_id, "b") == []

        freed: Freed = Counter()
        await _completed(conn, claims, freed)

        assert freed == {"b": 1}


async def test_so_does_who_takes_them_back_from_a_lost_worker(database: Database) -> None:
    async with database.connection() as conn:
        worker_id, other = await new_worker(conn), await new_worker(conn)
        await set_tenant(conn, "A", max_running=1)
        await enqueue(conn, [entry("a", max_attempts=1)])
        await claimed(conn, worker_id, "a")
        await enqueue(conn, [entry("b")])
        assert await claimed(conn, other, "b") == []
        await conn.execute("DELETE FROM queue_workers WHERE worker_id = $1", worker_id)

        freed: Freed = Counter()
        await rescue(conn, limit=10, freed=freed)

        assert freed == {"b": 1}

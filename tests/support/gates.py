"""What tests of the queue's gates share: many entries, and claims that know what there is to know of gates."""

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

import asyncpg

from millrace_database.ids import new_id
from millrace_queue import (
    Claim,
    ClaimGates,
    Concurrency,
    KeyOrder,
    NewEntry,
    SweepProgress,
    claim,
    complete,
    enqueue,
    sweep_gates,
)
from support.queue_samples import PLENTY


def entry(
    type_: str = "a",
    tenant: str = "A",
    *,
    key: str | None = None,
    limit: int = 1,
    order: KeyOrder | None = None,
    priority: int = 0,
    max_attempts: int = 4,
) -> NewEntry:
    concurrency = None if key is None else Concurrency(key, limit, order)
    return NewEntry(new_id(), type_, tenant, max_attempts, priority, concurrency=concurrency)


async def enqueued(conn: asyncpg.Connection, *entries: NewEntry) -> list[UUID]:
    """Enqueues entries one after the other, each later than the one before."""
    for new in entries:
        await enqueue(conn, [new])
    return [new.id for new in entries]


async def claimed(
    conn: asyncpg.Connection,
    worker_id: UUID,
    *types: str,
    limit: int = PLENTY,
    gates: ClaimGates | None = None,
) -> list[Claim]:
    """What one claim takes of these types ("a"), in a transaction of its own."""
    async with conn.transaction():
        return await claim(conn, worker_id, dict.fromkeys(types or ("a",), limit), limit, gates=gates)


async def completed(conn: asyncpg.Connection, claims: Iterable[Claim]) -> None:
    async with conn.transaction():
        await complete(conn, [claim_.lease for claim_ in claims])


async def swept(conn: asyncpg.Connection) -> set[str]:
    """Sweeps until there is nothing more to do, and returns the types of what was let go."""
    progress, types = SweepProgress(), set()
    while True:
        sweep = await sweep_gates(conn, progress)
        types |= sweep.types
        if not sweep.more:
            return types


async def served(conn: asyncpg.Connection, worker_id: UUID, *types: str, most: int = PLENTY) -> list[Claim]:
    """Claims and completes until nothing is left that may start."""
    done: list[Claim] = []
    while claims := await claimed(conn, worker_id, *types, limit=most):
        done += claims
        await completed(conn, claims)
    return done


async def states(conn: asyncpg.Connection) -> Counter[str]:
    rows = await conn.fetch("SELECT coalesce(parked_by, state) AS state FROM queue")
    return Counter(row["state"] for row in rows)


def tenants(claims: Sequence[Claim]) -> Counter[str]:
    return Counter(claim_.tenant for claim_ in claims)


def ids(claims: Sequence[Claim]) -> list[UUID]:
    return [claim_.id for claim_ in claims]

"""Which workers live, what they hold, and what is taken from those that died."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from millrace_queue import attempt_statements, statements
from millrace_queue.entries import (
    Connection,
    FailOutcome,
    Heartbeat,
    HeldLease,
    Lease,
    Rescue,
    Rescued,
    Settled,
)
from millrace_queue.failing import lapse
from millrace_queue.gates import Freed
from millrace_queue.transactions import in_transaction

_RESCUES = {
    Settled.RETRYING: Rescue.READY,
    Settled.FAILED: Rescue.EXHAUSTED,
    Settled.QUARANTINED: Rescue.QUARANTINED,
    Settled.KEY_TAKEN: Rescue.KEY_TAKEN,
    Settled.CANCELLED: Rescue.CANCELLED,
}


async def register_worker(
    conn: Connection, worker_id: UUID, *, lease: timedelta, details: Mapping[str, Any]
) -> None:
    """Make a worker known, which counts as its first heartbeat.

    Args:
        conn: an open connection.
        worker_id: its name; registering it again starts it anew.
        lease: for how long its leases hold after a heartbeat, more than 0.
        details: what others may want to know of it, as a JSON object.

    """
    await conn.execute(statements.REGISTER_WORKER, worker_id, lease, json.dumps(dict(details)))


async def heartbeat(conn: Connection, worker_id: UUID, *, draining: bool) -> Heartbeat:
    """Renew all leases of a worker and tell which ones it has.

    Args:
        conn: an open connection, best not in a longer transaction: the time of the heartbeat is its beginning.
        worker_id: who beats.
        draining: whether it has stopped to claim, for others to see.

    """
    rows = await conn.fetch(statements.HEARTBEAT, worker_id, draining)
    return Heartbeat(known=bool(rows), held=[_held(row) for row in rows if row["id"] is not None])


async def held_leases(conn: Connection, worker_id: UUID) -> list[HeldLease]:
    """Return the leases a worker has, without renewing them."""
    return [_held(row) for row in await conn.fetch(statements.HELD_LEASES, worker_id)]


async def unregister_worker(conn: Connection, worker_id: UUID) -> None:
    """Remove a worker that stops. What it still holds is rescued, at the cost of an attempt: hand it back before."""
    await conn.execute(statements.UNREGISTER_WORKER, worker_id)


async def rescue(conn: Connection, *, limit: int, freed: Freed | None = None) -> list[Rescued]:
    """Remove workers whose lease ran out without a heartbeat, and take back what they held.

    Several may rescue at once; none waits for another, and each entry is rescued once. When as many as `limit`
    come back, more may be left.

    Args:
        conn: an open connection, best in a transaction, so that workers and entries change together.
        limit: how many entries to take back at most.
        freed: out, what may be claimed instead, as of `release`.

    """
    await conn.execute(statements.CLAMP_HEARTBEATS)
    await conn.execute(statements.REMOVE_LOST_WORKERS)
    await forget_lost_workers(conn)
    async with in_transaction(conn):
        orphans = await conn.fetch(attempt_statements.ORPHANS, limit)
        outcomes = await lapse(conn, [Lease(row["id"], row["fence"]) for row in orphans], freed=freed)
    return [_rescued(row, outcomes[row["id"]]) for row in orphans]


async def forget_lost_workers(conn: Connection) -> int:
    """Forget who the workers were that were lost more than an hour ago and hold nothing; return how many there were.

    A rescue does it, too: this is for those after which none came.
    """
    return int((await conn.execute(statements.FORGET_LOST_WORKERS)).split()[1])


async def count_forgettable_workers(conn: Connection) -> int:
    """Return how many workers `forget_lost_workers` would forget."""
    count: int = await conn.fetchval(statements.COUNT_FORGETTABLE_WORKERS)
    return count


def _rescued(orphan: asyncpg.Record, outcome: FailOutcome) -> Rescued:
    details = orphan["worker_details"]
    return Rescued(
        orphan["id"],
        orphan["type"],
        orphan["tenant"],
        orphan["worker_id"],
        orphan["attempt"],
        orphan["fence"],
        _RESCUES[outcome.settled],
        None if details is None else json.loads(details),
        outcome.too_late,
    )


def _held(row: asyncpg.Record) -> HeldLease:
    return HeldLease(row["id"], row["fence"], row["cancel_requested"])

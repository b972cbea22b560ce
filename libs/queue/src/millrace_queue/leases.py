"""What a worker does with the entries it has claimed: settle them or hand them back."""

from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from millrace_queue import statements
from millrace_queue.entries import Connection, HandBack, Lease
from millrace_queue.gates import Ended, Freed, release


async def confirm(conn: Connection, leases: Sequence[Lease]) -> set[UUID]:
    """Lock the entries of those leases that still hold, and return their ids.

    Until the caller's transaction ends nobody else settles or rescues them: what it writes along with them is written by
    the holder of the lease. Their cancellation may be requested meanwhile. Whoever goes on to end the attempt in the same
    transaction takes `confirm_alone`: of two that have confirmed the same lease, each would wait for the other. Without a
    transaction the answer is out of date at once.
    """
    return await _accepted(conn, statements.CONFIRM, leases)


async def confirm_alone(conn: Connection, leases: Sequence[Lease]) -> set[UUID]:
    """Lock the entries of those leases that still hold, as `confirm` does, and keep cancellations out as well.

    For what changes the job along with the entry, and is over soon: who cancels the entry waits for it.
    """
    return await _accepted(conn, statements.CONFIRM_ALONE, leases)


async def confirm_free(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, bool]:
    """Lock the entries of those leases that still hold, but wait for nobody. Who has called `confirm` holds up nobody.

    Until the caller's transaction ends nobody settles, rescues or cancels them.

    Returns:
        The ids of the leases that hold. True: it is locked. False: somebody else has it locked just now; it may be
        tried again.

    """
    return await _confirmed_free(conn, statements.CONFIRM_FREE, leases)


async def confirm_alone_free(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, bool]:
    """Do as `confirm_free` does, but do not lock an entry either whose lease somebody has confirmed in an open transaction."""
    return await _confirmed_free(conn, statements.CONFIRM_ALONE_FREE, leases)


async def complete(conn: Connection, leases: Sequence[Lease], *, freed: Freed | None = None) -> set[UUID]:
    """Remove finished entries, even those whose cancellation was requested meanwhile.

    Args:
        conn: an open connection.
        leases: what is finished.
        freed: out, what may be claimed instead, as of `release`.

    Returns:
        The ids that were accepted. The leases of the others had been lost, and nothing changed.

    """
    return await _removed(conn, statements.COMPLETE, leases, freed)


async def settle_cancelled(
    conn: Connection, leases: Sequence[Lease], *, freed: Freed | None = None
) -> set[UUID]:
    """Remove entries whose handler stopped because their cancellation was requested; `freed` as of `complete`.

    Returns:
        The ids that were accepted. Of the others the lease had been lost, or nobody had requested a cancellation.

    """
    return await _removed(conn, statements.SETTLE_CANCELLED, leases, freed)


async def hand_back(
    conn: Connection,
    leases: Sequence[Lease],
    *,
    unstarted: Collection[UUID] = (),
    freed: Freed | None = None,
) -> dict[UUID, HandBack]:
    """Give entries back as if they had not been claimed: ready again, with the attempt not counted.

    Args:
        conn: an open connection.
        leases: what is given back.
        unstarted: the ids of those that have not been run at all. Of the others it is clear that their worker survives.
        freed: out, what may be claimed instead, as of `release`.

    Returns:
        What became of each entry, by its id.

    """
    outcomes = {lease.id: HandBack.LOST for lease in leases}
    if not outcomes:
        return outcomes
    rows = await conn.fetch(statements.HAND_BACK, *_columns(leases), list(unstarted))
    for row in rows:
        outcomes[row["id"]] = HandBack.CANCELLED if row["cancel_requested"] else HandBack.READY
    await release(
        conn, [_ended(row, stays=not row["cancel_requested"]) for row in rows if row["gated"]], freed
    )
    return outcomes


async def _confirmed_free(conn: Connection, statement: str, leases: Sequence[Lease]) -> dict[UUID, bool]:
    if not leases:
        return {}
    return {row["id"]: row["locked"] for row in await conn.fetch(statement, *_columns(leases))}


async def _accepted(conn: Connection, statement: str, leases: Sequence[Lease]) -> set[UUID]:
    if not leases:
        return set()
    return {row["id"] for row in await conn.fetch(statement, *_columns(leases))}


async def _removed(
    conn: Connection, statement: str, leases: Sequence[Lease], freed: Freed | None
) -> set[UUID]:
    if not leases:
        return set()
    rows = await conn.fetch(statement, *_columns(leases))
    await release(conn, [_ended(row, stays=False) for row in rows if row["gated"]], freed)
    return {row["id"] for row in rows}


def _ended(row: asyncpg.Record, *, stays: bool) -> Ended:
    return Ended(
        row["id"],
        row["type"],
        row["tenant"],
        row["concurrency_key"],
        row["key_order"],
        stays=stays,
        failed=False,
    )


def _columns(leases: Sequence[Lease]) -> tuple[list[UUID], list[int]]:
    return [lease.id for lease in leases], [lease.fence for lease in leases]

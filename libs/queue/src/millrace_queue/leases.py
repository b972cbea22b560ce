"""What a worker does with the entries it has claimed: settle them or hand them back."""

from collections.abc import Sequence
from uuid import UUID

from millrace_queue import statements
from millrace_queue.entries import Connection, FailOutcome, Failure, HandBack, Lease, Settled


async def confirm(conn: Connection, leases: Sequence[Lease]) -> set[UUID]:
    """Lock the entries of those leases that still hold, and return their ids.

    Until the caller's transaction ends nobody else settles, cancels or rescues them: what it writes along with
    them is written by the holder of the lease. Without a transaction the answer is out of date at once.
    """
    return await _accepted(conn, statements.CONFIRM, leases)


async def confirm_free(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, bool]:
    """Lock the entries of those leases that still hold, as `confirm` does, but wait for nobody.

    Returns:
        The ids of the leases that hold. True: it is locked. False: somebody else has it locked just now; it may be
        tried again.

    """
    if not leases:
        return {}
    rows = await conn.fetch(statements.CONFIRM_FREE, *_columns(leases))
    return {row["id"]: row["locked"] for row in rows}


async def complete(conn: Connection, leases: Sequence[Lease]) -> set[UUID]:
    """Remove finished entries, even those whose cancellation was requested meanwhile.

    Returns:
        The ids that were accepted. The leases of the others had been lost, and nothing changed.

    """
    return await _accepted(conn, statements.COMPLETE, leases)


async def settle_cancelled(conn: Connection, leases: Sequence[Lease]) -> set[UUID]:
    """Remove entries whose handler stopped because their cancellation was requested.

    Returns:
        The ids that were accepted. Of the others the lease had been lost, or nobody had requested a cancellation.

    """
    return await _accepted(conn, statements.SETTLE_CANCELLED, leases)


async def fail(conn: Connection, failures: Sequence[Failure]) -> dict[UUID, FailOutcome]:
    """End attempts that failed: the entry waits for its next attempt or is removed.

    Returns:
        What became of each entry, by its id.

    """
    outcomes = {failure.id: FailOutcome(Settled.LOST) for failure in failures}
    if not outcomes:
        return outcomes
    rows = await conn.fetch(
        statements.FAIL,
        [failure.id for failure in failures],
        [failure.fence for failure in failures],
        [failure.retry_delay for failure in failures],
    )
    for row in rows:
        if row["cancel_requested"]:
            outcomes[row["id"]] = FailOutcome(Settled.CANCELLED)
        elif row["final"]:
            outcomes[row["id"]] = FailOutcome(Settled.FAILED)
        else:
            outcomes[row["id"]] = FailOutcome(Settled.RETRYING, row["run_at"])
    return outcomes


async def hand_back(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, HandBack]:
    """Give entries back as if they had not been claimed: ready again, with the attempt not counted.

    Returns:
        What became of each entry, by its id.

    """
    outcomes = {lease.id: HandBack.LOST for lease in leases}
    if not outcomes:
        return outcomes
    for row in await conn.fetch(statements.HAND_BACK, *_columns(leases)):
        outcomes[row["id"]] = HandBack.CANCELLED if row["cancel_requested"] else HandBack.READY
    return outcomes


async def _accepted(conn: Connection, statement: str, leases: Sequence[Lease]) -> set[UUID]:
    if not leases:
        return set()
    return {row["id"] for row in await conn.fetch(statement, *_columns(leases))}


def _columns(leases: Sequence[Lease]) -> tuple[list[UUID], list[int]]:
    return [lease.id for lease in leases], [lease.fence for lease in leases]

"""What becomes of entries whose attempts did not complete them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from millrace_queue import attempt_statements
from millrace_queue.entries import Connection, FailOutcome, Failure, HandBack, Lease, Settled, Snooze
from millrace_queue.gates import Ended, Freed, release
from millrace_queue.transactions import in_transaction


@dataclass(frozen=True, slots=True)
class _Ending:
    """An attempt that failed, or whose lease was lost with its worker."""

    lease: Lease
    retry_delay: timedelta | None
    lost: bool
    counts: bool = True


async def fail(
    conn: Connection, failures: Sequence[Failure], *, freed: Freed | None = None
) -> dict[UUID, FailOutcome]:
    """End attempts that failed: the entry waits for its next attempt or is removed; `freed` as of `release`.

    It is removed, too, when its next attempt would come after the time until which it may wait.

    Returns:
        What became of each entry, by its id.

    """
    return await _end(
        conn,
        [
            _Ending(Lease(failure.id, failure.fence), failure.retry_delay, lost=False, counts=failure.counts)
            for failure in failures
        ],
        freed,
    )


async def lapse(
    conn: Connection, leases: Sequence[Lease], *, freed: Freed | None = None
) -> dict[UUID, FailOutcome]:
    """End attempts whose leases were lost with their workers, or as good as lost; `freed` as of `release`.

    The attempt counts. The entry can be claimed again at once, unless so many of its leases were lost in a row that it
    seems to be the cause.

    Returns:
        What became of each entry, by its id.

    """
    return await _end(conn, [_Ending(lease, timedelta(), lost=True) for lease in leases], freed)


async def snooze(
    conn: Connection, snoozes: Sequence[Snooze], *, freed: Freed | None = None
) -> dict[UUID, HandBack]:
    """Put entries off: they wait for their time, and the attempt is not counted; `freed` as of `release`.

    Returns:
        What became of each entry, by its id.

    """
    outcomes = {snooze.id: HandBack.LOST for snooze in snoozes}
    if not outcomes:
        return outcomes
    rows = await conn.fetch(
        attempt_statements.SNOOZE,
        [snooze.id for snooze in snoozes],
        [snooze.fence for snooze in snoozes],
        [snooze.delay for snooze in snoozes],
    )
    for row in rows:
        outcomes[row["id"]] = HandBack.CANCELLED if row["cancel_requested"] else HandBack.READY
    await release(
        conn,
        [
            _ended(row, Settled.CANCELLED if row["cancel_requested"] else Settled.RETRYING)
            for row in rows
            if row["gated"]
        ],
        freed,
    )
    return outcomes


async def _end(conn: Connection, endings: Sequence[_Ending], freed: Freed | None) -> dict[UUID, FailOutcome]:
    outcomes = {ending.lease.id: FailOutcome(Settled.LOST) for ending in endings}
    if not outcomes:
        return outcomes
    async with in_transaction(conn):
        rows = await _fail(conn, endings, take_places=False)
        undecided = {row["id"] for row in rows if row["undecided"]}
        if undecided:
            rows = [row for row in rows if row["id"] not in undecided]
            rows += await _fail_keyed(conn, [ending for ending in endings if ending.lease.id in undecided])
        outcomes |= {row["id"]: _outcome(row) for row in rows}
        await release(conn, [_ended(row, outcomes[row["id"]].settled) for row in rows if row["gated"]], freed)
    return outcomes


async def _fail_keyed(conn: Connection, endings: Sequence[_Ending]) -> list[asyncpg.Record]:
    """End attempts of locked entries that take places of their unique keys.

    A place may be taken by another transaction that is still open, and is waited for then.
    """
    try:
        async with conn.transaction():
            return await _fail(conn, endings, take_places=True)
    except asyncpg.UniqueViolationError:
        if len(endings) > 1:
            middle = len(endings) // 2
            return await _fail_keyed(conn, endings[:middle]) + await _fail_keyed(conn, endings[middle:])
        # Only a new statement sees who has the place, who may have left it meanwhile.
        return await _fail_keyed(conn, endings)


async def _fail(conn: Connection, endings: Sequence[_Ending], *, take_places: bool) -> list[asyncpg.Record]:
    return await conn.fetch(
        attempt_statements.FAIL,
        [ending.lease.id for ending in endings],
        [ending.lease.fence for ending in endings],
        [ending.retry_delay for ending in endings],
        [ending.lost for ending in endings],
        take_places,
        [ending.counts for ending in endings],
    )


def _outcome(row: asyncpg.Record) -> FailOutcome:
    if row["cancel_requested"]:
        return FailOutcome(Settled.CANCELLED)
    if row["quarantined"]:
        return FailOutcome(Settled.QUARANTINED)
    if row["final"]:
        return FailOutcome(Settled.FAILED, too_late=row["too_late"])
    if row["key_taken"]:
        return FailOutcome(Settled.KEY_TAKEN)
    return FailOutcome(Settled.RETRYING, row["run_at"])


def _ended(row: asyncpg.Record, settled: Settled) -> Ended:
    return Ended(
        row["id"],
        row["type"],
        row["tenant"],
        row["concurrency_key"],
        row["key_order"],
        stays=settled is Settled.RETRYING,
        failed=settled not in (Settled.RETRYING, Settled.CANCELLED),
        enqueued_at=row["enqueued_at"],
    )

"""What happens to entries while they wait: they come, fall due, and may be cancelled."""

import json
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from millrace_queue import attempt_statements, line_statements, statements
from millrace_queue.entries import CancelOutcome, Connection, Expired, NewEntry
from millrace_queue.entry_columns import entry_columns
from millrace_queue.keys import mark_keyed, unblock_retried
from millrace_queue.turns import take_turns


async def enqueue(conn: Connection, entries: Sequence[NewEntry]) -> set[UUID]:
    """Put entries into the queue. They exist once the caller's transaction commits, and not if it rolls back.

    An entry whose unique key is taken, in the queue or earlier in `entries`, is left out. If the transaction that
    takes it is still open, this one waits for its end.

    Returns:
        The ids of the entries that are in the queue now.

    Raises:
        asyncpg.UniqueViolationError: an entry with the same id exists.
        asyncpg.CheckViolationError: `attempt` is negative or leaves no attempt.

    """
    if not entries:
        return set()
    await mark_keyed(conn, entries)
    await take_turns(conn, [(entry.type, entry.priority, entry.tenant) for entry in entries])
    entered = await _enqueue(conn, entries)
    await unblock_retried(conn, [entry for entry in entries if entry.attempt and entry.id in entered])
    return entered


async def _enqueue(conn: Connection, entries: Sequence[NewEntry]) -> set[UUID]:
    if any(entry.unique_slot for entry in entries):
        rows = await conn.fetch(line_statements.ENQUEUE_UNIQUE, *entry_columns(entries))
        return {row["id"] for row in rows}
    await conn.execute(line_statements.ENQUEUE, *entry_columns(entries))
    return {entry.id for entry in entries}


async def promote(conn: Connection, *, limit: int) -> list[str]:
    """Make entries ready whose time has come, the longest overdue first, at most `limit`.

    Several may promote at once; none waits for another.

    Returns:
        The types of the promoted entries, one for each: as many as were promoted.

    """
    return [row["type"] for row in await conn.fetch(line_statements.PROMOTE, limit)]


async def hasten(conn: Connection, id_: UUID) -> bool:
    """Make an entry due that waits for its time, for the next `promote`; return whether it did wait."""
    return await conn.fetchval(statements.HASTEN, id_) is not None


async def seconds_until_due(conn: Connection) -> float | None:
    """Return the seconds until the next entry falls due, 0 if one is overdue, None if none waits for its time."""
    seconds: float | None = await conn.fetchval(statements.SECONDS_UNTIL_DUE)
    return seconds


async def expire(conn: Connection, *, limit: int) -> list[Expired]:
    """Remove waiting entries whose time is over, the longest overdue first, at most `limit`; return which they were.

    Several may do so at once; none waits for another.
    """
    return [Expired(**row) for row in await conn.fetch(attempt_statements.EXPIRE, limit)]


async def seconds_until_expiry(conn: Connection) -> float | None:
    """Return the seconds until the next waiting entry expires, 0 if one is overdue, None if none ever does."""
    seconds: float | None = await conn.fetchval(attempt_statements.SECONDS_UNTIL_EXPIRY)
    return seconds


async def cancel(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, CancelOutcome]:
    """Cancel entries: a waiting one is removed, the worker of a running one is asked to stop it.

    Does not wait for a handler that has confirmed its lease, but for whoever ends an attempt or changes an entry.

    Returns:
        What became of each entry, by its id. What is missing was not in the queue.

    """
    if not ids:
        return {}
    return {row["id"]: _cancelled(row) for row in await conn.fetch(statements.CANCEL, ids)}


async def cancel_free(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, CancelOutcome | None]:
    """Cancel entries, as `cancel` does, but wait for nobody.

    Returns:
        What became of each entry, by its id. None: somebody else has it locked just now; it may be tried again. What is
        missing was not in the queue.

    """
    if not ids:
        return {}
    rows = await conn.fetch(statements.CANCEL_FREE, ids)
    return {row["id"]: None if row["running"] is None else _cancelled(row) for row in rows}


def _cancelled(row: asyncpg.Record) -> CancelOutcome:
    details = row["worker_details"]
    return CancelOutcome(
        type=row["type"],
        tenant=row["tenant"],
        removed=not row["running"],
        worker_id=row["worker_id"],
        worker_details=None if details is None else json.loads(details),
    )

"""What happens to entries while they wait: they come, fall due, and may be cancelled."""

import json
from collections.abc import Sequence
from uuid import UUID

from millrace_queue import statements
from millrace_queue.entries import CancelOutcome, Connection, NewEntry


async def enqueue(conn: Connection, entries: Sequence[NewEntry]) -> None:
    """Put entries into the queue. They exist once the caller's transaction commits, and not if it rolls back.

    Raises:
        asyncpg.UniqueViolationError: an entry with the same id exists.
        asyncpg.CheckViolationError: `attempt` is negative or leaves no attempt.

    """
    if not entries:
        return
    await conn.execute(
        statements.ENQUEUE,
        [entry.id for entry in entries],
        [entry.type for entry in entries],
        [entry.tenant for entry in entries],
        [entry.max_attempts for entry in entries],
        [entry.priority for entry in entries],
        [entry.attempt for entry in entries],
        [entry.run_at for entry in entries],
    )


async def promote(conn: Connection, *, limit: int) -> list[str]:
    """Make entries ready whose time has come, the longest overdue first, at most `limit`.

    Several may promote at once; none waits for another.

    Returns:
        The types of the promoted entries, one for each: as many as were promoted.

    """
    return [row["type"] for row in await conn.fetch(statements.PROMOTE, limit)]


async def seconds_until_due(conn: Connection) -> float | None:
    """Return the seconds until the next entry falls due, 0 if one is overdue, None if none waits for its time."""
    seconds: float | None = await conn.fetchval(statements.SECONDS_UNTIL_DUE)
    return seconds


async def cancel(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, CancelOutcome]:
    """Cancel entries: a waiting one is removed, the worker of a running one is asked to stop it.

    Returns:
        What became of each entry, by its id. What is missing was not in the queue.

    """
    if not ids:
        return {}
    outcomes = {}
    for row in await conn.fetch(statements.CANCEL, ids):
        details = row["worker_details"]
        outcomes[row["id"]] = CancelOutcome(
            removed=not row["running"],
            worker_id=row["worker_id"],
            worker_details=None if details is None else json.loads(details),
        )
    return outcomes

"""Throttled keys: of what comes with one, at most one is let in within a window, whatever becomes of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from millrace_queue import unique_statements
from millrace_queue.entries import Connection


@dataclass(frozen=True, slots=True)
class Throttle:
    """A key that lets nothing else in for a while once it let something in; it says for itself among what."""

    key: str
    window: timedelta


@dataclass(frozen=True, slots=True)
class LetIn:
    """What a throttled key let in last, and when the key lets in the next one."""

    id: UUID
    ends_at: datetime


async def enter_throttles(conn: Connection, entering: Mapping[UUID, Throttle]) -> set[UUID]:
    """Let in what finds its key open, and close the key for the window, which begins now.

    If the transaction that closes a key is still open, this one waits for its end.

    Args:
        conn: a connection in a transaction.
        entering: what wants to come in, by its id; each key at most once.

    Returns:
        The ids of what was let in.

    """
    if not entering:
        return set()
    rows = await conn.fetch(
        unique_statements.ENTER_THROTTLES,
        [throttle.key for throttle in entering.values()],
        list(entering),
        [throttle.window for throttle in entering.values()],
    )
    return {row["id"] for row in rows}


async def find_throttles(conn: Connection, keys: Collection[str]) -> dict[str, LetIn]:
    """Return what was let in last, by the keys that are closed now."""
    if not keys:
        return {}
    rows = await conn.fetch(unique_statements.FIND_THROTTLES, list(keys))
    return {row["unique_key"]: LetIn(row["id"], row["ends_at"]) for row in rows}


async def remove_ended_throttles(conn: Connection, *, limit: int) -> int:
    """Forget keys whose window has ended, the longest ago first, at most `limit`; what is locked is passed over.

    Returns:
        How many were removed; fewer than `limit`: hardly any are left.

    """
    return len(await conn.fetch(unique_statements.REMOVE_ENDED_THROTTLES, limit))

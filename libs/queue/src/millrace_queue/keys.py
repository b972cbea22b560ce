"""What entries with a concurrency key need when they come in."""

from collections.abc import Sequence

from millrace_queue import gate_statements
from millrace_queue.entries import Connection, NewEntry


async def mark_keyed(conn: Connection, entries: Sequence[NewEntry]) -> None:
    """Have claims look at the keys of these types, from when the transaction commits.

    Waits, once in the life of a type, while others claim entries of it.
    """
    types = {entry.type for entry in entries if entry.concurrency}
    if types:
        await conn.execute(gate_statements.MARK_KEYED, sorted(types))


async def unblock_retried(conn: Connection, entries: Sequence[NewEntry]) -> None:
    """Give entries that failed for good, and are tried again, their place at the front of their key."""
    retried = [
        entry.id
        for entry in entries
        if entry.attempt and entry.concurrency and entry.concurrency.order == "block"
    ]
    if retried:
        await conn.execute(gate_statements.UNBLOCK_RETRIED, retried)

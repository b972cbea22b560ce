"""Unique keys: who has one, and giving a waiting entry that has one what a newcomer asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from millrace_queue import line_statements, unique_statements
from millrace_queue.entries import Connection, NewEntry
from millrace_queue.entry_columns import entry_columns
from millrace_queue.keys import mark_keyed


@dataclass(frozen=True, slots=True)
class Holder:
    """An entry that has a unique key, with its type and tenant; `is_untouched`: it waits for its first attempt.

    `ends_at`: it has the key until then, whatever becomes of it; None: as long as the states of the key say.
    """

    id: UUID
    type: str
    tenant: str
    is_untouched: bool
    ends_at: datetime | None = None


async def find_holders(conn: Connection, entries: Sequence[NewEntry]) -> dict[UUID, Holder]:
    """Return who has the unique keys that entries ask for, by the ids of these.

    Nobody is locked, and what another transaction has not committed yet is not seen.
    """
    keyed = [(entry, entry.unique.key, entry.unique_slot) for entry in entries if entry.unique]
    if not keyed:
        return {}
    rows = await conn.fetch(
        unique_statements.FIND_HOLDERS,
        list(range(len(keyed))),
        [key for _, key, _ in keyed],
        [slot for _, _, slot in keyed],
    )
    return {keyed[place][0].id: Holder(*holder) for place, *holder in rows}


async def replace_waiting(conn: Connection, entries: Sequence[NewEntry]) -> set[UUID]:
    """Give entries that wait for their first attempt the times, priorities, attempts and concurrency of `entries`.

    They become scheduled or ready, and get a new place in the line, as if they came in now; `enqueued_at` is kept.
    Waits for who has locked one of them.

    Args:
        conn: a connection in a transaction.
        entries: what they are to be. Their ids, types, tenants and unique keys are those of the entries that there are.

    Returns:
        The ids of those that were replaced. Of the others nothing changed: they have been claimed, or do not
        have the key any more.

    """
    if not entries:
        return set()
    await mark_keyed(conn, entries)
    rows = await conn.fetch(line_statements.REPLACE_WAITING, *entry_columns(entries))
    return {row["id"] for row in rows}

"""Entries as the arguments of a statement: an array for each column."""

from collections.abc import Sequence
from typing import Any

from millrace_queue.entries import NewEntry


def entry_columns(entries: Sequence[NewEntry]) -> tuple[list[Any], ...]:
    """Return the columns of entries, in the order in which ENQUEUE and REPLACE_WAITING take them."""
    return (
        [entry.id for entry in entries],
        [entry.type for entry in entries],
        [entry.tenant for entry in entries],
        [entry.max_attempts for entry in entries],
        [entry.priority for entry in entries],
        [entry.attempt for entry in entries],
        [entry.run_at for entry in entries],
        [entry.expires_at for entry in entries],
        [entry.concurrency and entry.concurrency.key for entry in entries],
        [entry.concurrency and entry.concurrency.limit for entry in entries],
        [entry.concurrency and entry.concurrency.order for entry in entries],
        [entry.unique and entry.unique.key for entry in entries],
        [entry.unique and entry.unique.while_ for entry in entries],
        [entry.unique_slot for entry in entries],
    )

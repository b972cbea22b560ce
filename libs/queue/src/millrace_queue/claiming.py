"""Claiming: a worker takes ready entries."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from uuid import UUID

import asyncpg

from millrace_queue import statements
from millrace_queue.entries import Claim, Connection

_RESTART_SECONDS: Final = 1.0
_BEGINNING: Final = (-(2**31), UUID(int=0))


class ClaimCursor:
    """Where the next claim of a worker begins: behind the entries it claimed last.

    While a long transaction is open anywhere in the database, Postgres keeps what entries leave behind in the index
    when they are claimed. A claim from the beginning passes over all that; one with a cursor does not. What came
    back before the cursor meanwhile, or has a higher priority, is found within a second, since the cursor restarts
    that often, and for a type of which a claim could take more than it found.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[str, tuple[int, UUID]] = {}
        self._restart_at = 0.0

    def place(self, type_: str) -> tuple[int, UUID]:
        """Return the place behind which the search for a type begins."""
        return self._places.get(type_, _BEGINNING)

    def advance(self, places: Mapping[str, tuple[int, UUID]]) -> None:
        """Go on behind these places, each the last one claimed of its type."""
        if places and not self._places:
            self._restart_at = self._clock() + _RESTART_SECONDS
        self._places |= places

    def restart(self) -> None:
        """Go back to the beginning."""
        self._places.clear()

    def restart_type(self, type_: str) -> bool:
        """Go back to the beginning of one type. Returns whether the cursor had left it."""
        return self._places.pop(type_, None) is not None

    def restart_if_due(self) -> None:
        """Go back to the beginning once a second."""
        if self._clock() >= self._restart_at:
            self.restart()


async def claim(
    conn: Connection,
    worker_id: UUID,
    capacity: Mapping[str, int],
    limit: int,
    *,
    cursor: ClaimCursor | None = None,
) -> list[Claim]:
    """Claim ready entries for a registered worker: highest priority first, then lowest id.

    Each claim uses an attempt. Entries that another claim is just taking are passed over, so an answer may be
    short although entries are left; the worker asks again. A worker that is not registered gets nothing.

    Args:
        conn: an open connection; the claims hold once its transaction commits.
        worker_id: who claims.
        capacity: how many more entries the worker takes of each type.
        limit: how many it takes in all.
        cursor: the worker's own, kept from claim to claim; None: search from the beginning.

    Returns:
        At most `limit` claims, in the order in which they are to be served.

    """
    cursor = cursor or ClaimCursor()
    cursor.restart_if_due()
    rows = await _take(conn, worker_id, capacity, limit, cursor)
    last = _last_of_each_type(rows)
    left = _places_left(capacity, rows)
    if len(rows) < limit:
        short = {type_: places for type_, places in left.items() if cursor.restart_type(type_)}
        again = await _take(conn, worker_id, short, limit - len(rows), cursor)
        last |= _last_of_each_type(again)
        rows += again
        left = _places_left(capacity, rows)
    # Of a type that has fewer entries than places, those that come next may stand anywhere.
    cursor.advance({type_: place for type_, place in last.items() if type_ not in left or len(rows) == limit})
    rows.sort(key=_place)
    return [
        Claim(row["id"], row["type"], row["tenant"], row["attempt"], row["max_attempts"], row["fence"])
        for row in rows
    ]


async def _take(
    conn: Connection, worker_id: UUID, capacity: Mapping[str, int], limit: int, cursor: ClaimCursor
) -> list[asyncpg.Record]:
    free = {type_: min(places, limit) for type_, places in capacity.items() if places > 0}
    if not free or limit <= 0:
        return []
    places = [cursor.place(type_) for type_ in free]
    return await conn.fetch(
        statements.CLAIM,
        worker_id,
        list(free),
        list(free.values()),
        limit,
        [rank for rank, _ in places],
        [id_ for _, id_ in places],
    )


def _places_left(capacity: Mapping[str, int], rows: Iterable[asyncpg.Record]) -> dict[str, int]:
    taken = Counter(row["type"] for row in rows)
    return {type_: left for type_, places in capacity.items() if (left := places - taken[type_]) > 0}


def _place(row: asyncpg.Record) -> tuple[int, UUID]:
    return row["rank"], row["id"]


def _last_of_each_type(rows: Iterable[asyncpg.Record]) -> dict[str, tuple[int, UUID]]:
    return {row["type"]: _place(row) for row in sorted(rows, key=_place)}

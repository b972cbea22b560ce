"""Claiming: a worker takes ready entries."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from millrace_queue import claim_statements, statements
from millrace_queue.entries import Claim, Connection
from millrace_queue.gated_claiming import claim_gated

_PASSES = 3


@dataclass(slots=True)
class ClaimGates:
    """What a claimer says to gates, and is told of them.

    Attributes:
        places: how many more it runs at once of each type, now. What is claimed of a type with gates takes a place from others
            even while it waits to run, so no more than this is. A type that is missing: as many as it has capacity for.
        most: how many more it runs at once of all types with gates together; None: any number.
        likely: whether there were gates, or something was paused, at the last claim, which saves a statement; out: whether
            there were at this one.
        gated: out, the types that have gates.
        again: out, the types of which there may be more that can be claimed at once.
        opens_in: out, in how many seconds a rate that is used up lets the next entry start; None: none is.

    """

    places: Mapping[str, int] = field(default_factory=dict)
    most: int | None = None
    likely: bool = False
    gated: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    opens_in: float | None = None

    def open_in(self, seconds: float | None) -> None:
        """Take note of a time at which a rate opens."""
        if seconds is not None:
            self.opens_in = seconds if self.opens_in is None else min(self.opens_in, seconds)


async def claim(
    conn: Connection,
    worker_id: UUID,
    capacity: Mapping[str, int],
    limit: int,
    *,
    gates: ClaimGates | None = None,
) -> list[Claim]:
    """Claim ready entries for a registered worker: highest priority first, then by rank.

    Each claim uses an attempt. Entries that another claim is just taking are passed over, so an answer may be
    short although entries are left; the worker asks again. A worker that is not registered gets nothing.

    Args:
        conn: an open connection; the claims hold once its transaction commits. It must be in one when there are gates.
        worker_id: who claims.
        capacity: how many more entries the worker takes of each type.
        limit: how many it takes in all.
        gates: what it says to gates, and is told of them.

    Returns:
        At most `limit` claims, in the order in which they are to be served.

    """
    gates = gates or ClaimGates()
    room = {type_: places for type_, places in capacity.items() if places > 0}
    claims: list[Claim] = []
    if room and limit > 0:
        if not gates.likely:
            types = {type_: min(places, limit) for type_, places in room.items()}
            rows = await conn.fetch(statements.CLAIM, worker_id, list(types), list(types.values()), limit)
            claims = [Claim(*row) for row in rows]
        if not claims:
            claims = await _claim_beside_gates(conn, worker_id, room, limit, gates)
            gates.likely = bool(claims or gates.gated)
    claims.sort(key=lambda claimed: claimed.order)
    return claims


async def _claim_beside_gates(
    conn: Connection, worker_id: UUID, room: Mapping[str, int], limit: int, gates: ClaimGates
) -> list[Claim]:
    claims: list[Claim] = []
    for number in range(_PASSES):
        wanted = limit - len(claims)
        if not room or wanted <= 0:
            return claims
        types = {type_: min(places, wanted) for type_, places in room.items()}
        rows = await conn.fetch(
            claim_statements.CLAIM_BESIDE_GATES, worker_id, list(types), list(types.values()), wanted
        )
        taken = [Claim(*row[:8]) for row in rows if row["id"] is not None]
        at_gates = [row for row in rows if row["id"] is None]
        found = len(taken) + sum(row["places"] for row in at_gates)
        if at_gates:
            taken += await _claim_at_gates(conn, worker_id, at_gates, gates, may_wait=number == 0)
        claims += taken
        if not at_gates or found < wanted:
            return claims
        # What gates did not let through may have kept others out.
        room = _left(room, taken, gates)
    gates.again |= room.keys()
    return claims


async def _claim_at_gates(
    conn: Connection, worker_id: UUID, rows: Iterable[asyncpg.Record], gates: ClaimGates, *, may_wait: bool
) -> list[Claim]:
    places: dict[str, int] = {}
    for row in rows:
        type_ = row["type"]
        gates.gated.add(type_)
        gates.open_in(row["opens_in"])
        count = min(row["places"], gates.places.get(type_, row["places"]))
        if count > 0:
            places[type_] = count
    if gates.most is not None:
        places = _shared_out(places, gates.most)
    if not places:
        return []
    result = await claim_gated(conn, worker_id, places, may_wait=may_wait)
    if gates.most is not None:
        gates.most -= len(result.claims)
    gates.again |= result.again
    gates.open_in(result.opens_in)
    return result.claims


def _shared_out(places: Mapping[str, int], most: int) -> dict[str, int]:
    """Return the places, or equal parts of so many as there are."""
    shares: dict[str, int] = {}
    for number, (type_, count) in enumerate(sorted(places.items(), key=lambda item: item[1])):
        shares[type_] = min(count, max(most, 0) // (len(places) - number))
        most -= shares[type_]
    return {type_: count for type_, count in shares.items() if count > 0}


def _left(room: Mapping[str, int], taken: Iterable[Claim], gates: ClaimGates) -> dict[str, int]:
    """Return what room is left for each type, of those with gates no more than runs at once."""
    left = {
        type_: min(places, gates.places.get(type_, places)) if type_ in gates.gated else places
        for type_, places in room.items()
    }
    for claim_ in taken:
        left[claim_.type] -= 1
    return {type_: places for type_, places in left.items() if places > 0}

"""Claiming entries of types that have gates."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from millrace_queue import gate_statements
from millrace_queue.entries import Claim, Connection
from millrace_queue.gate_state import (
    Candidate,
    Gates,
    ParkedBy,
    Share,
    TypeSettings,
    read_gates,
    read_tenants,
)
from millrace_queue.letting_go import let_tenants_go
from millrace_queue.rate_rows import save_rates
from millrace_queue.tenants import Tenant
from millrace_queue.transactions import in_transaction

_ROUNDS = 4
_MORE_CANDIDATES = 100
_MORE_LET_GO = 10
_MOST_CANDIDATES = 1_000


@dataclass(slots=True)
class _Round:
    """What is to become of candidates."""

    started: list[Candidate] = field(default_factory=list)
    parked: dict[UUID, ParkedBy] = field(default_factory=dict)
    parked_types: set[str] = field(default_factory=set)
    parked_by_key: set[Share] = field(default_factory=set)


@dataclass(slots=True)
class GatedClaims:
    """What was claimed of types that have gates."""

    claims: list[Claim] = field(default_factory=list)
    again: set[str] = field(default_factory=set)
    """The types of which there may be more that can start: what was looked at had to be parked."""
    opens_in: float | None = None
    """In how many seconds a rate that is used up lets another entry start."""

    def note_openings(self, gates: Gates, candidates: Iterable[Candidate], round_: _Round) -> None:
        """Take note of when rates open, also for what is parked behind those that started."""
        for share in {
            candidate.share for candidate in candidates if round_.parked.get(candidate.id) != "key"
        }:
            opens_at = gates.rate_opens(*share)
            if opens_at is not None:
                seconds = (opens_at - gates.settings.now).total_seconds()
                self.opens_in = seconds if self.opens_in is None else min(self.opens_in, seconds)


async def claim_gated(
    conn: Connection, worker_id: UUID, places: Mapping[str, int], *, may_wait: bool = True
) -> GatedClaims:
    """Claim entries of these types, so many of each, as far as all their gates let them through.

    What waits at the gate of a tenant or key is parked, so that no further claim looks at it. Until the transaction
    ends nobody else claims or releases entries of these types.

    Args:
        conn: an open connection.
        worker_id: who claims.
        places: how many of each type.
        may_wait: whether to wait for others that claim or release entries of these types. Who has done so once in
            a transaction must not do it again, since two might wait for each other then.

    """
    async with in_transaction(conn):
        statement = gate_statements.LOCK_TYPES if may_wait else gate_statements.LOCK_FREE_TYPES
        rows = await conn.fetch(statement, list(places))
        result = GatedClaims(again=places.keys() - {row["type"] for row in rows})
        if rows:
            settings = TypeSettings.of(rows)
            wanted = {type_: places[type_] for type_ in settings.gates if type_ not in settings.paused}
            plain = {type_: count for type_, count in wanted.items() if type_ in settings.plain}
            result.claims += await _claim_first(conn, worker_id, settings, plain)
            others = {type_: count for type_, count in wanted.items() if type_ not in plain}
            await _claim_of_locked(conn, worker_id, settings, others, result, may_wait=may_wait)
    return result


async def _claim_first(
    conn: Connection, worker_id: UUID, settings: TypeSettings, wanted: Mapping[str, int]
) -> list[Claim]:
    if not wanted:
        return []
    rows = await conn.fetch(
        gate_statements.START_FIRST, worker_id, list(wanted), list(wanted.values()), settings.settling
    )
    return [Claim(*row) for row in rows]


async def _claim_of_locked(
    conn: Connection,
    worker_id: UUID,
    settings: TypeSettings,
    wanted: Mapping[str, int],
    result: GatedClaims,
    *,
    may_wait: bool,
) -> None:
    if not wanted:
        return
    sizes = wanted
    for number in range(_ROUNDS):
        found = await _candidates(conn, sizes)
        tenants, locked_out = await _lock_tenants(conn, settings, found, may_wait=may_wait and number == 0)
        candidates = [candidate for candidate in found if candidate.tenant not in locked_out]
        result.again |= {candidate.type for candidate in found if candidate.tenant in locked_out}
        if not candidates:
            return
        gates = await read_gates(
            conn,
            settings,
            tenants,
            {candidate.share for candidate in candidates},
            {candidate.key for candidate in candidates if candidate.key},
        )
        round_ = _decide(gates, candidates, wanted)
        result.claims += await _write(conn, worker_id, gates, round_)
        result.note_openings(gates, candidates, round_)
        # At the gate of its tenant, what waits at that of its key leaves its place to another one.
        let_go = await let_tenants_go(conn, gates, round_.parked_by_key, at_least=_MORE_LET_GO**number)
        returned = {type_ for type_, _, _ in let_go}
        counts, started = _count(candidates), _count(round_.started)
        wanted = {
            type_: left
            for type_, size in sizes.items()
            if (left := min(wanted[type_] - started[type_], gates.type_places(type_))) > 0
            and (type_ in returned or (counts[type_] >= size and type_ in round_.parked_types))
        }
        sizes = {type_: min(max(2 * sizes[type_], _MORE_CANDIDATES), _MOST_CANDIDATES) for type_ in wanted}
        if not wanted:
            return
    result.again |= wanted.keys()


async def _candidates(conn: Connection, sizes: Mapping[str, int]) -> list[Candidate]:
    rows = await conn.fetch(gate_statements.CANDIDATES, list(sizes), list(sizes.values()))
    return [Candidate(**row) for row in rows]


async def _lock_tenants(
    conn: Connection, settings: TypeSettings, candidates: Iterable[Candidate], *, may_wait: bool
) -> tuple[dict[str, Tenant], set[str]]:
    """Return what is set for the tenants, and those that somebody else has locked."""
    names = sorted({candidate.tenant for candidate in candidates})
    if not settings.has_gated_tenants or not names:
        return {}, set()
    statement = gate_statements.LOCK_GATED_TENANTS if may_wait else gate_statements.LOCK_FREE_GATED_TENANTS
    locked = {row["tenant"] for row in await conn.fetch(statement, names)}
    tenants = await read_tenants(conn, names)
    return tenants, {name for name, tenant in tenants.items() if tenant.is_gated and name not in locked}


def _decide(gates: Gates, candidates: Iterable[Candidate], wanted: Mapping[str, int]) -> _Round:
    round_ = _Round()
    left = {type_: min(count, gates.type_places(type_)) for type_, count in wanted.items()}
    for candidate in candidates:
        if left[candidate.type] <= 0:
            continue
        parked_by = gates.holds(candidate)
        if parked_by is None:
            gates.start(candidate)
            round_.started.append(candidate)
            left[candidate.type] -= 1
            continue
        round_.parked[candidate.id] = parked_by
        round_.parked_types.add(candidate.type)
        if parked_by == "key":
            round_.parked_by_key.add(candidate.share)
    return round_


async def _write(conn: Connection, worker_id: UUID, gates: Gates, round_: _Round) -> list[Claim]:
    if not round_.started and not round_.parked:
        return []
    rows = await conn.fetch(
        gate_statements.START,
        worker_id,
        [candidate.id for candidate in round_.started],
        list(round_.parked),
        list(round_.parked.values()),
    )
    await save_rates(conn, gates)
    return [Claim(**row) for row in rows]


def _count(candidates: Iterable[Candidate]) -> Counter[str]:
    return Counter(candidate.type for candidate in candidates)

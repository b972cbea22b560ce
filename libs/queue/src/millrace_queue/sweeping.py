"""Sweeps: what keeps gates in order when something happened that no claim and no release has seen to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from millrace_queue import gate_statements, sweep_statements
from millrace_queue.entries import Connection
from millrace_queue.gate_state import Key, Share
from millrace_queue.letting_go import let_go
from millrace_queue.sweep_statements import BATCH
from millrace_queue.transactions import in_transaction

_NO_SHARE: Share = ("", "")
_NO_KEY: Key = ("", "", "")
_FEW = 100


@dataclass(slots=True)
class SweepProgress:
    """How far the sweeps of a process have come in their round of all that is parked."""

    paused: str = ""
    share: Share = _NO_SHARE
    key: Key = _NO_KEY
    changed_at: datetime | None = None
    """When limits were last changed, as far as is known."""
    hurries: bool = False
    """Limits have been changed since the round began: it goes on without pauses."""


@dataclass(slots=True)
class Sweep:
    """What a sweep did.

    Attributes:
        types: those of entries that can be claimed now and could not before.
        more: there is more to do now.
        opens_in: in how many seconds a rate that entries wait for opens; None: there is none.

    """

    types: set[str] = field(default_factory=set)
    more: bool = False
    opens_in: float | None = None


async def sweep_gates(conn: Connection, progress: SweepProgress) -> Sweep:
    """Let go what is parked and may start, and park what tenants that are paused have in line.

    Sees to what releases do not: limits that were changed or lifted, tenants that were paused or resumed, rates that are
    open again, parked entries whose predecessors were cancelled or expired. To be called about once a second, by whom
    and how many does not matter, and when `opens_in` says; costs next to nothing while nothing is parked. One call
    deals with so many entries that it takes some 10 ms.

    Args:
        conn: an open connection, best not in a longer transaction.
        progress: how far the caller's sweeps have come; changed.

    """
    async with in_transaction(conn):
        if not await conn.fetchval(sweep_statements.TRY_LOCK):
            return Sweep(more=True)
        sweep = Sweep()
        (overview,) = await conn.fetch(
            sweep_statements.OVERVIEW, progress.paused, sweep_statements.PAUSED_AT_ONCE
        )
        if overview["changed_at"] != progress.changed_at:
            progress.changed_at, progress.hurries = overview["changed_at"], True
            progress.share, progress.key = _NO_SHARE, _NO_KEY
        if overview["has_gates"]:
            sweep.more = await _mark_gated(conn)
        await _park_paused(conn, overview["paused"], progress, sweep)
        shares = await _next_shares(conn, progress) if overview["parked_by_tenant"] else []
        if overview["has_rates"]:
            shares += await _opened_shares(conn, sweep)
            await conn.execute(sweep_statements.REMOVE_IDLE_RATES, BATCH)
        keys = await _next_keys(conn, progress) if overview["parked_by_key"] else []
        returned = await let_go(conn, set(shares), keys)
        sweep.types = {type_ for type_, _, _ in returned}
        # So many are rare in quiet times: those of a tenant that was resumed, of a limit that was lifted.
        sweep.more |= returned.total() > _FEW
        if progress.hurries:
            progress.hurries = progress.share != _NO_SHARE or progress.key != _NO_KEY
            sweep.more |= progress.hurries
        if overview["has_rates"]:
            sweep.opens_in = await conn.fetchval(sweep_statements.SECONDS_UNTIL_RATE)
    return sweep


async def _mark_gated(conn: Connection) -> bool:
    """Have limits count what was claimed before they were set; return whether there is more of it."""
    rows = await conn.fetch(sweep_statements.MARK_GATED, BATCH)
    locked = [row for row in rows if not row["marked"]]
    if locked:
        await conn.execute(
            sweep_statements.KEEP_SETTLING, [row["type"] for row in locked], [row["tenant"] for row in locked]
        )
    return len(rows) == BATCH and len(locked) < BATCH


async def _park_paused(
    conn: Connection, paused: Sequence[str], progress: SweepProgress, sweep: Sweep
) -> None:
    progress.paused = paused[-1] if len(paused) == sweep_statements.PAUSED_AT_ONCE else ""
    if paused:
        parked = await conn.fetch(sweep_statements.PARK_PAUSED, paused, BATCH)
        sweep.more |= len(parked) == BATCH


async def _next_shares(conn: Connection, progress: SweepProgress) -> list[Share]:
    type_, tenant = progress.share
    rows = await conn.fetch(sweep_statements.SHARES_WITH_PARKED, tenant, type_, BATCH)
    shares = [(row["type"], row["tenant"]) for row in rows]
    progress.share = shares[-1] if len(shares) == BATCH else _NO_SHARE
    return shares


async def _next_keys(conn: Connection, progress: SweepProgress) -> list[Key]:
    rows = await conn.fetch(sweep_statements.KEYS_WITH_PARKED, *progress.key, BATCH)
    keys = [(row["type"], row["tenant"], row["concurrency_key"]) for row in rows]
    progress.key = keys[-1] if len(keys) == BATCH else _NO_KEY
    return keys


async def _opened_shares(conn: Connection, sweep: Sweep) -> list[Share]:
    """Return what has parked entries and a rate that has opened."""
    opened = await conn.fetch(sweep_statements.TAKE_OPENED_RATES, BATCH)
    if not opened:
        return []
    sweep.more |= len(opened) == BATCH
    shares = [(row["type"], row["tenant"]) for row in opened if row["type"]]
    rows = await conn.fetch(
        gate_statements.PARKED_AT,
        [type_ for type_, _ in shares],
        [tenant for _, tenant in shares],
        [],
        [],
        [],
        [row["tenant"] for row in opened if not row["type"]],
    )
    return [(row["type"], row["tenant"]) for row in rows]

"""Gates: limits on what runs at once, and on what starts, that hold over all workers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import asyncpg

from millrace_queue import gate_statements
from millrace_queue.entries import Connection, KeyOrder
from millrace_queue.gate_state import Key, Share, TypeSettings
from millrace_queue.letting_go import LetGo, let_go
from millrace_queue.transactions import in_transaction


@dataclass(frozen=True, slots=True)
class Ended:
    """An entry that ran and does not run any more.

    Attributes:
        id: the entry.
        type: its type.
        tenant: its tenant.
        concurrency_key: its concurrency key; None: it has none.
        key_order: the order that its key asks for.
        stays: it is still in the queue and waits for another attempt.
        failed: it is gone because it failed for good.
        enqueued_at: when it came in, its place in the order of its key; None: now.

    """

    id: UUID
    type: str
    tenant: str
    concurrency_key: str | None
    key_order: KeyOrder | None
    stays: bool
    failed: bool
    enqueued_at: datetime | None = None


Freed: TypeAlias = Counter[str]
"""How many entries of each type may be claimed now and might not before, if they are claimed soon."""


async def release(conn: Connection, ended: Sequence[Ended], freed: Freed | None = None) -> None:
    """Let others through the gates that entries have left; only those that were `gated` need be given.

    To be called in the transaction that ended them, after all else that waits for a lock on an entry: until that
    commits nobody else claims entries of these types, if few enough wait for them.

    Args:
        conn: an open connection.
        ended: the entries.
        freed: out, what may be claimed instead.

    """
    if not ended:
        return
    async with in_transaction(conn):
        await _block_keys(conn, [entry for entry in ended if entry.failed and entry.key_order == "block"])
        rows = await conn.fetch(gate_statements.READ_LEFT_TYPES, list({entry.type for entry in ended}))
        in_line = {row["type"] for row in rows if row["waits"]}
        waiting = Counter(entry.type for entry in ended if entry.type in in_line)
        left = await _left_gates(conn, ended, [row for row in rows if row["parks"]])
        let_go = await _let_go(conn, left)
        # A claim that counts the ended entries among the running ones may be parking others just now. Where as many as
        # ended are let go anyway there is no place left for these; elsewhere it is waited for.
        left = left.without(let_go)
        if left.shares or left.keys:
            await conn.fetch(gate_statements.LOCK_TYPES, sorted(left.types))
            if left.tenants:
                await conn.fetch(gate_statements.LOCK_GATED_TENANTS, sorted(left.tenants))
            let_go += await _let_go(conn, left)
    if freed is not None:
        freed.update(_freed(let_go, waiting))


async def unblock_key(conn: Connection, type_: str, tenant: str, key: str) -> UUID | None:
    """Let the entries of a key in strict order go on without the one that failed for good.

    Returns:
        The id of the failed entry; None: the key was not blocked.

    """
    async with in_transaction(conn):
        failed: UUID | None = await conn.fetchval(gate_statements.UNBLOCK_KEY, type_, tenant, key)
        if failed is not None:
            await conn.fetch(gate_statements.LOCK_TYPES, [type_])
            await let_go(conn, [], [(type_, tenant, key)])
    return failed


@dataclass(frozen=True, slots=True)
class _LeftGates:
    """The gates that entries have left, with how many of them."""

    shares: Counter[Share]
    keys: Counter[Key]
    tenants: Counter[str]
    """Those of `shares` that have gates over all types."""
    settings: TypeSettings | None
    """What is set for the types; None: not for all that may be concerned."""

    @property
    def types(self) -> set[str]:
        return {type_ for type_, *_ in (*self.shares, *self.keys)}

    def without(self, let_go: LetGo) -> "_LeftGates":
        """Return the gates that fewer have been let through than left."""
        shares: Counter[Share] = Counter()
        keys: Counter[Key] = Counter()
        tenants: Counter[str] = Counter()
        for (type_, tenant, key), count in let_go.items():
            shares[type_, tenant] += count
            tenants[tenant] += count
            if key is not None:
                keys[type_, tenant, key] += count
        missing = self.tenants - tenants
        return _LeftGates(
            Counter(
                {
                    share: count
                    for share, count in self.shares.items()
                    if share[1] in missing or (share[1] not in self.tenants and shares[share] < count)
                }
            ),
            self.keys - keys,
            missing,
            None,
        )


def _freed(let_go: LetGo, waiting: Freed) -> Freed:
    returned: Freed = Counter()
    for (type_, _, _), count in let_go.items():
        returned[type_] += count
    # What was put back is in line, too.
    return returned | waiting


async def _left_gates(conn: Connection, ended: Sequence[Ended], rows: Sequence[asyncpg.Record]) -> _LeftGates:
    """Return the gates at which entries may be parked; `rows` are the types that have such gates."""
    if not rows:
        return _LeftGates(Counter(), Counter(), Counter(), None)
    parking = {row["type"] for row in rows}
    limited = {row["type"] for row in rows if row["max_running_per_tenant"] is not None}
    gated: set[str] = set()
    if rows[0]["has_gated_tenants"]:
        names = list({entry.tenant for entry in ended})
        gated = {row["tenant"] for row in await conn.fetch(gate_statements.READ_GATED_TENANTS, names)}
    return _LeftGates(
        Counter(
            (entry.type, entry.tenant) for entry in ended if entry.type in limited or entry.tenant in gated
        ),
        Counter(
            (entry.type, entry.tenant, entry.concurrency_key)
            for entry in ended
            if entry.type in parking and entry.concurrency_key is not None
        ),
        Counter(entry.tenant for entry in ended if entry.tenant in gated),
        None if gated else TypeSettings.of(rows),
    )


async def _let_go(conn: Connection, left: _LeftGates) -> LetGo:
    if not left.shares and not left.keys:
        return Counter()
    parked = await conn.fetch(
        gate_statements.PARKED_AT,
        [type_ for type_, _ in left.shares],
        [tenant for _, tenant in left.shares],
        [type_ for type_, _, _ in left.keys],
        [tenant for _, tenant, _ in left.keys],
        [key for _, _, key in left.keys],
        list(left.tenants),
    )
    return await let_go(
        conn,
        [(type_, tenant) for type_, tenant, key in parked if key is None],
        [(type_, tenant, key) for type_, tenant, key in parked if key is not None],
        left.settings,
    )


async def _block_keys(conn: Connection, failed: Sequence[Ended]) -> None:
    if failed:
        await conn.execute(
            gate_statements.BLOCK_KEYS,
            [entry.type for entry in failed],
            [entry.tenant for entry in failed],
            [entry.concurrency_key for entry in failed],
            [entry.id for entry in failed],
            [entry.enqueued_at for entry in failed],
        )

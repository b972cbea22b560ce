"""Parked entries that may start are put back into their lines."""

import random
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TypeAlias

from millrace_queue import gate_statements
from millrace_queue.entries import Connection
from millrace_queue.gate_state import UNLIMITED, Gates, Key, Share, TypeSettings, read_gates, read_tenants

LetGo: TypeAlias = Counter[tuple[str, str, str | None]]
"""How many entries were put back, by type, tenant and concurrency key."""

MOST_AT_ONCE = 1_000
"""So many entries are put back at once; if more may start, the rest follows."""

_LEAST_OF_EACH = 10


async def let_go(
    conn: Connection, shares: Collection[Share], keys: Collection[Key], settings: TypeSettings | None = None
) -> LetGo:
    """Put back as many of what is parked at the gates of these shares and keys as may start.

    Needs no lock: what is put back and may not start after all is parked again by the claim that finds it.

    Args:
        conn: an open connection.
        shares: types and tenants.
        keys: concurrency keys.
        settings: what is set for their types, if that is known.

    Returns:
        How many entries.

    """
    types = sorted({type_ for type_, *_ in (*shares, *keys)})
    if not types:
        return Counter()
    if settings is None:
        settings = TypeSettings.of(await conn.fetch(gate_statements.READ_TYPES, types))
    tenants = await read_tenants(conn, {tenant for _, tenant in shares})
    gates = await read_gates(conn, settings, tenants, shares, keys)
    return await let_tenants_go(conn, gates, shares) + await _let_keys_go(conn, gates, keys)


async def let_tenants_go(
    conn: Connection, gates: Gates, shares: Collection[Share], *, at_least: int = 0
) -> LetGo:
    """Put back what waits at the gates of tenants, as far as there are places; return how many.

    Where there is any place `at_least` so many: the first ones may wait at other gates.
    """
    places = _shared_out(gates, shares)
    if not places:
        return Counter()
    most = max(MOST_AT_ONCE // len(places), _LEAST_OF_EACH)
    rows = await conn.fetch(
        gate_statements.LET_TENANTS_GO,
        [type_ for type_, _ in places],
        [tenant for _, tenant in places],
        [min(max(count, at_least), most) for count in places.values()],
        [count >= UNLIMITED for count in places.values()],
    )
    return Counter(tuple(row) for row in rows)


def _shared_out(gates: Gates, shares: Iterable[Share]) -> dict[Share, int]:
    """Give the places of each tenant to its types by lot: of no other order each of them gets its turn."""
    left: dict[str, int] = {}
    places: dict[Share, int] = {}
    for type_, tenant in random.sample(list(shares), len(list(shares))):
        of_tenant = left.setdefault(tenant, gates.tenant_places(tenant))
        count = min(of_tenant, gates.share_places(type_, tenant))
        if count > 0:
            places[type_, tenant] = count
            left[tenant] = of_tenant if of_tenant >= UNLIMITED else of_tenant - count
    return places


async def _let_keys_go(conn: Connection, gates: Gates, keys: Collection[Key]) -> LetGo:
    if not keys:
        return Counter()
    heads = [
        head
        for key in keys
        if (head := gates.heads.get(key)) is not None and key not in gates.blocked and not gates.running[key]
    ]
    rows = await conn.fetch(gate_statements.LET_HEADS_GO, heads) if heads else []
    rows += await conn.fetch(
        gate_statements.LET_KEYS_GO,
        [type_ for type_, _, _ in keys],
        [tenant for _, tenant, _ in keys],
        [key for _, _, key in keys],
        [gates.running[key] for key in keys],
    )
    return Counter(tuple(row) for row in rows)

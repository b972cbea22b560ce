"""What the gates let through at this moment."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

import asyncpg

from millrace_queue import gate_statements
from millrace_queue.entries import Connection, KeyOrder
from millrace_queue.rates import Rate, RateUse
from millrace_queue.tenants import Tenant
from millrace_queue.type_gates import TypeGates

Share: TypeAlias = tuple[str, str]
"""Type and tenant."""

Key: TypeAlias = tuple[str, str, str]
"""Type, tenant and concurrency key."""

ParkedBy: TypeAlias = Literal["tenant", "key"]

UNLIMITED = 2**30
"""More than anybody has waiting at once."""

_Scope: TypeAlias = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry that may start."""

    id: UUID
    type: str
    tenant: str
    priority: int
    rank: int
    concurrency_key: str | None
    concurrency_limit: int | None
    key_order: KeyOrder | None

    @property
    def share(self) -> Share:
        """Its type and tenant."""
        return self.type, self.tenant

    @property
    def key(self) -> Key | None:
        """Its concurrency key, with what it holds within."""
        return None if self.concurrency_key is None else (self.type, self.tenant, self.concurrency_key)


@dataclass(frozen=True, slots=True)
class TypeSettings:
    """What is set for the types in question, read or locked."""

    now: datetime
    gates: dict[str, TypeGates]
    paused: frozenset[str]
    plain: frozenset[str]
    """Those that have no other gate than a limit of what runs at once."""
    has_gated_tenants: bool
    settling: bool

    @classmethod
    def of(cls, rows: Collection[asyncpg.Record]) -> "TypeSettings":
        """Take the rows of one of the statements that read types, at least one."""
        first = next(iter(rows))
        return cls(
            now=first["now"],
            gates={row["type"]: _type_gates(row) for row in rows},
            paused=frozenset(row["type"] for row in rows if row["paused"]),
            plain=frozenset(row["type"] for row in rows if _is_plain(row)),
            has_gated_tenants=first["has_gated_tenants"],
            settling=any(row["settling"] for row in rows),
        )


@dataclass(slots=True)
class Gates:
    """Gates, how much of each is used, and what has started since that was read."""

    settings: TypeSettings
    tenants: dict[str, Tenant]
    running: Counter[_Scope] = field(default_factory=Counter)
    heads: dict[Key, UUID | None] = field(default_factory=dict)
    blocked: set[Key] = field(default_factory=set)
    rates: dict[Share, RateUse] = field(default_factory=dict)
    touched: set[Share] = field(default_factory=set)
    """The rates in which starts have been counted, or that were found used up."""

    def type_places(self, type_: str) -> int:
        """Return how many more of a type may start."""
        gates = self.settings.gates[type_]
        return self._places((type_, None, None), gates.max_running, (type_, ""), gates.rate)

    def share_places(self, type_: str, tenant: str) -> int:
        """Return how many more of a tenant and type may start as far as the gates of tenants go."""
        gates, all_types = self.settings.gates[type_], self.tenants.get(tenant)
        places = self._places(
            (type_, tenant, None), gates.max_running_per_tenant, (type_, tenant), gates.tenant_rate
        )
        return places if all_types is None else min(places, self.tenant_places(tenant))

    def tenant_places(self, tenant: str) -> int:
        """Return how many more of a tenant may start over all types."""
        settings = self.tenants.get(tenant)
        if settings is None:
            return UNLIMITED
        if settings.paused:
            return 0
        return self._places((None, tenant, None), settings.max_running, ("", tenant), settings.rate)

    def holds(self, candidate: Candidate) -> ParkedBy | None:
        """Return at which gate an entry has to wait that its type would let through."""
        key = candidate.key
        # The key first: what waits at the gate of its tenant takes no place there from another one.
        if (
            key
            and candidate.concurrency_limit
            and not self._key_lets(candidate, key, candidate.concurrency_limit)
        ):
            return "key"
        if self.share_places(*candidate.share) > 0:
            return None
        self.touched.update(scope for scope, _ in self._used_up(*candidate.share) if scope[1])
        return "tenant"

    def start(self, candidate: Candidate) -> None:
        """Count an entry that starts now."""
        type_, tenant = candidate.share
        self.running.update([(type_, None, None), (type_, tenant, None), (None, tenant, None)])
        if candidate.key:
            self.running[candidate.key] += 1
        for scope, rate in self._rates_of(type_, tenant):
            self.rates.setdefault(scope, RateUse()).take(rate, self.settings.now, 1)
            self.touched.add(scope)

    def rate_opens(self, type_: str, tenant: str) -> datetime | None:
        """Return when the rates of a tenant and type that are used up let the next one start, None when none is."""
        return max(
            (
                self.rates[scope].opens_at(rate, self.settings.now)
                for scope, rate in self._used_up(type_, tenant)
            ),
            default=None,
        )

    def rate_of(self, scope: Share) -> Rate | None:
        """Return the rate of a scope, where an empty type or tenant stands for all."""
        type_, tenant = scope
        if not type_:
            return self.tenants[tenant].rate if tenant in self.tenants else None
        gates = self.settings.gates[type_]
        return gates.tenant_rate if tenant else gates.rate

    def _rates_of(self, type_: str, tenant: str) -> Iterable[tuple[Share, Rate]]:
        for scope in ((type_, ""), (type_, tenant), ("", tenant)):
            rate = self.rate_of(scope)
            if rate is not None:
                yield scope, rate

    def _used_up(self, type_: str, tenant: str) -> Iterable[tuple[Share, Rate]]:
        for scope, rate in self._rates_of(type_, tenant):
            if scope in self.rates and self.rates[scope].places(rate, self.settings.now) == 0:
                yield scope, rate

    def _key_lets(self, candidate: Candidate, key: Key, limit: int) -> bool:
        if self.running[key] >= limit:
            return False
        if candidate.key_order is None:
            return True
        return key not in self.blocked and self.heads.get(key) == candidate.id

    def _places(self, scope: _Scope, limit: int | None, rate_scope: Share, rate: Rate | None) -> int:
        places = UNLIMITED if limit is None else limit - self.running[scope]
        if rate is not None:
            use = self.rates.get(rate_scope) or RateUse()
            places = min(places, use.places(rate, self.settings.now))
        return max(places, 0)


async def read_tenants(conn: Connection, names: Collection[str]) -> dict[str, Tenant]:
    """Return what is set for tenants; one that is missing has the ordinary values."""
    rows = await conn.fetch(gate_statements.READ_TENANTS, list(names)) if names else []
    return {row["tenant"]: _tenant(row) for row in rows}


async def read_gates(
    conn: Connection,
    settings: TypeSettings,
    tenants: dict[str, Tenant],
    shares: Collection[Share],
    keys: Collection[Key],
) -> Gates:
    """Read how much of the gates of these shares and keys, and of their types and tenants, is used.

    Args:
        conn: an open connection.
        settings: what is set for all types of `shares` and `keys`.
        tenants: what is set for those tenants of `shares` that have gates or are paused.
        shares: types and tenants.
        keys: concurrency keys.

    """
    gates = Gates(settings, tenants)
    limited = [type_ for type_, type_gates in settings.gates.items() if type_gates.max_running is not None]
    limited_shares = [
        share for share in shares if settings.gates[share[0]].max_running_per_tenant is not None
    ]
    limited_tenants = [name for name, tenant in tenants.items() if tenant.max_running is not None]
    if limited or limited_shares or limited_tenants or keys:
        rows = await conn.fetch(
            gate_statements.RUNNING,
            limited,
            [type_ for type_, _ in limited_shares],
            [tenant for _, tenant in limited_shares],
            limited_tenants,
            [type_ for type_, _, _ in keys],
            [tenant for _, tenant, _ in keys],
            [key for _, _, key in keys],
            settings.settling,
        )
        _add_running(gates, rows)
    await _add_rates(conn, gates, shares)
    return gates


def _add_running(gates: Gates, rows: Iterable[asyncpg.Record]) -> None:
    for type_, tenant, key, running, head, blocked in rows:
        gates.running[type_, tenant, key] = running
        if key is not None:
            gates.heads[type_, tenant, key] = head
            if blocked:
                gates.blocked.add((type_, tenant, key))


async def _add_rates(conn: Connection, gates: Gates, shares: Iterable[Share]) -> None:
    scopes = {scope for type_, tenant in shares for scope in ((type_, ""), (type_, tenant), ("", tenant))}
    used = [scope for scope in scopes if gates.rate_of(scope)]
    if used:
        rows = await conn.fetch(
            gate_statements.READ_RATES, [type_ for type_, _ in used], [tenant for _, tenant in used]
        )
        gates.rates = {
            (row["type"], row["tenant"]): RateUse(
                row["start_times"], row["start_counts"], row["next_at"]
            ).without_future(gates.settings.now)
            for row in rows
        }


def _is_plain(row: asyncpg.Record) -> bool:
    others = ("max_running_per_tenant", "rate_count", "tenant_rate_count")
    return not (row["keyed"] or row["has_gated_tenants"] or any(row[column] is not None for column in others))


def _type_gates(row: asyncpg.Record) -> TypeGates:
    return TypeGates(
        row["max_running"],
        row["max_running_per_tenant"],
        _rate(row["rate_count"], row["rate_period"], row["rate_smooth"]),
        _rate(row["tenant_rate_count"], row["tenant_rate_period"], row["tenant_rate_smooth"]),
    )


def _tenant(row: asyncpg.Record) -> Tenant:
    rate = _rate(row["rate_count"], row["rate_period"], row["rate_smooth"])
    return Tenant(row["paused"], row["weight"], row["max_running"], rate)


def _rate(count: int | None, period: Any, smooth: bool) -> Rate | None:
    return None if count is None else Rate(count, period, smooth)

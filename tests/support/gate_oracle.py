"""What gates must and must not let through, worked out one entry at a time from all that is in the queue."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import asyncpg

from millrace_queue import Claim, Rate, Tenant, TypeGates

_Scope: TypeAlias = tuple[str | None, str | None, str | None]


@dataclass
class Oracle:
    """The limits that are set, the starts that rates have counted, and what is in the queue."""

    types: dict[str, TypeGates] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    blocked: dict[tuple[str, str, str], UUID] = field(default_factory=dict)
    rate_starts: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: Mapping[UUID, asyncpg.Record] = field(default_factory=dict)

    def look(self, rows: Iterable[asyncpg.Record]) -> None:
        self.rows = {row["id"]: row for row in rows}

    def check_claims(self, before: Mapping[UUID, asyncpg.Record], claims: Iterable[Claim]) -> None:
        """The claims were allowed one after the other, in some order; `rows` is what there is now."""
        running = _count(row for row in before.values() if row["state"] == "running")
        started = [self.rows[claim_.id] for claim_ in claims]
        for row in started:
            type_, tenant = row["type"], row["tenant"]
            assert type_ not in self.paused
            assert not self.tenant(tenant).paused
            for scope, rate in self._rates(type_, tenant):
                self.rate_starts[scope] += 1
                assert self.rate_starts[scope] <= rate.count, scope
            running.update(_scopes(row))
            gates = self.gates(type_)
            assert _within(running[type_, None, None], gates.max_running)
            assert _within(running[type_, tenant, None], gates.max_running_per_tenant)
            assert _within(running[None, tenant, None], self.tenant(tenant).max_running)
            if row["concurrency_key"] is not None:
                assert _within(running[_key(row)], row["concurrency_limit"])
            if row["key_order"] is not None:
                assert _key(row) not in self.blocked
                assert row["id"] == self._first(_key(row), before)

    def may_start(self) -> list[UUID]:
        """The entries that wait and that no gate holds."""
        running = _count(row for row in self.rows.values() if row["state"] == "running")
        return [
            row["id"]
            for row in self.rows.values()
            if row["state"] in ("ready", "parked") and self._may_start(row, running)
        ]

    def gates(self, type_: str) -> TypeGates:
        return self.types.get(type_, TypeGates())

    def tenant(self, tenant: str) -> Tenant:
        return self.tenants.get(tenant, Tenant())

    def _may_start(self, row: asyncpg.Record, running: Counter[_Scope]) -> bool:
        type_, tenant, gates = row["type"], row["tenant"], self.gates(row["type"])
        if type_ in self.paused or self.tenant(tenant).paused:
            return False
        if any(self.rate_starts[scope] >= rate.count for scope, rate in self._rates(type_, tenant)):
            return False
        limits: list[tuple[_Scope, int | None]] = [
            ((type_, None, None), gates.max_running),
            ((type_, tenant, None), gates.max_running_per_tenant),
            ((None, tenant, None), self.tenant(tenant).max_running),
        ]
        if row["concurrency_key"] is not None:
            limits.append((_key(row), row["concurrency_limit"]))
        if any(limit is not None and running[scope] >= limit for scope, limit in limits):
            return False
        if row["key_order"] is None:
            return True
        return _key(row) not in self.blocked and row["id"] == self._first(_key(row), self.rows)

    def _first(self, key: tuple[str, str, str], rows: Mapping[UUID, asyncpg.Record]) -> UUID:
        in_order: list[tuple[datetime, UUID]] = [
            (row["enqueued_at"], row["id"])
            for row in rows.values()
            if row["key_order"] is not None
            and _key(row) == key
            and (row["state"] != "scheduled" or row["attempt"] > 0)
        ]
        _, first = min(in_order)
        return first

    def _rates(self, type_: str, tenant: str) -> Iterable[tuple[tuple[str, str], Rate]]:
        gates = self.gates(type_)
        rates = (
            ((type_, ""), gates.rate),
            ((type_, tenant), gates.tenant_rate),
            (("", tenant), self.tenant(tenant).rate),
        )
        return [(scope, rate) for scope, rate in rates if rate is not None]


def _within(count: int, limit: int | None) -> bool:
    return limit is None or count <= limit


def _key(row: asyncpg.Record) -> tuple[str, str, str]:
    return row["type"], row["tenant"], row["concurrency_key"]


def _scopes(row: asyncpg.Record) -> list[_Scope]:
    scopes: list[_Scope] = [
        (row["type"], None, None),
        (row["type"], row["tenant"], None),
        (None, row["tenant"], None),
    ]
    return scopes if row["concurrency_key"] is None else [*scopes, _key(row)]


def _count(rows: Iterable[asyncpg.Record]) -> Counter[_Scope]:
    counts: Counter[_Scope] = Counter()
    for row in rows:
        counts.update(_scopes(row))
    return counts

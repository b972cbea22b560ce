import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    Claim,
    Failure,
    Lease,
    NewEntry,
    Rate,
    SweepProgress,
    TypeGates,
    cancel,
    claim,
    complete,
    enqueue,
    fail,
    hand_back,
    pause_tenant,
    promote,
    register_worker,
    rescue,
    resume_tenant,
    set_tenant,
    set_type_limits,
    sweep_gates,
    unblock_key,
)
from support.gates import entry
from support.queue_samples import LEASE, PLENTY, make_due, new_worker

_T = TypeVar("_T")

_WORKERS = 4
_CLIENTS = 8
_COMMANDS = 150
_TYPES = ["a", "b", "c"]
_TENANTS = ["A", "B", "C"]

chance = random.Random()  # noqa: S311 - nothing secret


async def test_limits_are_never_exceeded_while_many_claim(database: Database) -> None:
    tenants = [f"t{n}" for n in range(12)]
    limits = TypeGates(max_running=20, max_running_per_tenant=4)
    entries = [
        entry(type_, tenant, key=f"k{n % 3}" if n % 2 else None, limit=2)
        for n in range(50)
        for tenant in tenants
        for type_ in ("a", "b")
    ]
    done: Counter[UUID] = Counter()
    async with database.connection() as conn:
        await set_type_limits(conn, "a", limits)
        await set_type_limits(conn, "b", TypeGates(max_running=15))
        await set_tenant(conn, "t0", max_running=3)
        for start in range(0, len(entries), 200):
            await enqueue(conn, entries[start : start + 200])

    async def work(conn: asyncpg.Connection) -> None:
        worker_id = await new_worker(conn)
        running: list[Claim] = []
        while not is_over():
            room = 12 - len(running)
            async with conn.transaction():
                claims = await claim(conn, worker_id, {"a": room, "b": room}, room)
            running += claims
            chance.shuffle(running)
            ended, running = running[: 1 + len(running) // 2], running[1 + len(running) // 2 :]
            async with conn.transaction():
                done.update(await complete(conn, [claim_.lease for claim_ in ended]))
            if not claims:
                await sweep_gates(conn, SweepProgress())

    async def watch(conn: asyncpg.Connection) -> int:
        most = 0
        while not is_over():
            rows = await conn.fetch("SELECT type, tenant, concurrency_key FROM queue WHERE state = 'running'")
            of_type = Counter(row["type"] for row in rows)
            of_share = Counter((row["type"], row["tenant"]) for row in rows)
            of_key = Counter(tuple(row) for row in rows if row["concurrency_key"])
            assert of_type["a"] <= 20
            assert of_type["b"] <= 15
            assert all(count <= 4 for (type_, _), count in of_share.items() if type_ == "a")
            assert sum(1 for row in rows if row["tenant"] == "t0") <= 3
            assert all(count <= 2 for count in of_key.values())
            most = max(most, of_type["a"])
        return most

    def is_over() -> bool:
        return len(done) == len(entries)

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_connected(database, watch))
        for _ in range(_WORKERS):
            tasks.create_task(_connected(database, work))

    assert set(done.values()) == {1}
    assert watching.result() > 10


class _Client:
    """Does anything, to entries that others are busy with as well."""

    def __init__(self, conn: asyncpg.Connection, workers: list[UUID], leases: list[Lease]) -> None:
        self.conn = conn
        self.workers = workers
        self.leases = leases

    async def run(self) -> None:
        commands: list[Callable[[], Awaitable[object]]] = [
            *[self.claim] * 6,
            *[lambda: complete(self.conn, self.some())] * 4,
            lambda: enqueue(self.conn, [some_entry() for _ in range(5)]),
            lambda: hand_back(self.conn, self.some()),
            self.fail,
            lambda: cancel(self.conn, [lease.id for lease in self.some()]),
            lambda: promote(self.conn, limit=20),
            self.set_limits,
            lambda: set_tenant(self.conn, self.tenant(), max_running=chance.choice([None, None, 2, 6])),
            lambda: pause_tenant(self.conn, self.tenant()),
            *[lambda: resume_tenant(self.conn, self.tenant())] * 2,
            lambda: sweep_gates(self.conn, SweepProgress()),
            lambda: unblock_key(self.conn, chance.choice(_TYPES), self.tenant(), "y"),
            self.lose_worker,
        ]
        for _ in range(_COMMANDS):
            async with self.conn.transaction():
                await chance.choice(commands)()

    async def claim(self) -> None:
        claims = await claim(self.conn, chance.choice(self.workers), dict.fromkeys(_TYPES, 5), 8)
        self.leases.extend(claim_.lease for claim_ in claims)

    async def fail(self) -> None:
        delay = chance.choice([None, timedelta(), timedelta(hours=1)])
        await fail(self.conn, [Failure(lease.id, lease.fence, delay) for lease in self.some()])

    async def set_limits(self) -> None:
        rate = chance.choice([None, None, Rate(50, timedelta(milliseconds=100))])
        limits = TypeGates(chance.choice([None, 3, 8]), chance.choice([None, 1, 4]), rate, rate)
        await set_type_limits(self.conn, chance.choice(_TYPES), limits)

    async def lose_worker(self) -> None:
        worker_id = chance.choice(self.workers)
        await self.conn.execute(
            "UPDATE queue_workers SET heartbeat_at = now() - lease * 2 WHERE worker_id = $1", worker_id
        )
        await rescue(self.conn, limit=20)
        await register_worker(self.conn, worker_id, lease=LEASE, details={})

    def some(self) -> list[Lease]:
        recent = {lease.id: lease for lease in self.leases[-60:]}
        return chance.sample(list(recent.values()), k=min(len(recent), 6))

    def tenant(self) -> str:
        return chance.choice(_TENANTS)


def some_entry() -> NewEntry:
    key = chance.choice([None, "x", "y"])
    return entry(
        chance.choice(_TYPES),
        chance.choice(_TENANTS),
        key=key,
        order="block" if key == "y" else None,
        max_attempts=1000,
    )


async def test_whatever_happens_at_once_nobody_deadlocks_and_nothing_is_lost(database: Database) -> None:
    leases: list[Lease] = []
    workers = [new_id() for _ in range(_WORKERS)]
    async with database.connection() as conn:
        for worker_id in workers:
            await register_worker(conn, worker_id, lease=LEASE, details={})
        await enqueue(conn, [some_entry() for _ in range(200)])

    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        for _ in range(_CLIENTS):
            tasks.create_task(_connected(database, lambda conn: _Client(conn, workers, leases).run()))

    await _all_are_served_in_the_end(database)


async def _connected(database: Database, work: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
    conn = await database.direct_connection()
    try:
        return await work(conn)
    finally:
        await conn.close()


async def _all_are_served_in_the_end(database: Database) -> None:
    async with database.connection() as conn:
        for type_ in _TYPES:
            await set_type_limits(conn, type_, TypeGates(max_running=5, max_running_per_tenant=2))
        for tenant in _TENANTS:
            await set_tenant(conn, tenant, max_running=3)
            await resume_tenant(conn, tenant)
        await conn.execute("DELETE FROM queue_workers")
        worker_id, progress = await new_worker(conn), SweepProgress()
        async with asyncio.timeout(60):
            while await conn.fetchval("SELECT count(*) FROM queue"):
                await rescue(conn, limit=PLENTY)
                await make_due(conn)
                await promote(conn, limit=PLENTY)
                await conn.execute("DELETE FROM queue_blocked_keys")
                await sweep_gates(conn, progress)
                async with conn.transaction():
                    claims = await claim(conn, worker_id, dict.fromkeys(_TYPES, PLENTY), PLENTY)
                assert len(claims) <= 9
                await complete(conn, [claim_.lease for claim_ in claims])

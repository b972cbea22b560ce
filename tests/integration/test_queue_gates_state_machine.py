import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from millrace_database.connection_url import asyncpg_dsn
from millrace_queue import (
    Claim,
    Failure,
    KeyOrder,
    NewEntry,
    Rate,
    Settled,
    TypeGates,
    cancel,
    claim,
    complete,
    enqueue,
    fail,
    hand_back,
    pause_tenant,
    pause_type,
    promote,
    rescue,
    resume_tenant,
    resume_type,
    set_tenant,
    set_type_limits,
    unblock_key,
)
from support.gate_oracle import Oracle
from support.gates import entry, swept
from support.queue_samples import PLENTY, lose_heartbeat, make_due, new_worker

_T = TypeVar("_T")

_TYPES = ["a", "b"]
_TENANTS = ["A", "B"]
_KEYS: dict[str, tuple[int, KeyOrder | None]] = {
    "one": (1, None),
    "two": (2, None),
    "block": (1, "block"),
    "skip": (1, "skip"),
}
_SOME = st.integers(0, 30)
_LIMIT = st.sampled_from([None, None, 0, 1, 2, 3])
_RATE = st.sampled_from([None, None, None, 2, 5]).map(
    lambda count: None if count is None else Rate(count, timedelta(hours=1))
)
_GATES = st.builds(
    TypeGates, max_running=_LIMIT, max_running_per_tenant=_LIMIT, rate=_RATE, tenant_rate=_RATE
)
_ENTRIES = st.builds(
    lambda type_, tenant, key, priority: entry(
        type_,
        tenant,
        key=key,
        limit=_KEYS[key][0] if key else 1,
        order=_KEYS[key][1] if key else None,
        priority=priority,
        max_attempts=50,
    ),
    st.sampled_from(_TYPES),
    st.sampled_from(_TENANTS),
    st.sampled_from([None, *_KEYS, "block"]),
    st.integers(-1, 1),
)


class _Commands(RuleBasedStateMachine):
    """Commands of several workers, clients and operators in any order."""

    runner: asyncio.Runner
    conn: asyncpg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.workers: list[UUID] = []
        self.claims: list[Claim] = []
        self.failed: list[NewEntry] = []
        self.entries: dict[UUID, NewEntry] = {}

    @initialize()
    def start_empty(self) -> None:
        self.run(
            lambda conn: conn.execute(
                "TRUNCATE queue, queue_lines, queue_types, queue_tenants, queue_rates, queue_blocked_keys,"
                " queue_workers"
            )
        )
        self.workers = [self.run(new_worker) for _ in range(3)]

    @rule(new=st.lists(_ENTRIES, min_size=1, max_size=12))
    def enqueue(self, new: list[NewEntry]) -> None:
        self.entries |= {entry_.id: entry_ for entry_ in new}
        self.run(lambda conn: enqueue(conn, sorted(new, key=lambda entry_: entry_.id)))

    @rule(worker=_SOME, types=st.sampled_from([["a"], ["b"], ["a", "b"]]), limit=st.sampled_from([20, 3, 1]))
    def claim(self, worker: int, types: list[str], limit: int) -> None:
        self.look()
        before = self.oracle.rows
        worker_id = self.workers[worker % len(self.workers)]
        claims = self.run(lambda conn: claim(conn, worker_id, dict.fromkeys(types, limit), limit))
        assert len(claims) <= limit
        self.claims += claims
        self.look()
        self.oracle.check_claims(before, self._in_order(claims))

    @rule(
        which=st.lists(_SOME, min_size=1, max_size=4),
        end=st.sampled_from(
            ["complete", "complete", "complete", "hand back", "retry", "later", "fail", "fail"]
        ),
    )
    def end(self, which: list[int], end: str) -> None:
        ended = {self.claims[n % len(self.claims)] for n in which} if self.claims else set()
        self.claims = [claim_ for claim_ in self.claims if claim_ not in ended]
        leases = [claim_.lease for claim_ in ended]
        if end == "complete":
            self.run(lambda conn: complete(conn, leases))
        elif end == "hand back":
            self.run(lambda conn: hand_back(conn, leases))
        else:
            delay = {"retry": timedelta(), "later": timedelta(hours=1), "fail": None}[end]
            failures = [Failure(lease.id, lease.fence, delay) for lease in leases]
            outcomes = self.run(lambda conn: fail(conn, failures))
            for id_, outcome in outcomes.items():
                if outcome.settled is Settled.FAILED:
                    self._failed_for_good(id_)

    def _failed_for_good(self, id_: UUID) -> None:
        row = self.oracle.rows[id_]
        self.failed.append(replace(self.entries[id_], attempt=row["attempt"], max_attempts=100))
        if row["key_order"] == "block":
            self.oracle.blocked[row["type"], row["tenant"], row["concurrency_key"]] = id_

    @rule(which=_SOME, retry=st.booleans())
    def look_after_failed(self, which: int, retry: bool) -> None:
        if not self.failed:
            return
        failed = self.failed.pop(which % len(self.failed))
        if retry:
            self.run(lambda conn: enqueue(conn, [failed]))
            self.oracle.blocked = {key: id_ for key, id_ in self.oracle.blocked.items() if id_ != failed.id}
        elif failed.concurrency:
            key = (failed.type, failed.tenant, failed.concurrency.key)
            unblocked = self.run(lambda conn: unblock_key(conn, *key))
            assert unblocked == self.oracle.blocked.pop(key, None)

    @rule(worker=_SOME)
    def lose_worker(self, worker: int) -> None:
        number = worker % len(self.workers)
        self.run(lambda conn: lose_heartbeat(conn, self.workers[number]))
        self.look()
        lost = [row["id"] for row in self.oracle.rows.values() if row["worker_id"] == self.workers[number]]
        self.run(lambda conn: rescue(conn, limit=PLENTY))
        self.claims = [claim_ for claim_ in self.claims if claim_.id not in lost]
        self.workers[number] = self.run(new_worker)

    @rule(which=st.lists(_SOME, min_size=1, max_size=3))
    def cancel(self, which: list[int]) -> None:
        waiting = [row["id"] for row in self.oracle.rows.values() if row["state"] != "running"]
        if waiting:
            self.run(lambda conn: cancel(conn, [waiting[n % len(waiting)] for n in which]))

    @rule()
    def let_time_pass(self) -> None:
        self.run(make_due)
        self.run(lambda conn: promote(conn, limit=PLENTY))

    @rule(type_=st.sampled_from(_TYPES), gates=_GATES)
    def set_type(self, type_: str, gates: TypeGates) -> None:
        self.run(lambda conn: set_type_limits(conn, type_, gates))
        self.oracle.types[type_] = gates

    @rule(tenant=st.sampled_from(_TENANTS), max_running=_LIMIT, rate=_RATE)
    def set_tenant(self, tenant: str, max_running: int | None, rate: Rate | None) -> None:
        self.run(lambda conn: set_tenant(conn, tenant, max_running=max_running, rate=rate))
        self.oracle.tenants[tenant] = replace(self.oracle.tenant(tenant), max_running=max_running, rate=rate)

    @rule(type_=st.sampled_from(_TYPES), pause=st.sampled_from([True, False, False]))
    def pause_type(self, type_: str, pause: bool) -> None:
        self.run(lambda conn: (pause_type if pause else resume_type)(conn, type_))
        (self.oracle.paused.add if pause else self.oracle.paused.discard)(type_)

    @rule(tenant=st.sampled_from(_TENANTS), pause=st.sampled_from([True, False, False]))
    def pause_tenant(self, tenant: str, pause: bool) -> None:
        self.run(lambda conn: (pause_tenant if pause else resume_tenant)(conn, tenant))
        self.oracle.tenants[tenant] = replace(self.oracle.tenant(tenant), paused=pause)

    @rule()
    def sweep(self) -> None:
        self.run(swept)

    @rule(limit=st.sampled_from([PLENTY, 1]))
    def whoever_asks_after_a_sweep_gets_all_that_may_start(self, limit: int) -> None:
        self.sweep()
        self.look()
        may_start = bool(self.oracle.may_start())
        count = len(self.claims)
        self.claim(0, _TYPES, limit)
        assert (len(self.claims) > count) == may_start
        while len(self.claims) > count:
            count = len(self.claims)
            self.claim(0, _TYPES, limit)
        assert self.oracle.may_start() == []

    @invariant()
    def look(self) -> None:
        if hasattr(self, "conn"):
            self.oracle.look(self.run(lambda conn: conn.fetch("SELECT * FROM queue")))

    def _in_order(self, claims: list[Claim]) -> list[Claim]:
        return sorted(claims, key=lambda claim_: claim_.fence)

    def run(self, work: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        async def in_transaction() -> _T:
            async with self.conn.transaction():
                return await work(self.conn)

        return self.runner.run(in_transaction())


def test_gates_let_through_all_that_may_start_and_nothing_else(database_url: str) -> None:
    with asyncio.Runner() as runner:
        conn = runner.run(asyncpg.connect(asyncpg_dsn(database_url)))

        class Commands(_Commands):
            pass

        Commands.runner, Commands.conn = runner, conn
        run_state_machine_as_test(
            Commands,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
            ),
        )
        runner.run(conn.close())

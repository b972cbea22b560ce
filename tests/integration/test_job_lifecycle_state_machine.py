import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from millrace_database import job_lifecycle
from millrace_database.connection_url import asyncpg_dsn
from millrace_database.job_lifecycle import CreatedJob, JobFailure, NewJob, ProgressReport
from millrace_queue import Lease, heartbeat, promote
from support.job_model import Model, ModelJob
from support.queue_samples import PLENTY, disagreements, lose_heartbeat, make_due, new_worker, sample_job

_T = TypeVar("_T")

_ORGANISATIONS = st.sampled_from(["acme", "umbrella"])
_SOME = st.integers(0, 30)
_PLACES = st.sampled_from([4, 3, 2, 1, 0])
_FEW = st.lists(_SOME, min_size=1, max_size=4)
_OF_THE_ENTRY = ("entry", "fence", "held_by")


@dataclass(frozen=True)
class _Order:
    org_id: str
    type: str
    priority: int
    max_attempts: int
    due: bool
    request_id: str | None


_ORDERS = st.builds(
    _Order,
    org_id=_ORGANISATIONS,
    type=st.sampled_from(["a", "b"]),
    priority=st.integers(-1, 1),
    max_attempts=st.sampled_from([3, 2, 1]),
    due=st.sampled_from([True, True, False]),
    request_id=st.sampled_from([None, None, None, "r1", "r2", "r3"]),
)


class _Commands(RuleBasedStateMachine):
    """Commands of several workers and clients in any order, on the database and on the model alike.

    Numbers pick among what there is: jobs, workers, and all leases ever given, most of them void by then.
    """

    runner: asyncio.Runner
    conn: asyncpg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.requests: dict[tuple[str, str], UUID] = {}
        self.workers: list[UUID] = []
        self.leases: list[Lease] = []
        self.rows: dict[UUID, asyncpg.Record] = {}

    @initialize()
    def start_empty(self) -> None:
        self.run(lambda conn: conn.execute("TRUNCATE jobs, queue, queue_workers"))
        self.register()
        self.register()

    def register(self) -> None:
        worker_id = self.run(new_worker)
        self.workers.append(worker_id)
        self.model.workers[worker_id] = True

    @rule(orders=st.lists(_ORDERS, min_size=1, max_size=4))
    def create(self, orders: list[_Order]) -> None:
        now = self.run(lambda conn: conn.fetchval("SELECT now()"))
        jobs = [
            sample_job(
                org_id=order.org_id,
                type=order.type,
                priority=order.priority,
                max_attempts=order.max_attempts,
                run_at=None if order.due else now + timedelta(hours=1),
                request_id=order.request_id,
            )
            for order in orders
        ]
        created = self.run(lambda conn: job_lifecycle.create_jobs(conn, jobs))
        assert created == [self.expected(job, order) for job, order in zip(jobs, orders, strict=True)]

    def expected(self, job: NewJob, order: _Order) -> CreatedJob:
        request = (order.org_id, order.request_id or str(job.job_id))
        if request in self.requests:
            existing = self.model.jobs[self.requests[request]]
            return CreatedJob(existing.job_id, already_existed=True, conflict=existing.type != order.type)
        self.requests[request] = job.job_id
        self.model.jobs[job.job_id] = ModelJob(
            job.job_id, order.org_id, order.type, order.priority, order.max_attempts, order.due
        )
        return CreatedJob(job.job_id)

    @rule(worker=_SOME, a=_PLACES, b=_PLACES, limit=_PLACES)
    def claim(self, worker: int, a: int, b: int, limit: int) -> None:
        worker_id, capacity = self.worker(worker), {"a": a, "b": b}
        claimed = self.run(lambda conn: job_lifecycle.claim_jobs(conn, worker_id, capacity, limit))
        assert [job.claim.id for job in claimed] == self.model.claimable(worker_id, capacity, limit)
        for job in claimed:
            self.model.start(job.claim.id, worker_id, job.claim.fence)
            assert job.claim.attempt == self.model.jobs[job.claim.id].attempt
            assert all(job.claim.fence > lease.fence for lease in self.leases)
        self.leases += [job.lease for job in claimed]

    @precondition(lambda self: self.leases)
    @rule(
        which=_FEW,
        how=st.sampled_from(["complete", "retry", "retry later", "fail", "hand back", "stop", "report"]),
    )
    def settle(self, which: list[int], how: str) -> None:
        leases = self.some_leases(which)
        match how:
            case "complete":
                self.complete(leases)
            case "hand back":
                self.hand_back(leases)
            case "stop":
                self.stop(leases)
            case "report":
                self.report(leases)
            case _:
                self.fail(leases, retry=how != "fail", at_once=how == "retry")

    def complete(self, leases: list[Lease]) -> None:
        results = [(lease, "{}") for lease in leases]
        accepted = self.run(lambda conn: job_lifecycle.complete_jobs(conn, results))
        assert accepted == self.model.complete(leases)

    def fail(self, leases: list[Lease], *, retry: bool, at_once: bool) -> None:
        delay = timedelta(hours=0 if at_once else 1) if retry else None
        failures = [JobFailure(lease, delay, "BROKEN", "It broke.", retryable=retry) for lease in leases]
        settled = self.run(lambda conn: job_lifecycle.fail_jobs(conn, failures))
        assert settled == {
            lease.id: self.model.fail(lease, "BROKEN", retry=retry, at_once=at_once) for lease in leases
        }

    def hand_back(self, leases: list[Lease]) -> None:
        outcomes = self.run(lambda conn: job_lifecycle.hand_back_jobs(conn, leases))
        assert outcomes == {lease.id: self.model.hand_back(lease) for lease in leases}

    def stop(self, leases: list[Lease]) -> None:
        accepted = self.run(lambda conn: job_lifecycle.cancelled_jobs(conn, leases))
        assert accepted == self.model.stopped(leases)

    def report(self, leases: list[Lease]) -> None:
        reports = [ProgressReport(lease, message="half way") for lease in leases]
        accepted = self.run(lambda conn: job_lifecycle.report_progress(conn, reports))
        assert accepted == {lease.id for lease in leases if self.model.holder(lease)}

    @precondition(lambda self: self.model.jobs)
    @rule(which=_SOME, retry=st.booleans(), foreign=st.sampled_from([False, False, False, True]))
    def ask(self, which: int, retry: bool, foreign: bool) -> None:
        job = list(self.model.jobs.values())[which % len(self.model.jobs)]
        org_id = "elsewhere" if foreign else job.org_id
        if retry:
            retried = self.run(lambda conn: job_lifecycle.retry_job(conn, org_id, job.job_id, 2))
            assert retried.outcome is self.model.retry(org_id, job.job_id, 2)
        else:
            cancelled = self.run(lambda conn: job_lifecycle.cancel_job(conn, org_id, job.job_id))
            assert cancelled.outcome is self.model.cancel(org_id, job.job_id)

    @rule(
        event=st.sampled_from(["time", "rescue", "crash", "beat", "rescue", "register"]),
        worker=_SOME,
        limit=st.sampled_from([4, 2, 1]),
    )
    def happen(self, event: str, worker: int, limit: int) -> None:
        match event:
            case "time":
                self.let_time_pass()
            case "rescue":
                self.rescue(limit)
            case "crash":
                self.crash(self.worker(worker))
            case "beat":
                self.beat(self.worker(worker))
            case _:
                self.register()

    def crash(self, worker_id: UUID) -> None:
        self.run(lambda conn: lose_heartbeat(conn, worker_id))
        if worker_id in self.model.workers:
            self.model.workers[worker_id] = False

    def beat(self, worker_id: UUID) -> None:
        beat = self.run(lambda conn: heartbeat(conn, worker_id, draining=False))
        assert beat.known == (worker_id in self.model.workers)
        if beat.known:
            self.model.workers[worker_id] = True
            assert {held.id for held in beat.held} == self.model.held(worker_id)

    def rescue(self, limit: int) -> None:
        rescued = self.run(lambda conn: job_lifecycle.rescue_jobs(conn, limit=limit))
        self.model.remove_lost_workers()
        orphans = self.model.orphans()
        assert {entry.id for entry in rescued} <= orphans
        assert len(rescued) == min(limit, len(orphans))
        for entry in rescued:
            assert entry.outcome is self.model.rescue(entry.id)

    def let_time_pass(self) -> None:
        self.run(make_due)
        self.run(lambda conn: promote(conn, limit=PLENTY))
        for job in self.model.jobs.values():
            if job.entry == "scheduled":
                job.due = True

    @invariant()
    def database_and_model_agree(self) -> None:
        assert self.run(disagreements) == []
        rows = self.run(
            lambda conn: conn.fetch(
                "SELECT jobs.*, queue.state AS entry, queue.fence, queue.worker_id AS held_by"
                " FROM jobs LEFT JOIN queue ON id = job_id"
            )
        )
        compared = ("status", "attempt", "max_attempts", "error_code", "entry", "fence", "held_by")
        found = {row["job_id"]: tuple(row[column] for column in compared) for row in rows}
        assert found == {
            job.job_id: tuple(getattr(job, column) for column in compared) for job in self.model.jobs.values()
        }
        self.versions_tell_every_change({row["job_id"]: row for row in rows})

    def versions_tell_every_change(self, rows: dict[UUID, asyncpg.Record]) -> None:
        for job_id, before in self.rows.items():
            now = dict(rows[job_id])
            changed = any(
                now[column] != value for column, value in before.items() if column not in _OF_THE_ENTRY
            )
            assert now["version"] == before["version"] + changed
        self.rows = rows

    def run(self, work: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        async def in_transaction() -> _T:
            async with self.conn.transaction():
                return await work(self.conn)

        return self.runner.run(in_transaction())

    def worker(self, number: int) -> UUID:
        return self.workers[-1 - number % len(self.workers)]

    def some_leases(self, numbers: list[int]) -> list[Lease]:
        """At most one lease of each job."""
        picked = [self.leases[-1 - number % len(self.leases)] for number in numbers]
        return list({lease.id: lease for lease in picked}.values())


def test_any_sequence_of_commands_keeps_jobs_and_queue_in_step(database_url: str) -> None:
    with asyncio.Runner() as runner:
        conn = runner.run(asyncpg.connect(asyncpg_dsn(database_url)))

        class Commands(_Commands):
            pass

        Commands.runner, Commands.conn = runner, conn
        run_state_machine_as_test(
            Commands,
            settings=settings(
                max_examples=80,
                stateful_step_count=50,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
            ),
        )
        runner.run(conn.close())

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
from millrace_database.job_lifecycle import CreatedJob, JobFailure, JobSnooze, NewJob, ProgressReport
from millrace_database.job_options import JobOptions
from millrace_database.job_types_repository import DEFAULT_MAX_ATTEMPTS
from millrace_queue import Lease, heartbeat, promote
from support.job_model import DEAD, LEASE_HOURS, Model, ModelJob
from support.queue_samples import PLENTY, disagreements, lose_heartbeat, new_worker, sample_job, turn_clock

_T = TypeVar("_T")

_ORGANISATIONS = st.sampled_from(["acme", "umbrella"])
_SOME = st.integers(0, 30)
_PLACES = st.sampled_from([4, 3, 2, 1, 0])
_LIMITS = st.sampled_from([4, 2, 1])
_FEW = st.lists(_SOME, min_size=1, max_size=4)
# What the queue says, and what the tests change to turn the clock.
_NOT_OF_THE_ROW = ("entry", "fence", "held_by", "leases_lost", "options")
_COUNTED = ("failed", "timed_out", "worker_lost", "lease_lost", "cancelled")


@dataclass(frozen=True)
class _Order:
    org_id: str
    type: str
    priority: int
    max_attempts: int
    due: bool
    deadline: int | None
    dead_letter: bool
    request_id: str | None


_ORDERS = st.builds(
    _Order,
    org_id=_ORGANISATIONS,
    type=st.sampled_from(["a", "b"]),
    priority=st.integers(-1, 1),
    max_attempts=st.sampled_from([5, 3, 2, 1]),
    due=st.sampled_from([True, True, False]),
    deadline=st.sampled_from([None, None, 2, 4]),
    dead_letter=st.booleans(),
    request_id=st.sampled_from([None, None, None, "r1", "r2", "r3"]),
)


async def _ranks(conn: asyncpg.Connection) -> dict[UUID, int]:
    rows = await conn.fetch("SELECT id, rank FROM queue WHERE state = 'ready'")
    return {row["id"]: row["rank"] for row in rows}


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
        self.run(lambda conn: conn.execute("TRUNCATE jobs, job_attempts, queue, queue_workers"))
        self.register()
        self.register()

    def register(self) -> None:
        worker_id = self.run(new_worker)
        self.workers.append(worker_id)
        self.model.workers[worker_id] = self.model.now

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
                options=JobOptions(
                    deadline=None if order.deadline is None else now + timedelta(hours=order.deadline),
                    dead_letter_type=DEAD if order.dead_letter else None,
                ),
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
        deadline = None if order.deadline is None else self.model.now + order.deadline
        self.model.jobs[job.job_id] = ModelJob(
            job.job_id,
            order.org_id,
            order.type,
            order.priority,
            order.max_attempts,
            due_at=self.model.now if order.due else self.model.now + 1,
            entry="ready" if order.due else "scheduled",
            deadline=deadline,
            expires_at=deadline,
            dead_letter=order.dead_letter,
        )
        return CreatedJob(job.job_id)

    @rule(worker=_SOME, a=_PLACES, b=_PLACES, dead=_PLACES, limit=_PLACES)
    def claim(self, worker: int, a: int, b: int, dead: int, limit: int) -> None:
        self.claim_for(self.worker(worker), {"a": a, "b": b, DEAD: dead}, limit)

    def claim_for(self, worker_id: UUID, capacity: dict[str, int], limit: int) -> None:
        ranks = self.run(_ranks)
        claimed = self.run(lambda conn: job_lifecycle.claim_jobs(conn, worker_id, capacity, limit))
        assert [job.claim.id for job in claimed] == self.model.claimable(worker_id, capacity, limit, ranks)
        for job in claimed:
            self.model.jobs[job.claim.id].start(worker_id, job.claim.fence)
            assert job.claim.attempt == self.model.jobs[job.claim.id].attempt
            assert all(job.claim.fence > lease.fence for lease in self.leases)
        self.leases += [job.lease for job in claimed]

    @precondition(lambda self: self.leases)
    @rule(
        which=_FEW,
        how=st.sampled_from(["complete", "complete plain", "stop", "report", "stand still", "say lost"]),
    )
    def end(self, which: list[int], how: str) -> None:
        leases = self.some_leases(which)
        match how:
            case "complete":
                self.complete(leases)
            case "complete plain":
                # No limits apply to any of them.
                accepted = self.run(
                    lambda conn: job_lifecycle.complete_plain_jobs(conn, [(lease, "{}") for lease in leases])
                )
                assert accepted == self.model.complete(leases)
            case "stop":
                accepted = self.run(lambda conn: job_lifecycle.cancelled_jobs(conn, leases))
                assert accepted == self.model.stopped(leases)
            case "report":
                self.report(leases)
            case "stand still":
                settled = self.run(lambda conn: job_lifecycle.lapse_jobs(conn, leases))
                assert settled == {lease.id: self.model.lapse(lease) for lease in leases}
            case _:
                left = self.run(lambda conn: job_lifecycle.record_lost_leases(conn, leases))
                assert left == self.model.report_lost(leases)

    def complete(self, leases: list[Lease]) -> None:
        results = [(lease, "{}") for lease in leases]
        accepted = self.run(lambda conn: job_lifecycle.complete_jobs(conn, results))
        assert accepted == self.model.complete(leases)

    def report(self, leases: list[Lease]) -> None:
        reports = [ProgressReport(lease, message="half way") for lease in leases]
        accepted = self.run(lambda conn: job_lifecycle.report_progress(conn, reports))
        assert accepted == {lease.id for lease in leases if self.model.holder(lease)}

    @precondition(lambda self: self.leases)
    @rule(
        which=_FEW,
        delay=st.sampled_from([0, 0, 1, 3, None]),
        timed_out=st.booleans(),
        counts=st.sampled_from([True, True, False]),
    )
    def fail(self, which: list[int], delay: int | None, timed_out: bool, counts: bool) -> None:
        leases = self.some_leases(which)
        retry_delay = None if delay is None else timedelta(hours=delay)
        failures = [
            JobFailure(lease, retry_delay, "BROKEN", "It broke.", True, timed_out, counts) for lease in leases
        ]
        settled = self.run(lambda conn: job_lifecycle.fail_jobs(conn, failures))
        assert settled == {
            lease.id: self.model.fail(lease, "BROKEN", delay, timed_out=timed_out, counts=counts)
            for lease in leases
        }

    @precondition(lambda self: self.leases)
    @rule(which=_FEW, how=st.sampled_from(["hand back", "not started", "snooze", "snooze long"]))
    def give_back(self, which: list[int], how: str) -> None:
        leases = self.some_leases(which)
        if how.startswith("snooze"):
            hours = 1 if how == "snooze long" else 0
            snoozes = [JobSnooze(lease, timedelta(hours=hours), "Later.") for lease in leases]
            outcomes = self.run(lambda conn: job_lifecycle.snooze_jobs(conn, snoozes))
            assert outcomes == {lease.id: self.model.give_back(lease, "snoozed", hours) for lease in leases}
            return
        unstarted = {lease.id for lease in leases} if how == "not started" else set()
        outcomes = self.run(lambda conn: job_lifecycle.hand_back_jobs(conn, leases, unstarted=unstarted))
        recorded = None if unstarted else "handed_back"
        assert outcomes == {lease.id: self.model.give_back(lease, recorded) for lease in leases}

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
        event=st.sampled_from(["rescue", "crash", "beat", "rescue", "register", "expire", "promote"]),
        worker=_SOME,
        limit=_LIMITS,
    )
    def happen(self, event: str, worker: int, limit: int) -> None:
        match event:
            case "rescue":
                self.rescue(limit)
            case "crash":
                self.crash(self.worker(worker))
            case "beat":
                self.beat(self.worker(worker))
            case "expire":
                self.expire(limit)
            case "promote":
                self.run(lambda conn: promote(conn, limit=PLENTY))
                self.model.promote()
            case _:
                self.register()

    @rule(hours=st.sampled_from([1, 2, -1]), beating=st.booleans())
    def turn_clock(self, hours: int, beating: bool) -> None:
        """So much time passes, or the clock of the database is set; workers may beat afterwards."""
        self.run(lambda conn: turn_clock(conn, timedelta(hours=hours)))
        self.model.now += hours
        if beating:
            for worker_id in self.workers:
                self.beat(worker_id)

    @rule()
    def die_of_what_it_runs(self) -> None:
        self.register()
        self.claim_for(self.workers[-1], {"a": PLENTY, "b": PLENTY, DEAD: PLENTY}, PLENTY)
        self.database_and_model_agree()
        self.crash(self.workers[-1])
        self.rescue(PLENTY)

    def crash(self, worker_id: UUID) -> None:
        self.run(lambda conn: lose_heartbeat(conn, worker_id))
        if worker_id in self.model.workers:
            self.model.workers[worker_id] = self.model.now - 1.001 * LEASE_HOURS

    def beat(self, worker_id: UUID) -> None:
        beat = self.run(lambda conn: heartbeat(conn, worker_id, draining=False))
        assert beat.known == (worker_id in self.model.workers)
        if beat.known:
            self.model.workers[worker_id] = self.model.now
            assert {held.id for held in beat.held} == self.model.held(worker_id)

    def rescue(self, limit: int) -> None:
        rescued = self.run(lambda conn: job_lifecycle.rescue_jobs(conn, limit=limit))
        self.model.remove_lost_workers()
        orphans = self.model.orphans()
        assert {entry.id for entry in rescued} <= orphans
        assert len(rescued) == min(limit, len(orphans))
        for entry in rescued:
            assert entry.outcome is self.model.rescue(entry.id)

    def expire(self, limit: int) -> None:
        expired = [entry.id for entry in self.run(lambda conn: job_lifecycle.expire_jobs(conn, limit=limit))]
        overdue = self.model.overdue()
        assert set(expired) <= overdue
        assert len(expired) == min(limit, len(overdue))
        for job_id in expired:
            self.model.expire(job_id)

    @invariant()
    def database_and_model_agree(self) -> None:
        assert self.run(disagreements) == []
        rows = self.run(
            lambda conn: conn.fetch(
                "SELECT jobs.*, queue.state AS entry, queue.fence, queue.worker_id AS held_by, leases_lost,"
                " jobs.worker_id AS ran_by FROM jobs LEFT JOIN queue ON id = job_id"
            )
        )
        self.take_dead_letters(rows)
        compared = (
            *("org_id", "type", "status", "attempt", "max_attempts", "error_code"),
            *("entry", "fence", "held_by", "ran_by", "leases_lost"),
        )
        found = {row["job_id"]: tuple(row[column] for column in compared) for row in rows}
        assert found == {
            job.job_id: tuple(getattr(job, column) for column in compared) for job in self.model.jobs.values()
        }
        self.versions_tell_every_change({row["job_id"]: row for row in rows})

    def take_dead_letters(self, rows: list[asyncpg.Record]) -> None:
        """Each job that the last command made fail for good has got one more dead letter, if it asked for one."""
        letters = [row for row in rows if row["parent_job_id"] and row["job_id"] not in self.model.jobs]
        assert sorted(row["parent_job_id"] for row in letters) == sorted(self.model.dead_letters)
        self.model.dead_letters = []
        for row in letters:
            parent = self.model.jobs[row["parent_job_id"]]
            self.model.jobs[row["job_id"]] = ModelJob(
                row["job_id"], parent.org_id, DEAD, 0, DEFAULT_MAX_ATTEMPTS, due_at=self.model.now
            )

    @invariant()
    def attempts_are_recorded(self) -> None:
        rows = self.run(lambda conn: conn.fetch("SELECT * FROM job_attempts"))
        found = {(row["job_id"], row["fence"], row["attempt"], row["outcome"]) for row in rows}
        assert found == {
            (job.job_id, attempt.fence, attempt.attempt, attempt.outcome)
            for job in self.model.jobs.values()
            for attempt in job.attempts
        }
        assert all(row["started_at"] and row["worker_id"] for row in rows)
        for job in self.model.jobs.values():
            counted = sum(attempt.outcome in _COUNTED for attempt in job.attempts)
            assert job.attempt == counted + (job.status in ("processing", "cancelling", "completed"))

    def versions_tell_every_change(self, rows: dict[UUID, asyncpg.Record]) -> None:
        for job_id, before in self.rows.items():
            now = dict(rows[job_id])
            changed = any(
                now[column] != value for column, value in before.items() if column not in _NOT_OF_THE_ROW
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

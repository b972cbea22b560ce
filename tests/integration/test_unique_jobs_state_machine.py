"""Random creations, claims and ends of jobs with few keys, on the database and on a model alike."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from millrace_database import job_lifecycle
from millrace_database.connection_url import asyncpg_dsn
from millrace_database.job_lifecycle import CreatedJob, JobFailure, Retry
from millrace_database.job_options import UniqueConflict, UniqueStates
from millrace_queue import Lease, promote
from support.queue_samples import PLENTY, disagreements, make_due, new_worker
from support.unique_jobs import existing, replaced, taken, unique_job

_T = TypeVar("_T")

_EMPTY = """
TRUNCATE jobs, queue, queue_workers, queue_lines, queue_types, queue_blocked_keys, queue_rates, queue_throttles, job_attempts
"""
_SOME = st.integers(0, 30)
_ORDERS = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["waiting", "unfinished", "each"]),
    st.sampled_from(["reject", "return_existing", "replace"]),
)


@dataclass
class _Job:
    key: str
    states: UniqueStates
    input_json: str
    status: str = "pending"
    attempt: int = 0
    max_attempts: int = 4
    slot: str | None = None
    error: str | None = None
    lease: Lease | None = None
    begun: bool = False


class _Commands(RuleBasedStateMachine):
    """Numbers pick among the jobs that there are."""

    runner: asyncio.Runner
    conn: asyncpg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[UUID, _Job] = {}
        self.made = 0

    @initialize()
    def start_empty(self) -> None:
        self.run(lambda conn: conn.execute(_EMPTY))
        self.worker_id = self.run(new_worker)

    @rule(orders=st.lists(_ORDERS, min_size=1, max_size=4))
    def create(self, orders: list[tuple[str, UniqueStates, UniqueConflict]]) -> None:
        jobs, expected = [], []
        for key, states, on_conflict in orders:
            self.made += 1
            job = unique_job(key, states=states, on_conflict=on_conflict, input_json=f'{{"n": {self.made}}}')
            jobs.append(job)
            expected.append(self.expected(job.job_id, _Job(key, states, job.input_json), on_conflict))
        assert self.run(lambda conn: job_lifecycle.create_jobs(conn, jobs)) == expected

    @rule(which=_SOME)
    def replace_one_that_waits(self, which: int) -> None:
        _, job = self.some("pending", which)
        if job is not None:
            self.create([(job.key, job.states, "replace")])

    def expected(self, job_id: UUID, job: _Job, on_conflict: UniqueConflict) -> CreatedJob:
        """What comes of a creation after those before it."""
        job.slot = "unfinished" if job.states == "unfinished" else "waiting"
        holder_id = self.holder(job.key, job.slot)
        if holder_id is None:
            self.jobs[job_id] = job
            return CreatedJob(job_id)
        holder = self.jobs[holder_id]
        if on_conflict == "return_existing":
            return existing(holder_id)
        if on_conflict == "replace" and holder.status == "pending" and not holder.begun:
            holder.input_json, holder.states, holder.max_attempts = (
                job.input_json,
                job.states,
                job.max_attempts,
            )
            return replaced(holder_id)
        return taken(holder_id)

    def holder(self, key: str, slot: str) -> UUID | None:
        holders = [id_ for id_, job in self.jobs.items() if (job.key, job.slot) == (key, slot)]
        assert len(holders) <= 1
        return holders[0] if holders else None

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        claimed = self.run(
            lambda conn: job_lifecycle.claim_jobs(conn, self.worker_id, {"reports:generate": PLENTY}, limit)
        )
        for made in claimed:
            job = self.jobs[made.claim.id]
            assert job.status == "pending"
            assert job.input_json == made.input_json
            job.status, job.lease, job.attempt = "processing", made.lease, job.attempt + 1
            assert job.attempt == made.claim.attempt
            job.error = None
            if job.states != "unfinished":
                job.slot = None
        for key in ("a", "b"):
            running = [job for job in self.of_key(key) if job.status == "processing"]
            assert len([job for job in running if job.states == "each"]) <= 1
            assert len([job for job in running if job.states == "unfinished"]) <= 1

    def of_key(self, key: str) -> list[_Job]:
        return [job for job in self.jobs.values() if job.key == key]

    @rule(
        which=_SOME,
        how=st.sampled_from(["complete", "fail", "retry", "retry", "spare", "hand back", "return"]),
    )
    def settle(self, which: int, how: str) -> None:
        job_id, job = self.some("processing", which)
        if job_id is None or job is None or job.lease is None:
            return
        lease = job.lease
        match how:
            case "complete":
                self.run(lambda conn: job_lifecycle.complete_jobs(conn, [(lease, None)]))
                job.status, job.slot = "completed", None
            case "hand back" | "return":
                unstarted = {job_id} if how == "return" else set()
                self.run(lambda conn: job_lifecycle.hand_back_jobs(conn, [lease], unstarted=unstarted))
                job.status, job.attempt = "pending", job.attempt - 1
            case _:
                delay = None if how == "fail" else timedelta(hours=1)
                counts = how != "spare"
                failure = JobFailure(lease, delay, "BROKEN", "It broke.", retryable=True, counts=counts)
                self.run(lambda conn: job_lifecycle.fail_jobs(conn, [failure]))
                may_retry = how == "spare" or (how == "retry" and job.attempt < job.max_attempts)
                self.has_failed(job, may_retry=may_retry)
                if not counts and job.status == "pending":
                    job.attempt -= 1
        job.begun = job.begun or how != "return"
        job.lease = None

    @rule(how=st.sampled_from(["retry", "spare", "hand back"]))
    def end_attempts_of_all_that_can_be_claimed(self, how: str) -> None:
        self.claim(3)
        for _ in [job for job in self.jobs.values() if job.status == "processing"]:
            self.settle(0, how)

    def has_failed(self, job: _Job, *, may_retry: bool) -> None:
        job.error = "BROKEN"
        if may_retry and job.states == "each" and self.holder(job.key, "retry"):
            job.status, job.slot, job.error = "failed", None, "UNIQUE_CONFLICT"
        elif may_retry:
            job.status = "pending"
            job.slot = "retry" if job.states == "each" else job.slot
        else:
            job.status, job.slot = "failed", None

    @rule(which=_SOME)
    def cancel(self, which: int) -> None:
        job_id, job = self.some("pending", which)
        if job_id is not None and job is not None:
            self.run(lambda conn: job_lifecycle.cancel_job(conn, "acme", job_id))
            job.status, job.slot = "cancelled", None

    @rule(which=_SOME, status=st.sampled_from(["failed", "cancelled"]))
    def retry(self, which: int, status: str) -> None:
        job_id, job = self.some(status, which)
        if job_id is None or job is None:
            return
        slot = self.slot_of_retried(job)
        holder = slot and self.holder(job.key, slot)
        retried = self.run(lambda conn: job_lifecycle.retry_job(conn, "acme", job_id, 2))
        assert (retried.outcome, retried.holder_id) == (
            Retry.KEY_TAKEN if holder else Retry.RETRIED,
            holder,
        )
        if not holder:
            job.status, job.slot, job.max_attempts = "pending", slot, job.attempt + 2

    def slot_of_retried(self, job: _Job) -> str | None:
        if job.states == "unfinished":
            return "unfinished"
        if job.attempt == 0:
            return "waiting"
        return "retry" if job.states == "each" else None

    @rule()
    def let_retries_fall_due(self) -> None:
        self.run(make_due)
        self.run(lambda conn: promote(conn, limit=PLENTY))

    def some(self, status: str, which: int) -> tuple[UUID, _Job] | tuple[None, None]:
        found = [(id_, job) for id_, job in self.jobs.items() if job.status == status]
        return found[which % len(found)] if found else (None, None)

    @invariant()
    def agrees(self) -> None:
        assert self.run(disagreements) == []
        rows = self.run(
            lambda conn: conn.fetch(
                "SELECT job_id, status, unique_slot, jobs.attempt, input::text, error_code "
                "FROM jobs LEFT JOIN queue ON id = job_id"
            )
        )
        assert {row["job_id"]: tuple(row)[1:] for row in rows} == {
            id_: (job.status, job.slot, job.attempt, job.input_json, job.error)
            for id_, job in self.jobs.items()
        }

    def run(self, work: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        async def in_transaction() -> _T:
            async with self.conn.transaction():
                return await work(self.conn)

        return self.runner.run(in_transaction())


def test_unique_keys_behave_as_the_model(database_url: str) -> None:
    with asyncio.Runner() as runner:
        _Commands.runner = runner
        _Commands.conn = runner.run(asyncpg.connect(asyncpg_dsn(database_url)))
        try:
            run_state_machine_as_test(
                _Commands,
                settings=settings(
                    max_examples=30,
                    stateful_step_count=40,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(_Commands.conn.close())

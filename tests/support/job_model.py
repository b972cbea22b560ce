"""The life of a job as a pure model: what the database must do, without saying how."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from millrace_database.job_lifecycle import Cancellation, Retry
from millrace_queue import HandBack, Lease, Rescue, Settled
from support.queue_samples import LEASE

DEAD = "dead"
"""The type of dead letters."""

LEASE_HOURS = LEASE.total_seconds() / 3600

_RESCUES = {
    Settled.RETRYING: Rescue.READY,
    Settled.FAILED: Rescue.EXHAUSTED,
    Settled.QUARANTINED: Rescue.QUARANTINED,
    Settled.CANCELLED: Rescue.CANCELLED,
}


@dataclass(frozen=True)
class ModelAttempt:
    """An attempt that ended without completing its job."""

    attempt: int
    fence: int
    outcome: str


@dataclass
class ModelJob:
    """A job. Times are hours of the model's clock; `held_by` and `fence` are set while it runs."""

    job_id: UUID
    org_id: str
    type: str
    priority: int
    max_attempts: int
    due_at: float = 0
    deadline: float | None = None
    dead_letter: bool = False
    entry: Literal["scheduled", "ready", "running"] | None = "ready"
    status: str = "pending"
    attempt: int = 0
    error_code: str | None = None
    held_by: UUID | None = None
    ran_by: UUID | None = None
    fence: int | None = None
    leases_lost: int | None = 0
    expires_at: float | None = None
    attempts: list[ModelAttempt] = field(default_factory=list)

    def start(self, worker_id: UUID, fence: int) -> None:
        self.entry, self.status, self.error_code = "running", "processing", None
        self.held_by = self.ran_by = worker_id
        self.fence = fence
        self.attempt += 1

    def wait(self, due_at: float, now: float) -> None:
        self.entry = "ready" if due_at <= now else "scheduled"
        self.status, self.due_at, self.held_by, self.fence = "pending", due_at, None, None

    def finish(self, status: str) -> None:
        self.entry = self.held_by = self.fence = self.leases_lost = None
        self.status = status

    def record(self, outcome: str) -> None:
        assert self.fence is not None
        self.attempts.append(ModelAttempt(self.attempt, self.fence, outcome))


@dataclass
class Model:
    """All jobs and workers.

    `workers` maps each registered worker to the time of its last heartbeat; `dead_letters` are the jobs for which the
    last command must have created one.
    """

    jobs: dict[UUID, ModelJob] = field(default_factory=dict)
    workers: dict[UUID, float] = field(default_factory=dict)
    now: float = 0
    dead_letters: list[UUID] = field(default_factory=list)

    def holder(self, lease: Lease) -> ModelJob | None:
        """The job of a lease that holds."""
        job = self.jobs[lease.id]
        return job if job.fence == lease.fence else None

    def held(self, worker_id: UUID) -> set[UUID]:
        return {job.job_id for job in self.jobs.values() if job.held_by == worker_id}

    def is_over(self, job: ModelJob, delay: float = 0) -> bool:
        """Whether the job's deadline will be over after so many hours."""
        return job.expires_at is not None and job.expires_at <= self.now + delay

    def claimable(
        self, worker_id: UUID, capacity: Mapping[str, int], limit: int, ranks: Mapping[UUID, int]
    ) -> list[UUID]:
        """The ids in the order in which they are claimed: types take turns within a priority."""
        if worker_id not in self.workers:
            return []

        def order(job: ModelJob) -> tuple[int, int, UUID]:
            return -job.priority, ranks[job.job_id], job.job_id

        taken: Counter[str] = Counter()
        candidates: list[tuple[int, int, ModelJob]] = []
        ready = [job for job in self.jobs.values() if job.entry == "ready" and not self.is_over(job)]
        for job in sorted(ready, key=order):
            if taken[job.type] < capacity.get(job.type, 0):
                taken[job.type] += 1
                candidates.append((-job.priority, taken[job.type], job))
        candidates.sort(key=lambda candidate: (*candidate[:2], candidate[2].job_id))
        return [job.job_id for job in sorted((job for _, _, job in candidates[:limit]), key=order)]

    def complete(self, leases: Iterable[Lease]) -> set[UUID]:
        held = [job for lease in leases if (job := self.holder(lease))]
        for job in held:
            job.finish("completed")
        return {job.job_id for job in held}

    def stopped(self, leases: Iterable[Lease]) -> set[UUID]:
        held = [job for lease in leases if (job := self.holder(lease)) and job.status == "cancelling"]
        for job in held:
            job.record("cancelled")
            job.finish("cancelled")
        return {job.job_id for job in held}

    def fail(self, lease: Lease, code: str, delay: float | None, *, timed_out: bool, counts: bool) -> Settled:
        job = self.holder(lease)
        if job is None:
            return Settled.LOST
        if job.status == "cancelling":
            return self._cancel(job, "cancelled")
        if delay is None or (counts and job.attempt >= job.max_attempts) or self.is_over(job, delay):
            job.record("timed_out" if timed_out else "failed")
            return self._fail(job, code)
        if counts:
            job.record("timed_out" if timed_out else "failed")
        else:
            job.record("snoozed")
            job.attempt -= 1
        job.error_code, job.leases_lost = code, 0
        job.wait(self.now + delay, self.now)
        return Settled.RETRYING

    def lapse(self, lease: Lease, outcome: str = "lease_lost") -> Settled:
        """The worker is lost, or says itself that it stood still."""
        job = self.holder(lease)
        if job is None:
            return Settled.LOST
        if job.status == "cancelling":
            return self._cancel(job, "cancelled" if outcome == "lease_lost" else outcome)
        job.record(outcome)
        assert job.leases_lost is not None
        if job.leases_lost == 2:
            self._fail(job, "QUARANTINED")
            return Settled.QUARANTINED
        if job.attempt >= job.max_attempts or self.is_over(job):
            return self._fail(job, "WORKER_LOST")
        job.error_code = "WORKER_LOST"
        job.leases_lost += 1
        job.wait(self.now, self.now)
        return Settled.RETRYING

    def rescue(self, job_id: UUID) -> Rescue:
        fence = self.jobs[job_id].fence
        assert fence is not None
        return _RESCUES[self.lapse(Lease(job_id, fence), "worker_lost")]

    def give_back(self, lease: Lease, outcome: str | None, delay: float = 0) -> HandBack:
        """The attempt does not count. It was snoozed or handed back, or (None) its handler had not been started."""
        job = self.holder(lease)
        if job is None:
            return HandBack.LOST
        if job.status == "cancelling":
            self._cancel(job, "cancelled")
            return HandBack.CANCELLED
        if outcome is not None:
            job.record(outcome)
            job.leases_lost = 0
        job.attempt -= 1
        job.wait(self.now + delay, self.now)
        return HandBack.READY

    def report_lost(self, leases: Iterable[Lease]) -> set[Lease]:
        """A worker lives and says that it has lost these; returned is what nobody has taken from it yet."""
        for lease in leases:
            job = self.jobs[lease.id]
            job.attempts = [
                ModelAttempt(attempt.attempt, attempt.fence, "lease_lost")
                if (attempt.fence, attempt.outcome) == (lease.fence, "worker_lost")
                else attempt
                for attempt in job.attempts
            ]
        return {lease for lease in leases if self.holder(lease)}

    def overdue(self) -> set[UUID]:
        """Waiting jobs whose deadline is over."""
        return {
            job.job_id
            for job in self.jobs.values()
            if job.entry in ("scheduled", "ready") and self.is_over(job)
        }

    def expire(self, job_id: UUID) -> None:
        self._fail(self.jobs[job_id], "DEADLINE_EXCEEDED")

    def promote(self) -> None:
        for job in self.jobs.values():
            if job.entry == "scheduled" and job.due_at <= self.now:
                job.entry = "ready"

    def remove_lost_workers(self) -> None:
        """Whoever was heard of in the future, because the clock was set back, is taken for heard of now."""
        self.workers = {
            worker_id: self.now if beat > self.now + LEASE_HOURS else beat
            for worker_id, beat in self.workers.items()
            if beat >= self.now - LEASE_HOURS
        }

    def orphans(self) -> set[UUID]:
        """Running jobs whose worker is not registered."""
        return {
            job.job_id
            for job in self.jobs.values()
            if job.held_by is not None and job.held_by not in self.workers
        }

    def cancel(self, org_id: str, job_id: UUID) -> Cancellation:
        job = self.jobs[job_id]
        if job.org_id != org_id:
            return Cancellation.NOT_FOUND
        if job.status in ("completed", "failed"):
            return Cancellation.FINISHED
        if job.held_by is not None:
            job.status = "cancelling"
            return Cancellation.CANCELLING
        job.finish("cancelled")
        return Cancellation.CANCELLED

    def retry(self, org_id: str, job_id: UUID, further_attempts: int) -> Retry:
        job = self.jobs[job_id]
        if job.org_id != org_id:
            return Retry.NOT_FOUND
        if job.status == "pending" and job.error_code and job.entry == "scheduled" and job.due_at > self.now:
            job.due_at = self.now
            return Retry.RETRIED
        if job.status not in ("failed", "cancelled"):
            return Retry.WRONG_STATUS
        job.max_attempts = job.attempt + further_attempts
        job.leases_lost = 0
        # A deadline that is over does not hold any more.
        job.expires_at = job.deadline if job.deadline is not None and job.deadline > self.now else None
        job.wait(self.now, self.now)
        return Retry.RETRIED

    def _cancel(self, job: ModelJob, outcome: str) -> Settled:
        job.record(outcome)
        job.finish("cancelled")
        return Settled.CANCELLED

    def _fail(self, job: ModelJob, code: str) -> Settled:
        job.error_code = code
        job.finish("failed")
        if job.dead_letter:
            self.dead_letters.append(job.job_id)
        return Settled.FAILED

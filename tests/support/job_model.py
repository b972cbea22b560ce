"""The life of a job as a pure model: what the database must do, without saying how."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from millrace_database.job_lifecycle import Cancellation, Retry
from millrace_queue import HandBack, Lease, Rescue, Settled


@dataclass
class ModelJob:
    """A job. `held_by` and `fence` are set while it runs, `due` tells whether a waiting one may run."""

    job_id: UUID
    org_id: str
    type: str
    priority: int
    max_attempts: int
    due: bool
    status: str = "pending"
    attempt: int = 0
    error_code: str | None = None
    held_by: UUID | None = None
    fence: int | None = None

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @property
    def entry(self) -> str | None:
        """The state of its queue entry."""
        if self.finished:
            return None
        if self.status == "pending":
            return "ready" if self.due else "scheduled"
        return "running"

    def _wait(self, *, due: bool) -> None:
        self.status, self.due, self.held_by, self.fence = "pending", due, None, None

    def _finish(self, status: str) -> None:
        self.status, self.held_by, self.fence = status, None, None


@dataclass
class Model:
    """All jobs and workers; `workers` maps each registered worker to whether its heartbeat is recent."""

    jobs: dict[UUID, ModelJob] = field(default_factory=dict)
    workers: dict[UUID, bool] = field(default_factory=dict)

    def holder(self, lease: Lease) -> ModelJob | None:
        """The job of a lease that holds."""
        job = self.jobs[lease.id]
        return job if job.fence == lease.fence else None

    def held(self, worker_id: UUID) -> set[UUID]:
        return {job.job_id for job in self.jobs.values() if job.held_by == worker_id}

    def claimable(self, worker_id: UUID, capacity: Mapping[str, int], limit: int) -> list[UUID]:
        if worker_id not in self.workers:
            return []
        taken: Counter[str] = Counter()
        ids: list[UUID] = []
        for job in sorted(self.jobs.values(), key=lambda job: (-job.priority, job.job_id)):
            if job.entry == "ready" and taken[job.type] < capacity.get(job.type, 0) and len(ids) < limit:
                taken[job.type] += 1
                ids.append(job.job_id)
        return ids

    def start(self, job_id: UUID, worker_id: UUID, fence: int) -> None:
        job = self.jobs[job_id]
        job.status, job.held_by, job.fence, job.error_code = "processing", worker_id, fence, None
        job.attempt += 1

    def complete(self, leases: Iterable[Lease]) -> set[UUID]:
        held = [job for lease in leases if (job := self.holder(lease))]
        for job in held:
            job._finish("completed")
        return {job.job_id for job in held}

    def stopped(self, leases: Iterable[Lease]) -> set[UUID]:
        held = [job for lease in leases if (job := self.holder(lease)) and job.status == "cancelling"]
        for job in held:
            job._finish("cancelled")
        return {job.job_id for job in held}

    def fail(self, lease: Lease, code: str, *, retry: bool, at_once: bool) -> Settled:
        job = self.holder(lease)
        if job is None:
            return Settled.LOST
        if job.status == "cancelling":
            job._finish("cancelled")
            return Settled.CANCELLED
        job.error_code = code
        if not retry or job.attempt >= job.max_attempts:
            job._finish("failed")
            return Settled.FAILED
        job._wait(due=at_once)
        return Settled.RETRYING

    def hand_back(self, lease: Lease) -> HandBack:
        job = self.holder(lease)
        if job is None:
            return HandBack.LOST
        if job.status == "cancelling":
            job._finish("cancelled")
            return HandBack.CANCELLED
        job._wait(due=True)
        job.attempt -= 1
        return HandBack.READY

    def remove_lost_workers(self) -> None:
        self.workers = {worker_id: alive for worker_id, alive in self.workers.items() if alive}

    def orphans(self) -> set[UUID]:
        """Running jobs whose worker is not registered."""
        return {
            job.job_id
            for job in self.jobs.values()
            if job.held_by is not None and job.held_by not in self.workers
        }

    def rescue(self, job_id: UUID) -> Rescue:
        job = self.jobs[job_id]
        if job.status == "cancelling":
            job._finish("cancelled")
            return Rescue.CANCELLED
        job.error_code = "WORKER_LOST"
        if job.attempt >= job.max_attempts:
            job._finish("failed")
            return Rescue.EXHAUSTED
        job._wait(due=True)
        return Rescue.READY

    def cancel(self, org_id: str, job_id: UUID) -> Cancellation:
        job = self.jobs[job_id]
        if job.org_id != org_id:
            return Cancellation.NOT_FOUND
        if job.status in ("completed", "failed"):
            return Cancellation.FINISHED
        if job.held_by is not None:
            job.status = "cancelling"
            return Cancellation.CANCELLING
        job._finish("cancelled")
        return Cancellation.CANCELLED

    def retry(self, org_id: str, job_id: UUID, further_attempts: int) -> Retry:
        job = self.jobs[job_id]
        if job.org_id != org_id:
            return Retry.NOT_FOUND
        if job.status not in ("failed", "cancelled"):
            return Retry.WRONG_STATUS
        job._wait(due=True)
        job.max_attempts = job.attempt + further_attempts
        return Retry.RETRIED

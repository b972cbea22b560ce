"""A job."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from millrace.jobs.v1 import job_pb2
from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.contract_enum import ContractEnum
from millrace_client.errors import MillraceError
from millrace_client.job_attempt import AttemptCounts, read_attempt_counts
from millrace_client.job_error import JobError, read_error
from millrace_client.job_options import (
    Concurrency,
    RetryPolicy,
    Unique,
    read_concurrency,
    read_retry_policy,
    read_unique,
)
from millrace_client.values import from_struct, from_timestamp, length_or_none, time_or_none
from millrace_client.waiting_reason import WaitingReason, read_waiting_reason


class JobStatus(StrEnum):
    """Where a job is in its life."""

    PENDING = "PENDING"
    """Waiting: for its time, for a free worker, or for its next attempt."""
    PROCESSING = "PROCESSING"
    """A worker runs its handler."""
    CANCELLING = "CANCELLING"
    """Its cancellation was asked for and its handler has not stopped yet."""
    COMPLETED = "COMPLETED"
    """Its handler returned; `output` holds what it returned."""
    FAILED = "FAILED"
    """It failed for good; `error` says why."""
    CANCELLED = "CANCELLED"
    """It was cancelled before it finished."""
    UNKNOWN = "UNKNOWN"
    """A status that this version of the SDK does not know."""

    @property
    def finished(self) -> bool:
        """Whether the job stays as it is, unless it is retried."""
        return self in _FINISHED


_FINISHED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
_STATUSES = ContractEnum(JobStatus, job_pb2.JobStatus.items(), "JOB_STATUS_")


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when the service answered. Times are in UTC; None means not set."""

    job_id: str
    org_id: str
    type: str
    status: JobStatus
    progress: int
    """Percent done, 0 to 100."""
    message: str
    """What the handler last said of its progress."""
    total_items: int
    """How many items the handler means to process; 0 while it has not said."""
    processed_items: int
    input: dict[str, Any]
    output: dict[str, Any] | None
    """What the handler returned; None until the job is completed."""
    metadata: dict[str, Any]
    error: JobError | None
    created_by: str
    created_at: datetime
    run_at: datetime | None
    """The earliest time of the next attempt."""
    started_at: datetime | None
    """When the latest attempt started."""
    completed_at: datetime | None
    """When the job was completed, failed or was cancelled."""
    estimated_completion: datetime | None
    attempt: int
    """The number of the latest attempt, from 1; 0 before the first."""
    max_attempts: int
    priority: int
    """Higher is served first, -100 to 100."""
    schedule_id: str
    """The schedule that made the job; empty for others."""
    deadline: datetime | None = None
    """Not started after this time: it fails with DEADLINE_EXCEEDED then."""
    timeout: timedelta | None = None
    """How long one attempt may run; None: as long as the type says."""
    retry_policy: RetryPolicy | None = None
    """How long it waits between its attempts; None: as the type says."""
    unique: Unique | None = None
    concurrency: Concurrency | None = None
    dead_letter_type: str = ""
    """When it fails for good a job of this type is made of it; empty: as the type says."""
    parent_job_id: str = ""
    """The job that it was made for: the one whose dead letter it is."""
    worker_id: str = ""
    """The worker that ran its latest attempt."""
    attempt_counts: AttemptCounts | None = field(default=None, compare=False)
    """How its attempts ended that did not complete it; only `get` tells."""
    waiting_reason: WaitingReason | None = field(default=None, compare=False)
    """Why it does not run, while it is pending; only `get` tells."""
    already_existed: bool | None = field(default=None, compare=False)
    """It existed before it was to be created, for its request id or its unique key; only `create` tells."""
    replaced: bool | None = field(default=None, compare=False)
    """It existed, and has been given what was asked for; only `create` tells."""

    def raise_for_status(self) -> Self:
        """Return the job itself, unless it failed (JobFailedError) or was cancelled (JobCancelledError)."""
        if self.status is JobStatus.FAILED:
            raise JobFailedError(self)
        if self.status is JobStatus.CANCELLED:
            raise JobCancelledError(self)
        return self


class JobFailedError(MillraceError):
    """A job failed for good; `job.error` says why."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(job)

    def __str__(self) -> str:
        """Give the job's id and its error."""
        error = self.job.error
        return f"{self.job.job_id} failed" + (f": {error.code}: {error.message}" if error else "")


class JobCancelledError(MillraceError):
    """A job was cancelled before it finished."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(job)

    def __str__(self) -> str:
        """Give the job's id."""
        return f"{self.job.job_id} was cancelled"


def read_job(
    message: job_pb2.Job, *, already_existed: bool | None = None, replaced: bool | None = None
) -> Job:
    """Turn the contract's message into a Job; the rest is what only the answer to its creation says."""
    return Job(
        job_id=message.job_id,
        org_id=message.org_id,
        type=message.type,
        status=_STATUSES.read(message.status),
        progress=message.progress,
        message=message.message,
        total_items=message.total_items,
        processed_items=message.processed_items,
        input=from_struct(message.input),
        output=from_struct(message.output) if message.HasField("output") else None,
        metadata=from_struct(message.metadata),
        error=read_error(message.error) if message.HasField("error") else None,
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        run_at=time_or_none(message, "run_at"),
        started_at=time_or_none(message, "started_at"),
        completed_at=time_or_none(message, "completed_at"),
        estimated_completion=time_or_none(message, "estimated_completion"),
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        priority=message.priority,
        schedule_id=message.schedule_id,
        deadline=time_or_none(message, "deadline"),
        timeout=length_or_none(message, "timeout"),
        retry_policy=(read_retry_policy(message.retry_policy) if message.HasField("retry_policy") else None),
        unique=read_unique(message.unique) if message.HasField("unique") else None,
        concurrency=read_concurrency(message.concurrency) if message.HasField("concurrency") else None,
        dead_letter_type=message.dead_letter_type,
        parent_job_id=message.parent_job_id,
        worker_id=message.worker_id,
        already_existed=already_existed,
        replaced=replaced,
    )


def read_details(response: messages.GetJobResponse) -> Job:
    """Turn the answer about one job into a Job that says what only such an answer does."""
    counts = response.attempt_counts if response.HasField("attempt_counts") else None
    reason = response.waiting_reason if response.HasField("waiting_reason") else None
    return replace(
        read_job(response.job),
        attempt_counts=read_attempt_counts(counts) if counts is not None else None,
        waiting_reason=read_waiting_reason(reason) if reason is not None else None,
    )


def read_status(value: int) -> JobStatus | None:
    """Turn the contract's value into a JobStatus; None for the unspecified one."""
    return _STATUSES.read_optional(value)


def status_value(status: JobStatus | str) -> job_pb2.JobStatus.ValueType:
    """Return the contract's value; ValueError when there is no such status."""
    value: job_pb2.JobStatus.ValueType = _STATUSES.value(status)
    return value

"""A job, the types of job there are, and what is asked when one is created."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from millrace.jobs.v1 import job_pb2
from millrace_client.errors import CallError, MillraceError
from millrace_client.values import JsonObject, from_struct, from_timestamp, time_or_none


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
_STATUSES = {
    job_pb2.JOB_STATUS_PENDING: JobStatus.PENDING,
    job_pb2.JOB_STATUS_PROCESSING: JobStatus.PROCESSING,
    job_pb2.JOB_STATUS_CANCELLING: JobStatus.CANCELLING,
    job_pb2.JOB_STATUS_COMPLETED: JobStatus.COMPLETED,
    job_pb2.JOB_STATUS_FAILED: JobStatus.FAILED,
    job_pb2.JOB_STATUS_CANCELLED: JobStatus.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class JobError:
    """Why the latest attempt of a job ended without a result."""

    code: str
    """A stable word for programs, such as "HANDLER_ERROR" or one of the handler's own."""
    message: str
    retryable: bool
    """Whether the same job could succeed if it were tried again."""


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


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is asked when a job is created."""

    type: str
    """The job type, such as "reports:generate"."""
    input: JsonObject = field(default_factory=dict)
    """What the handler gets: a mapping, a dataclass or a pydantic model. At most 1 MiB as JSON."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Labels of your own, at most 16 KiB as JSON."""
    request_id: str | None = None
    """Any text unique to this request within the organisation: a repeated request returns the first
    one's job. None or empty: a fresh one, so that a call can be tried again by itself without doubling the job."""
    run_at: datetime | None = None
    """Not started before this time (with a time zone)."""
    priority: int = 0
    """Higher is served first, -100 to 100."""
    max_attempts: int = 0
    """Attempts before the job fails for good, 1 to 100; 0: the type's own number."""
    created_by: str = ""
    """Who asks for the job; only a service may name another than itself."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one job of a batch."""

    job_id: str
    """The job that was created, or that exists for this request id; empty when there is an error."""
    already_existed: bool
    error: CallError | None
    """Why this job was refused."""


@dataclass(frozen=True, slots=True)
class JobType:
    """A kind of job that some worker has published."""

    type: str
    label: str
    description: str
    input_schema: dict[str, Any]
    """JSON Schema of the input."""
    max_attempts: int
    timeout: timedelta
    """How long one attempt may run."""
    concurrency: int
    """How many jobs of this type one worker runs at once."""
    active_workers: int
    """How many live workers run this type now."""


def read_job(message: job_pb2.Job) -> Job:
    """Turn the contract's message into a Job."""
    return Job(
        job_id=message.job_id,
        org_id=message.org_id,
        type=message.type,
        status=_STATUSES.get(message.status, JobStatus.UNKNOWN),
        progress=message.progress,
        message=message.message,
        total_items=message.total_items,
        processed_items=message.processed_items,
        input=from_struct(message.input),
        output=from_struct(message.output) if message.HasField("output") else None,
        metadata=from_struct(message.metadata),
        error=_read_error(message.error) if message.HasField("error") else None,
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
    )


def read_job_type(message: job_pb2.JobType) -> JobType:
    """Turn the contract's message into a JobType."""
    return JobType(
        type=message.type,
        label=message.label,
        description=message.description,
        input_schema=from_struct(message.input_schema),
        max_attempts=message.max_attempts,
        timeout=message.timeout.ToTimedelta(),
        concurrency=message.concurrency,
        active_workers=message.active_workers,
    )


def status_value(status: JobStatus | str) -> job_pb2.JobStatus.ValueType:
    """Return the contract's value; ValueError when there is no such status."""
    wanted = JobStatus(status)
    for value, known in _STATUSES.items():
        if known is wanted:
            return value
    raise ValueError(f"{wanted} cannot be asked for")


def _read_error(message: job_pb2.JobError) -> JobError:
    return JobError(code=message.code, message=message.message, retryable=message.retryable)

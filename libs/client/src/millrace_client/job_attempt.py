"""What became of the attempts of a job."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from millrace.jobs.v1 import job_attempt_pb2
from millrace_client.contract_enum import ContractEnum
from millrace_client.job_error import JobError, read_error
from millrace_client.values import from_timestamp, time_or_none


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    RUNNING = "RUNNING"
    """It has not ended."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    """Its handler failed."""
    TIMED_OUT = "TIMED_OUT"
    """It ran longer than it may."""
    WORKER_LOST = "WORKER_LOST"
    """Its worker died."""
    LEASE_LOST = "LEASE_LOST"
    """Its worker lives, but was not heard of for so long that the job was given to another one."""
    HANDED_BACK = "HANDED_BACK"
    """Its worker stopped and gave the job back; the attempt does not count."""
    SNOOZED = "SNOOZED"
    """Its handler asked to be called again later, or the object store was away; the attempt does not count."""
    CANCELLED = "CANCELLED"
    """It was stopped because the job was cancelled."""
    UNKNOWN = "UNKNOWN"
    """An outcome that this version of the SDK does not know."""


_OUTCOMES = ContractEnum(AttemptOutcome, job_attempt_pb2.AttemptOutcome.items(), "ATTEMPT_OUTCOME_")


@dataclass(frozen=True, slots=True)
class JobAttempt:
    """One attempt to run a job."""

    attempt: int
    """From 1. One that did not count has the same number as the one that followed it."""
    outcome: AttemptOutcome
    started_at: datetime
    ended_at: datetime | None
    """None while it runs."""
    worker_id: str
    worker_name: str
    """The host and process of its worker; empty when it is not known any more."""
    error: JobError | None
    """Why it did not complete."""


@dataclass(frozen=True, slots=True)
class AttemptCounts:
    """How many attempts of a job ended in which way; `completed` is 1 once the job is COMPLETED."""

    failed: int
    timed_out: int
    worker_lost: int
    lease_lost: int
    handed_back: int
    snoozed: int
    completed: int = 0
    cancelled: int = 0


def read_attempt(message: job_attempt_pb2.JobAttempt) -> JobAttempt:
    """Turn the contract's message into a JobAttempt."""
    return JobAttempt(
        attempt=message.attempt,
        outcome=_OUTCOMES.read(message.outcome),
        started_at=from_timestamp(message.started_at),
        ended_at=time_or_none(message, "ended_at"),
        worker_id=message.worker_id,
        worker_name=message.worker_name,
        error=read_error(message.error) if message.HasField("error") else None,
    )


def read_attempt_counts(message: job_attempt_pb2.AttemptCounts) -> AttemptCounts:
    """Turn the contract's message into an AttemptCounts."""
    return AttemptCounts(
        failed=message.failed,
        timed_out=message.timed_out,
        worker_lost=message.worker_lost,
        lease_lost=message.lease_lost,
        handed_back=message.handed_back,
        snoozed=message.snoozed,
        completed=message.completed,
        cancelled=message.cancelled,
    )

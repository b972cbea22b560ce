"""What became of the times of a schedule."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from millrace.scheduler.v1 import schedule_run_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.contract_enum import ContractEnum
from millrace_client.job import JobStatus, read_status
from millrace_client.job_error import JobError, read_error
from millrace_client.values import from_timestamp


class RunCause(StrEnum):
    """Why there is a run."""

    SCHEDULE = "SCHEDULE"
    """Its time came."""
    REQUEST = "REQUEST"
    """Somebody asked for it, with `run`."""
    BACKFILL = "BACKFILL"
    """Somebody asked for past times, with `backfill`."""
    UNKNOWN = "UNKNOWN"
    """A cause that this version of the SDK does not know."""


class RunOutcome(StrEnum):
    """What became of a time."""

    FIRED = "FIRED"
    """A job was created."""
    SKIPPED = "SKIPPED"
    """None was, because of the overlap policy."""
    MISSED = "MISSED"
    """None was, because no scheduler ran at the time and the catch-up policy does not make up for it. Of many missed
    times in a row only the last ten are recorded."""
    FAILED = "FAILED"
    """No job could be created; `reason` says why. It may be tried again."""
    UNKNOWN = "UNKNOWN"
    """An outcome that this version of the SDK does not know."""


_CAUSES = ContractEnum(RunCause, schedule_run_pb2.RunCause.items(), "RUN_CAUSE_")
_OUTCOMES = ContractEnum(RunOutcome, schedule_run_pb2.RunOutcome.items(), "RUN_OUTCOME_")


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """What became of one time of a schedule. Times are in UTC."""

    scheduled_time: datetime
    """The time that the schedule names; of a request, when it was made."""
    cause: RunCause
    outcome: RunOutcome
    recorded_at: datetime
    job_id: str
    """Empty when there is no job."""
    job_status: JobStatus | None
    """None when there is no job, or when it is not kept any more."""
    job_error: JobError | None
    """Why the job failed."""
    reason: str
    """Why there is no job."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """What `backfill` did."""

    runs: tuple[ScheduleRun, ...]
    """The times of the range, each with its job, in their order."""
    created_count: int
    """How many of the jobs were created by this call."""


def read_run(message: schedule_run_pb2.ScheduleRun) -> ScheduleRun:
    """Turn the contract's message into a ScheduleRun."""
    return ScheduleRun(
        scheduled_time=from_timestamp(message.scheduled_time),
        cause=_CAUSES.read(message.cause),
        outcome=_OUTCOMES.read(message.outcome),
        recorded_at=from_timestamp(message.recorded_at),
        job_id=message.job_id,
        job_status=read_status(message.job_status),
        job_error=read_error(message.job_error) if message.HasField("job_error") else None,
        reason=message.reason,
    )


def read_backfill(message: messages.BackfillScheduleResponse) -> Backfill:
    """Turn the contract's answer into a Backfill."""
    return Backfill(tuple(map(read_run, message.runs)), message.created_count)

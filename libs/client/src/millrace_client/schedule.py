"""A schedule: which job to create, and when."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millrace.scheduler.v1 import schedule_pb2
from millrace_client.recurrence import Recurrence, read_recurrence
from millrace_client.values import from_struct, from_timestamp, time_or_none


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of an organisation. Times are in UTC; None means not set."""

    schedule_id: str
    org_id: str
    name: str
    type: str
    """The type of the jobs it creates."""
    input: dict[str, Any]
    metadata: dict[str, Any]
    recurrence: Recurrence | None
    """When it fires; None for a frequency that this version of the SDK does not know."""
    time_zone: str
    """The IANA time zone of its local times."""
    start_at: datetime | None
    end_at: datetime | None
    paused: bool
    pause_reason: str
    next_run_at: datetime | None
    """When it fires next; None while paused and once it has fired for the last time."""
    last_run_at: datetime | None
    """The scheduled time of its latest firing."""
    last_job_id: str
    consecutive_failures: int
    """How many times in a row a job could not be created; at five the schedule pauses itself."""
    created_by: str
    created_at: datetime
    updated_at: datetime


def read_schedule(message: schedule_pb2.Schedule) -> Schedule:
    """Turn the contract's message into a Schedule."""
    return Schedule(
        schedule_id=message.schedule_id,
        org_id=message.org_id,
        name=message.name,
        type=message.type,
        input=from_struct(message.input),
        metadata=from_struct(message.metadata),
        recurrence=read_recurrence(message.recurrence),
        time_zone=message.time_zone,
        start_at=time_or_none(message, "start_at"),
        end_at=time_or_none(message, "end_at"),
        paused=message.paused,
        pause_reason=message.pause_reason,
        next_run_at=time_or_none(message, "next_run_at"),
        last_run_at=time_or_none(message, "last_run_at"),
        last_job_id=message.last_job_id,
        consecutive_failures=message.consecutive_failures,
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        updated_at=from_timestamp(message.updated_at),
    )

"""A schedule that is defined in code."""

from dataclasses import dataclass
from datetime import datetime

from millrace.scheduler.v1 import system_schedule_pb2
from millrace_client.values import time_or_none


@dataclass(frozen=True, slots=True)
class SystemSchedule:
    """A schedule that a handler's code declares; its runs are no jobs of any organisation. Times are in UTC."""

    type: str
    """The type of the work, such as "storage:cleanup"."""
    cron: str
    time_zone: str
    description: str
    next_run_at: datetime | None
    """When it is due next; None while no live worker knows it."""
    last_run_at: datetime | None
    """The time it last ran for."""
    last_run_id: str
    """As in the logs: system_…"""
    last_outcome: str
    """How its last run ended: "running", "completed" or "failed"; empty when it has never run."""
    last_error: str
    last_ended_at: datetime | None


def read_system_schedule(message: system_schedule_pb2.SystemSchedule) -> SystemSchedule:
    """Turn the contract's message into a SystemSchedule."""
    return SystemSchedule(
        type=message.type,
        cron=message.cron,
        time_zone=message.time_zone,
        description=message.description,
        next_run_at=time_or_none(message, "next_run_at"),
        last_run_at=time_or_none(message, "last_run_at"),
        last_run_id=message.last_run_id,
        last_outcome=message.last_outcome,
        last_error=message.last_error,
        last_ended_at=time_or_none(message, "last_ended_at"),
    )

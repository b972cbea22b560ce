"""When a schedule fires that need not exist."""

from dataclasses import dataclass
from datetime import datetime

from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.recurrence import Recurrence, to_recurrence
from millrace_client.values import to_timestamp


@dataclass(frozen=True, slots=True)
class ScheduleTiming:
    """When a schedule fires that need not exist."""

    recurrence: Recurrence
    time_zone: str = ""
    """The IANA time zone of its local times; empty: UTC."""
    start_at: datetime | None = None
    """Does not fire before this time (with a time zone)."""
    end_at: datetime | None = None
    """Does not fire after this time (with a time zone)."""


def to_timing(timing: ScheduleTiming) -> messages.ScheduleTiming:
    """Turn a timing into the contract's message; ValueError for a time without a zone."""
    return messages.ScheduleTiming(
        recurrence=to_recurrence(timing.recurrence),
        time_zone=timing.time_zone,
        start_at=to_timestamp(timing.start_at),
        end_at=to_timestamp(timing.end_at),
    )

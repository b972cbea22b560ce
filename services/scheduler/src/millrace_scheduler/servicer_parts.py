"""What the calls of SchedulerService are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import grpc

from millrace_database import schedules_repository
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.errors import FailedPrecondition, NotFound
from millrace_scheduler.fire_times import Timing
from millrace_scheduler.jobs_client import JobsClient
from millrace_scheduler.schedule_fields import FieldRules
from millrace_scheduler.stored_schedules import timing_of

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class ServicerParts:
    """What the calls share: where schedules are, who creates their jobs, and what to call when one has got a next time."""

    database: Database
    jobs: JobsClient
    rules: FieldRules
    changed: Callable[[], None]


class ServicerCalls:
    """Some calls of SchedulerService."""

    def __init__(self, parts: ServicerParts) -> None:
        self._parts = parts

    async def _read(self, org_id: str, schedule_id: UUID) -> ScheduleRecord:
        async with self._parts.database.connection() as connection:
            record = await schedules_repository.get_schedule(connection, org_id, schedule_id)
        if record is None:
            raise no_schedule(schedule_id)
        return record


def no_schedule(schedule_id: UUID) -> NotFound:
    """Return the error of a schedule that is not there."""
    return NotFound("schedule", format_id("schedule", schedule_id))


def usable_timing(record: ScheduleRecord) -> Timing:
    """Return what decides when a stored schedule fires. Raises FailedPrecondition when it cannot be read."""
    try:
        return timing_of(record)
    except (ValueError, LookupError) as error:
        name = format_id("schedule", record.schedule_id)
        reason = f"{name} cannot be read: {error}"
        raise FailedPrecondition("SCHEDULE_UNREADABLE", name, reason) from error


def schedule_ended(record: ScheduleRecord) -> FailedPrecondition:
    """Return the error of a schedule that is to fire and has no time, or no firing, left."""
    name = format_id("schedule", record.schedule_id)
    if record.max_runs and record.fired_count >= record.max_runs:
        reason = (
            f"has no firing left: max_runs is {record.max_runs}, and it has fired {record.fired_count} times"
        )
    else:
        reason = "has no time left to fire at"
    return FailedPrecondition("SCHEDULE_ENDED", name, f"{name} {reason}")

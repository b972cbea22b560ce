"""From requests to create schedules to schedules that can be written."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database.ids import new_id
from millrace_database.job_types_repository import JobTypeRecord
from millrace_database.schedules_repository import NewSchedule
from millrace_runtime.identity import Caller
from millrace_runtime.json_document import JsonDocument
from millrace_runtime.validation import Violations
from millrace_scheduler.fire_times import FireTime, Timing, next_fire
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Recurrence
from millrace_scheduler.schedule_fields import (
    CHANGEABLE,
    FieldRules,
    check_fields,
    check_job,
    check_together,
)

_MAX_CREATOR_LENGTH = 256
_MAX_REQUEST_ID_LENGTH = 128


@dataclass(frozen=True, slots=True)
class ScheduleDraft:
    """What a request to create a schedule asks for; `recurrence` is None when it is wrong.

    `values` are by the names of ScheduleValues.
    """

    schedule_id: UUID
    org_id: str
    values: dict[str, Any]
    input: JsonDocument | None
    recurrence: Recurrence | None
    created_by: str
    request_id: str | None

    @property
    def type(self) -> str:
        """The type of its jobs."""
        type_: str = self.values["type"]
        return type_

    def first_run(self, now: datetime) -> FireTime | None:
        """Return when it would fire first if it were created now; None: never, or its recurrence is wrong."""
        if self.recurrence is None:
            return None
        timing = Timing(
            schedule_id=self.schedule_id,
            recurrence=self.recurrence,
            time_zone=load_zone(self.values["time_zone"]),
            start_at=self.values["start_at"],
            end_at=self.values["end_at"],
            anchor=now,
            jitter_seconds=self.values["jitter_seconds"],
        )
        return next_fire(timing, now)

    def check_job(self, job_type: JobTypeRecord | None, violations: Violations) -> None:
        """Add to `violations` why its jobs could not be created."""
        check_job(self.type, {} if self.input is None else self.input.value, job_type, violations)

    def to_schedule(self, first_run: FireTime) -> NewSchedule:
        """Return the schedule to be written; nothing is wrong with it by itself."""
        return NewSchedule(
            schedule_id=self.schedule_id,
            org_id=self.org_id,
            **self.values,
            next_run_at=first_run.fires,
            next_scheduled_time=first_run.scheduled,
            created_by=self.created_by,
            request_id=self.request_id,
        )


def check_schedule(
    request: scheduler_service_pb2.CreateScheduleRequest,
    caller: Caller,
    violations: Violations,
    rules: FieldRules,
) -> ScheduleDraft:
    """Return what a request asks for; all that is wrong with it by itself is added to `violations`.

    Raises PermissionDenied when the caller may not act in the organisation, or not name another creator.
    """
    org_id = violations.check_org_id(request.org_id)
    if org_id:
        caller.require_organisation(org_id)
    created_by = violations.check_text("created_by", request.created_by, max_length=_MAX_CREATOR_LENGTH)
    checked = check_fields(request, CHANGEABLE, violations, rules)
    check_together(checked.values, CHANGEABLE, violations)
    return ScheduleDraft(
        schedule_id=new_id(),
        org_id=org_id,
        values=checked.values,
        input=checked.input,
        recurrence=checked.recurrence,
        created_by=caller.creator(created_by),
        request_id=violations.check_text("request_id", request.request_id, max_length=_MAX_REQUEST_ID_LENGTH)
        or None,
    )

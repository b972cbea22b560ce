"""From requests to create schedules to schedules that can be written: every rule that a request must keep."""

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import orjson

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2
from millrace_database.ids import new_id
from millrace_database.job_types_repository import JobTypeRecord
from millrace_database.schedules_repository import NewSchedule
from millrace_runtime.identity import Caller
from millrace_runtime.input_schema import compile_schema, find_violations
from millrace_runtime.json_document import JsonDocument
from millrace_runtime.validation import Violations
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Recurrence, next_run
from millrace_scheduler.recurrence_messages import check_recurrence, recurrence_to_json

_MAX_NAME_LENGTH = 200
_MAX_TYPE_LENGTH = 128
_MAX_CREATOR_LENGTH = 256
_MAX_REQUEST_ID_LENGTH = 128
# A job may have 16 KiB; its scheduled time needs some of it.
_MAX_METADATA_BYTES = 16 * 1024 - 64


@dataclass(frozen=True, slots=True)
class ScheduleDraft:
    """What a request to create a schedule asks for; `recurrence` is None when it is wrong."""

    org_id: str
    name: str
    type: str
    input: JsonDocument
    metadata_json: str
    recurrence: Recurrence | None
    recurrence_message: schedule_pb2.Recurrence
    time_zone: ZoneInfo
    start_at: datetime | None
    end_at: datetime | None
    created_by: str
    request_id: str | None

    def first_run(self, now: datetime) -> datetime | None:
        """Return when it would fire first if it were created now; None: never, or its recurrence is wrong."""
        if self.recurrence is None:
            return None
        return next_run(
            self.recurrence, self.time_zone, now, start_at=self.start_at, end_at=self.end_at, anchor=now
        )

    def to_schedule(self, next_run_at: datetime) -> NewSchedule:
        """Return the schedule to be written, with a new id; nothing is wrong with it by itself."""
        return NewSchedule(
            schedule_id=new_id(),
            org_id=self.org_id,
            name=self.name,
            type=self.type,
            input_json=self.input.text,
            metadata_json=self.metadata_json,
            recurrence_json=recurrence_to_json(self.recurrence_message),
            time_zone=self.time_zone.key,
            start_at=self.start_at,
            end_at=self.end_at,
            next_run_at=next_run_at,
            created_by=self.created_by,
            request_id=self.request_id,
        )


def check_schedule(
    request: scheduler_service_pb2.CreateScheduleRequest,
    caller: Caller,
    violations: Violations,
    *,
    max_input_bytes: int,
) -> ScheduleDraft:
    """Return what a request asks for; all that is wrong with it by itself is added to `violations`.

    Raises PermissionDenied when the caller may not act in the organisation, or not name another creator.
    """
    org_id = violations.check_org_id(request.org_id)
    if org_id:
        caller.require_organisation(org_id)
    created_by = violations.check_text("created_by", request.created_by, max_length=_MAX_CREATOR_LENGTH)
    start_at, end_at = _check_limits(request, violations)
    return ScheduleDraft(
        org_id=org_id,
        name=violations.check_text("name", request.name, max_length=_MAX_NAME_LENGTH, required=True),
        type=violations.check_text("type", request.type, max_length=_MAX_TYPE_LENGTH, required=True),
        input=violations.check_struct("input", request.input, max_bytes=max_input_bytes),
        metadata_json=violations.check_struct(
            "metadata", request.metadata, max_bytes=_MAX_METADATA_BYTES
        ).text,
        recurrence=check_recurrence(request.recurrence, violations),
        recurrence_message=request.recurrence,
        time_zone=_check_time_zone(request.time_zone, violations),
        start_at=start_at,
        end_at=end_at,
        created_by=caller.creator(created_by),
        request_id=violations.check_text("request_id", request.request_id, max_length=_MAX_REQUEST_ID_LENGTH)
        or None,
    )


def check_job(draft: ScheduleDraft, job_type: JobTypeRecord | None, violations: Violations) -> None:
    """Add to `violations` why no job of the type (None: not published) could be created with the draft's input."""
    if job_type is None:
        if draft.type:
            violations.add("type", f"{draft.type!r} is no job type that a worker has published")
        return
    try:
        validator = compile_schema(orjson.loads(job_type.input_schema_json))
    except ValueError:
        violations.add("type", "was published with an input schema that cannot be used")
        return
    for field, description in find_violations(validator, draft.input.value, root="input"):
        violations.add(field, description)


def _check_limits(
    request: scheduler_service_pb2.CreateScheduleRequest, violations: Violations
) -> tuple[datetime | None, datetime | None]:
    start_at = (
        violations.check_timestamp("start_at", request.start_at) if request.HasField("start_at") else None
    )
    end_at = violations.check_timestamp("end_at", request.end_at) if request.HasField("end_at") else None
    if start_at is not None and end_at is not None and end_at < start_at:
        violations.add("end_at", "must not be before start_at")
    return start_at, end_at


def _check_time_zone(name: str, violations: Violations) -> ZoneInfo:
    try:
        return load_zone(name or "UTC")
    except LookupError:
        violations.add("time_zone", 'must be an IANA time zone, such as "Europe/Paris"')
        return load_zone("UTC")

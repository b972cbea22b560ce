# ruff: noqa: N802 - the methods have the names of the contract
from datetime import datetime

from millrace.scheduler.v1 import scheduler_service_pb2, scheduler_service_pb2_grpc
from millrace_database import job_types_repository, schedules_repository
from millrace_database.ids import format_id
from millrace_database.schedule_runs_repository import list_runs
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.errors import Aborted, FailedPrecondition
from millrace_runtime.field_masks import check_mask
from millrace_runtime.identity import current_caller
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations
from millrace_scheduler.fire_times import FireTime
from millrace_scheduler.schedule_control_calls import ScheduleControlCalls
from millrace_scheduler.schedule_fields import CHANGEABLE, check_job
from millrace_scheduler.schedule_lists import check_query, read_page
from millrace_scheduler.schedule_messages import schedule_message
from millrace_scheduler.schedule_preview import preview_schedule
from millrace_scheduler.schedule_requests import check_schedule
from millrace_scheduler.schedule_runs import run_message
from millrace_scheduler.schedule_times_calls import ScheduleTimesCalls
from millrace_scheduler.schedule_update import ScheduleUpdate, check_update
from millrace_scheduler.servicer_parts import Context, no_schedule
from millrace_scheduler.stored_schedules import timing_of
from millrace_scheduler.system_schedule_calls import SystemScheduleCalls

_NEVER = "would never fire: it has no time left within start_at and end_at"
_NEXT_RUN_TIMES = 10
_LAST_RUNS = 10


class SchedulerServicer(
    ScheduleControlCalls,
    ScheduleTimesCalls,
    SystemScheduleCalls,
    scheduler_service_pb2_grpc.SchedulerServiceServicer,
):
    """Answers the calls of SchedulerService; the contract says what each one does."""

    async def CreateSchedule(
        self, request: scheduler_service_pb2.CreateScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.CreateScheduleResponse:
        """Create a schedule, or return the one that was created with the same request id."""
        violations = Violations()
        draft = check_schedule(request, current_caller(), violations, self._parts.rules)
        is_complete = not violations
        async with self._parts.database.transaction() as connection:
            draft.check_job(await job_types_repository.get_job_type(connection, draft.type), violations)
            if not is_complete:
                violations.raise_if_any()
            now = await connection.fetchval("SELECT now()")
            first_run = draft.first_run(now)
            if first_run is None:
                violations.add("recurrence", _NEVER)
            record, created = await schedules_repository.create_schedule(
                connection, draft.to_schedule(first_run or FireTime(now, now))
            )
            if created:
                # Only now: what a repeated call asks for was right when the first one was made.
                violations.raise_if_any()
        self._parts.changed()
        return scheduler_service_pb2.CreateScheduleResponse(schedule=schedule_message(record))

    async def GetSchedule(
        self, request: scheduler_service_pb2.GetScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.GetScheduleResponse:
        """Return one schedule, when it fires next, and what became of its last times."""
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id)
        async with self._parts.database.connection() as connection:
            record = await schedules_repository.get_schedule(connection, org_id, schedule_id)
            if record is None:
                raise no_schedule(schedule_id)
            runs = await list_runs(connection, schedule_id, None, _LAST_RUNS)
        return scheduler_service_pb2.GetScheduleResponse(
            schedule=schedule_message(record),
            next_run_times=[datetime_to_timestamp(time) for time in _next_run_times(record)],
            last_runs=[run_message(run) for run in runs],
        )

    async def UpdateSchedule(
        self, request: scheduler_service_pb2.UpdateScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.UpdateScheduleResponse:
        """Change the fields of a schedule that the mask names."""
        mask_violations, violations = Violations(), Violations("schedule.")
        paths = check_mask(request.update_mask, CHANGEABLE, request.schedule.DESCRIPTOR, mask_violations)
        if request.schedule.version < 0:
            mask_violations.add("schedule.version", "must not be negative")
        mask_violations.raise_if_any()
        org_id, schedule_id = check_key(
            "schedule", request.schedule.org_id, request.schedule.schedule_id, violations
        )
        async with self._parts.database.transaction() as connection:
            before = await schedules_repository.lock_schedule(connection, org_id, schedule_id)
            if before is None:
                raise no_schedule(schedule_id)
            if request.schedule.version not in (0, before.version):
                raise _changed_meanwhile(before)
            update = check_update(before, request.schedule, paths, violations, self._parts.rules)
            if update.changes_jobs:
                type_ = await job_types_repository.get_job_type(connection, update.values.type)
                check_job(update.values.type, update.input_value(), type_, violations)
            violations.raise_if_any()
            fire = _next_fire(update)
            if fire is None and update.changes_times and not update.has_run_often_enough:
                violations.add("recurrence", _NEVER)
                violations.raise_if_any()
            record = await schedules_repository.update_schedule(
                connection,
                schedule_id,
                update.values,
                next_run_at=None if fire is None else fire.fires,
                next_scheduled_time=None if fire is None else fire.scheduled,
            )
        if record is None:
            raise no_schedule(schedule_id)
        self._parts.changed()
        return scheduler_service_pb2.UpdateScheduleResponse(schedule=schedule_message(record))

    async def ListSchedules(
        self, request: scheduler_service_pb2.ListSchedulesRequest, _context: Context
    ) -> scheduler_service_pb2.ListSchedulesResponse:
        """Return a page of schedules, newest first."""
        violations = Violations()
        query = check_query(request, violations)
        violations.raise_if_any()
        current_caller().require_organisation(query.org_id)
        return await read_page(self._parts.database, query, request.page_token)

    async def DeleteSchedule(
        self, request: scheduler_service_pb2.DeleteScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.DeleteScheduleResponse:
        """Delete a schedule; its jobs stay."""
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id)
        async with self._parts.database.connection() as connection:
            if not await schedules_repository.delete_schedule(connection, org_id, schedule_id):
                raise no_schedule(schedule_id)
        return scheduler_service_pb2.DeleteScheduleResponse()


def _next_run_times(record: ScheduleRecord) -> list[datetime]:
    if record.paused:
        return []
    try:
        return preview_schedule(record, timing_of(record), None, _NEXT_RUN_TIMES)
    except (ValueError, LookupError):
        # As a message it is logged.
        return []


def _next_fire(update: ScheduleUpdate) -> FireTime | None:
    try:
        return update.next_fire()
    except (ValueError, LookupError) as error:
        name = format_id("schedule", update.before.schedule_id)
        raise FailedPrecondition("SCHEDULE_UNREADABLE", name, f"{name} cannot be read: {error}") from error


def _changed_meanwhile(record: ScheduleRecord) -> Aborted:
    name = format_id("schedule", record.schedule_id)
    return Aborted("SCHEDULE_CHANGED", f"{name} has been changed: its version is {record.version}")

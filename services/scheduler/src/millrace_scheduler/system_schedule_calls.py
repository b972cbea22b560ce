# ruff: noqa: N802 - the methods have the names of the contract
from millrace.scheduler.v1 import scheduler_service_pb2, system_schedule_pb2
from millrace_database import system_schedules_repository as repository
from millrace_database.ids import format_id
from millrace_database.system_schedules_repository import NotStarted, SystemScheduleRecord
from millrace_runtime.errors import FailedPrecondition, NotFound
from millrace_runtime.identity import Role, current_caller
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations
from millrace_scheduler.servicer_parts import Context, ServicerCalls

_MAX_TYPE_LENGTH = 128


class SystemScheduleCalls(ServicerCalls):
    """The calls of SchedulerService that concern the schedules that are declared in code."""

    async def ListSystemSchedules(
        self, _request: scheduler_service_pb2.ListSystemSchedulesRequest, _context: Context
    ) -> scheduler_service_pb2.ListSystemSchedulesResponse:
        """Return all system schedules, by type."""
        current_caller().require_role(Role.OPERATOR)
        async with self._parts.database.connection() as connection:
            schedules = await repository.list_system_schedules(connection)
        return scheduler_service_pb2.ListSystemSchedulesResponse(
            system_schedules=[_message(schedule) for schedule in schedules]
        )

    async def RunSystemSchedule(
        self, request: scheduler_service_pb2.RunSystemScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.RunSystemScheduleResponse:
        """Start a run now, besides the schedule's times."""
        violations = Violations()
        if violations.require("type", request.type):
            violations.check_text("type", request.type, max_length=_MAX_TYPE_LENGTH)
        violations.raise_if_any()
        current_caller().require_role(Role.OPERATOR)
        async with self._parts.database.transaction() as connection:
            started = await repository.run_system_schedule(connection, request.type)
        if isinstance(started, NotStarted):
            raise _refusal(started, request.type)
        async with self._parts.database.connection() as connection:
            await repository.hint_at_run(connection, request.type)
        return scheduler_service_pb2.RunSystemScheduleResponse(run_id=format_id("system", started))


def _refusal(reason: NotStarted, type_name: str) -> NotFound | FailedPrecondition:
    match reason:
        case NotStarted.NOT_FOUND:
            return NotFound("system schedule", type_name)
        case NotStarted.NOT_LIVE:
            return FailedPrecondition(
                "NO_WORKER", type_name, f"no worker that takes work declares {type_name}"
            )
        case _:
            return FailedPrecondition("SYSTEM_SCHEDULE_BUSY", type_name, f"{type_name} waits or runs already")


def _message(record: SystemScheduleRecord) -> system_schedule_pb2.SystemSchedule:
    message = system_schedule_pb2.SystemSchedule(
        type=record.type,
        cron=record.cron,
        time_zone=record.time_zone,
        description=record.description,
        last_run_id="" if record.last_run_id is None else format_id("system", record.last_run_id),
        last_outcome=record.last_outcome,
        last_error=record.last_error,
    )
    times = (
        (message.next_run_at, record.next_run_at if record.is_live else None),
        (message.last_run_at, record.last_run_at),
        (message.last_ended_at, record.last_ended_at),
    )
    for field, time in times:
        if time is not None:
            field.CopyFrom(datetime_to_timestamp(time))
    return message

# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import grpc

from millrace.scheduler.v1 import scheduler_service_pb2, scheduler_service_pb2_grpc
from millrace_database import job_types_repository, schedules_repository
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.errors import FailedPrecondition, NotFound
from millrace_runtime.identity import current_caller
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations
from millrace_scheduler.jobs_client import JobsClient
from millrace_scheduler.schedule_lists import read_page
from millrace_scheduler.schedule_messages import schedule_message
from millrace_scheduler.schedule_requests import check_job, check_schedule
from millrace_scheduler.stored_schedules import next_run_of
from millrace_scheduler.upstream_errors import passed_on

_MAX_REASON_LENGTH = 500
_MAX_RUN_REQUEST_ID_LENGTH = 64
_RUN_SECONDS = 10.0

_Context = grpc.aio.ServicerContext[Any, Any]


class SchedulerServicer(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Answers the calls of SchedulerService; the contract says what each one does."""

    def __init__(
        self, database: Database, jobs: JobsClient, *, max_input_bytes: int, changed: Callable[[], None]
    ) -> None:
        """Take where schedules are, who creates their jobs, and what to call when one has got a next time."""
        self._database = database
        self._jobs = jobs
        self._max_input_bytes = max_input_bytes
        self._changed = changed

    async def CreateSchedule(
        self, request: scheduler_service_pb2.CreateScheduleRequest, _context: _Context
    ) -> scheduler_service_pb2.CreateScheduleResponse:
        """Create a schedule, or return the one that was created with the same request id."""
        violations = Violations()
        draft = check_schedule(request, current_caller(), violations, max_input_bytes=self._max_input_bytes)
        is_complete = not violations
        async with self._database.transaction() as connection:
            check_job(draft, await job_types_repository.get_job_type(connection, draft.type), violations)
            if not is_complete:
                violations.raise_if_any()
            now = await connection.fetchval("SELECT now()")
            first_run = draft.first_run(now)
            if first_run is None:
                violations.add(
                    "recurrence", "would never fire: it has no time left within start_at and end_at"
                )
            record, created = await schedules_repository.create_schedule(
                connection, draft.to_schedule(first_run or now)
            )
            if created:
                # Only now: what a repeated call asks for was right when the first one was made.
                violations.raise_if_any()
        self._changed()
        return scheduler_service_pb2.CreateScheduleResponse(schedule=schedule_message(record))

    async def GetSchedule(
        self, request: scheduler_service_pb2.GetScheduleRequest, _context: _Context
    ) -> scheduler_service_pb2.GetScheduleResponse:
        """Return one schedule."""
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id)
        record = await self._read(org_id, schedule_id)
        return scheduler_service_pb2.GetScheduleResponse(schedule=schedule_message(record))

    async def ListSchedules(
        self, request: scheduler_service_pb2.ListSchedulesRequest, _context: _Context
    ) -> scheduler_service_pb2.ListSchedulesResponse:
        """Return a page of schedules, newest first."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id, allow_all=True)
        page_size = violations.check_page_size(request.page_size)
        violations.raise_if_any()
        current_caller().require_organisation(org_id)
        return await read_page(self._database, org_id, page_size, request.page_token)

    async def DeleteSchedule(
        self, request: scheduler_service_pb2.DeleteScheduleRequest, _context: _Context
    ) -> scheduler_service_pb2.DeleteScheduleResponse:
        """Delete a schedule; its jobs stay."""
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id)
        async with self._database.connection() as connection:
            if not await schedules_repository.delete_schedule(connection, org_id, schedule_id):
                raise _not_found(schedule_id)
        return scheduler_service_pb2.DeleteScheduleResponse()

    async def PauseSchedule(
        self, request: scheduler_service_pb2.PauseScheduleRequest, _context: _Context
    ) -> scheduler_service_pb2.PauseScheduleResponse:
        """Keep a schedule from firing."""
        violations = Violations()
        reason = violations.check_text("reason", request.reason, max_length=_MAX_REASON_LENGTH)
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
        async with self._database.connection() as connection:
            record = await schedules_repository.pause_schedule(connection, org_id, schedule_id, reason)
        if record is None:
            raise _not_found(schedule_id)
        return scheduler_service_pb2.PauseScheduleResponse(schedule=schedule_message(record))

    async def ResumeSchedule(
        self, request: scheduler_service_pb2.ResumeScheduleRequest, _context: _Context
    ) -> scheduler_service_pb2.ResumeScheduleResponse:
        """Let a paused schedule fire again, next at its first time after now."""
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id)
        async with self._database.transaction() as connection:
            record = await schedules_repository.get_schedule(connection, org_id, schedule_id)
            if record is not None and (record.paused or record.next_run_at is None):
                record = await schedules_repository.resume_schedule(
                    connection, org_id, schedule_id, _next_run(record)
                )
        if record is None:
            raise _not_found(schedule_id)
        self._changed()
        return scheduler_service_pb2.ResumeScheduleResponse(schedule=schedule_message(record))

    async def RunSchedule(
        self, request: scheduler_service_pb2.RunScheduleRequest, context: _Context
    ) -> scheduler_service_pb2.RunScheduleResponse:
        """Create the schedule's job now."""
        violations = Violations()
        request_id = violations.check_text(
            "request_id", request.request_id, max_length=_MAX_RUN_REQUEST_ID_LENGTH
        )
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
        record = await self._read(org_id, schedule_id)
        name = format_id("schedule", schedule_id)
        try:
            job_id = await self._jobs.create_job(
                record,
                scheduled_time=record.read_at,
                request_id=f"schedule-run:{name}:{request_id or uuid4().hex}",
                deadline_seconds=min(context.time_remaining() or _RUN_SECONDS, _RUN_SECONDS),
                wait_for_ready=False,
            )
        except grpc.aio.AioRpcError as error:
            raise passed_on(error) from error
        return scheduler_service_pb2.RunScheduleResponse(job_id=format_id("job", job_id))

    async def _read(self, org_id: str, schedule_id: UUID) -> ScheduleRecord:
        async with self._database.connection() as connection:
            record = await schedules_repository.get_schedule(connection, org_id, schedule_id)
        if record is None:
            raise _not_found(schedule_id)
        return record


def _next_run(record: ScheduleRecord) -> datetime:
    found = next_run_of(record, record.read_at)
    if found is None:
        name = format_id("schedule", record.schedule_id)
        raise FailedPrecondition("SCHEDULE_ENDED", name, f"{name} has no time left to fire at")
    return found


def _not_found(schedule_id: UUID) -> NotFound:
    return NotFound("schedule", format_id("schedule", schedule_id))

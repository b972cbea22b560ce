# ruff: noqa: N802 - the methods have the names of the contract
from datetime import datetime
from uuid import uuid4

import grpc

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database import schedules_repository
from millrace_database.ids import format_id, parse_id
from millrace_database.schedule_runs_repository import record_fired_runs
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import struct_to_dict
from millrace_runtime.validation import Violations
from millrace_scheduler.jobs_client import SCHEDULED_TIME, job_request
from millrace_scheduler.schedule_messages import schedule_message
from millrace_scheduler.schedule_preview import first_fire
from millrace_scheduler.servicer_parts import (
    Context,
    ServicerCalls,
    no_schedule,
    schedule_ended,
    usable_timing,
)
from millrace_scheduler.upstream_errors import passed_on

_MAX_REASON_LENGTH = 500
_MAX_RUN_REQUEST_ID_LENGTH = 64
_RUN_SECONDS = 10.0


class ScheduleControlCalls(ServicerCalls):
    """The calls that pause, resume and run a schedule."""

    async def PauseSchedule(
        self, request: scheduler_service_pb2.PauseScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.PauseScheduleResponse:
        """Keep a schedule from firing."""
        violations = Violations()
        reason = violations.check_text("reason", request.reason, max_length=_MAX_REASON_LENGTH)
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
        async with self._parts.database.connection() as connection:
            record = await schedules_repository.pause_schedule(connection, org_id, schedule_id, reason)
        if record is None:
            raise no_schedule(schedule_id)
        return scheduler_service_pb2.PauseScheduleResponse(schedule=schedule_message(record))

    async def ResumeSchedule(
        self, request: scheduler_service_pb2.ResumeScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.ResumeScheduleResponse:
        """Let a paused schedule fire again, next at its first time after now."""
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id)
        async with self._parts.database.transaction() as connection:
            record = await schedules_repository.lock_schedule(connection, org_id, schedule_id)
            if record is not None and (record.paused or record.next_run_at is None):
                first = first_fire(record, usable_timing(record))
                if first is None:
                    raise schedule_ended(record)
                record = await schedules_repository.resume_schedule(
                    connection, org_id, schedule_id, first.fires, first.scheduled
                )
        if record is None:
            raise no_schedule(schedule_id)
        self._parts.changed()
        return scheduler_service_pb2.ResumeScheduleResponse(schedule=schedule_message(record))

    async def RunSchedule(
        self, request: scheduler_service_pb2.RunScheduleRequest, context: Context
    ) -> scheduler_service_pb2.RunScheduleResponse:
        """Create the schedule's job now."""
        violations = Violations()
        request_id = violations.check_text(
            "request_id", request.request_id, max_length=_MAX_RUN_REQUEST_ID_LENGTH
        )
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
        record = await self._read(org_id, schedule_id)
        name = format_id("schedule", schedule_id)
        asked_for = job_request(record, record.read_at, f"schedule-run:{name}:{request_id or uuid4().hex}")
        try:
            job = await self._parts.jobs.find_or_create(
                asked_for, deadline_seconds=min(context.time_remaining() or _RUN_SECONDS, _RUN_SECONDS)
            )
        except grpc.aio.AioRpcError as error:
            raise passed_on(error) from error
        # Of a repeated call it is the time of the first one.
        requested_at = datetime.fromisoformat(struct_to_dict(job.metadata)[SCHEDULED_TIME])
        async with self._parts.database.connection() as connection:
            runs = {requested_at: parse_id("job", job.job_id)}
            await record_fired_runs(connection, schedule_id, "request", runs)
        return scheduler_service_pb2.RunScheduleResponse(job_id=job.job_id)

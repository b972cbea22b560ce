# ruff: noqa: N802 - the methods have the names of the contract
import asyncio
from datetime import datetime
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database.ids import new_id
from millrace_database.schedule_runs_repository import has_runs_kept
from millrace_runtime.errors import InvalidArgument
from millrace_runtime.identity import current_caller
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations
from millrace_scheduler.backfill import MOST_TIMES, backfill, times_between
from millrace_scheduler.fire_times import Timing
from millrace_scheduler.recurrence_messages import check_recurrence
from millrace_scheduler.schedule_fields import check_time_zone
from millrace_scheduler.schedule_preview import preview_schedule, preview_timing
from millrace_scheduler.schedule_runs import read_runs, run_message
from millrace_scheduler.servicer_parts import Context, ServicerCalls, no_schedule, usable_timing
from millrace_scheduler.upstream_errors import passed_on

_DEFAULT_PREVIEW = 10
_MAX_PREVIEW = 1_000
_BACKFILL_SECONDS = 60.0


class ScheduleTimesCalls(ServicerCalls):
    """The calls that tell of a schedule's times, and make up for past ones."""

    async def ListScheduleRuns(
        self, request: scheduler_service_pb2.ListScheduleRunsRequest, _context: Context
    ) -> scheduler_service_pb2.ListScheduleRunsResponse:
        """Return a page of what became of a schedule's times, the latest first."""
        violations = Violations()
        page_size = violations.check_page_size(request.page_size)
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
        async with self._parts.database.connection() as connection:
            if not await has_runs_kept(connection, org_id, schedule_id):
                raise no_schedule(schedule_id)
            return await read_runs(connection, org_id, schedule_id, page_size, request.page_token)

    async def PreviewSchedule(
        self, request: scheduler_service_pb2.PreviewScheduleRequest, _context: Context
    ) -> scheduler_service_pb2.PreviewScheduleResponse:
        """Return the next times of a schedule, stored or not."""
        violations = Violations()
        count = violations.check_range("count", request.count or _DEFAULT_PREVIEW, 1, _MAX_PREVIEW)
        after = violations.check_timestamp("after", request.after) if request.HasField("after") else None
        match request.WhichOneof("subject"):
            case "schedule_id":
                org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
                times = await self._preview_stored(org_id, schedule_id, after, count)
            case "timing":
                times = await self._preview_timing(request, violations, after, count)
            case _:
                violations.check_org_id(request.org_id)
                violations.add("timing", "is required, or schedule_id")
                raise violations.error()
        return scheduler_service_pb2.PreviewScheduleResponse(
            run_times=[datetime_to_timestamp(time) for time in times]
        )

    async def BackfillSchedule(
        self, request: scheduler_service_pb2.BackfillScheduleRequest, context: Context
    ) -> scheduler_service_pb2.BackfillScheduleResponse:
        """Create the jobs of past times that have none yet."""
        violations = Violations()
        start = _required_time("start_time", request.HasField("start_time"), request.start_time, violations)
        end = _required_time("end_time", request.HasField("end_time"), request.end_time, violations)
        if not violations and end < start:
            violations.add("end_time", "must not be before start_time")
        org_id, schedule_id = check_key("schedule", request.org_id, request.schedule_id, violations)
        schedule = await self._read(org_id, schedule_id)
        if end > schedule.read_at:
            raise InvalidArgument([("end_time", "must not be in the future")])
        times = await asyncio.to_thread(times_between, usable_timing(schedule), start, end)
        if len(times) > MOST_TIMES:
            raise InvalidArgument([("end_time", f"leaves more than {MOST_TIMES:,} times since start_time")])
        try:
            runs, created = await backfill(
                self._parts.database,
                self._parts.jobs,
                schedule,
                times,
                deadline_seconds=min(context.time_remaining() or _BACKFILL_SECONDS, _BACKFILL_SECONDS),
            )
        except grpc.aio.AioRpcError as error:
            raise passed_on(error) from error
        return scheduler_service_pb2.BackfillScheduleResponse(
            runs=[run_message(run) for run in runs], created_count=created
        )

    async def _preview_stored(
        self, org_id: str, schedule_id: UUID, after: datetime | None, count: int
    ) -> list[datetime]:
        record = await self._read(org_id, schedule_id)
        # A thousand times of some recurrences take long enough for other calls to notice.
        return await asyncio.to_thread(preview_schedule, record, usable_timing(record), after, count)

    async def _preview_timing(
        self,
        request: scheduler_service_pb2.PreviewScheduleRequest,
        violations: Violations,
        after: datetime | None,
        count: int,
    ) -> list[datetime]:
        org_id = violations.check_org_id(request.org_id)
        timing = await self._check_timing(request.timing, violations, after)
        current_caller().require_organisation(org_id)
        return await asyncio.to_thread(preview_timing, timing, timing.anchor, count)

    async def _check_timing(
        self,
        message: scheduler_service_pb2.ScheduleTiming,
        violations: Violations,
        after: datetime | None,
    ) -> Timing:
        """Return what a request asks about, as if it were created at `after` or now."""
        nested = Violations("timing.")
        recurrence = check_recurrence(message.recurrence, nested)
        zone = check_time_zone("time_zone", message.time_zone, nested)
        start_at = (
            nested.check_timestamp("start_at", message.start_at) if message.HasField("start_at") else None
        )
        end_at = nested.check_timestamp("end_at", message.end_at) if message.HasField("end_at") else None
        if not nested and start_at is not None and end_at is not None and end_at < start_at:
            nested.add("end_at", "must not be before start_at")
        if nested:
            for violation in nested.error().violations:
                violations.add(*violation)
        violations.raise_if_any()
        if recurrence is None:
            raise violations.error()
        if after is None:
            async with self._parts.database.connection() as connection:
                after = await connection.fetchval("SELECT now()")
        return Timing(
            schedule_id=new_id(),
            recurrence=recurrence,
            time_zone=zone,
            start_at=start_at,
            end_at=end_at,
            anchor=after,
            jitter_seconds=0,
        )


def _required_time(name: str, sent: bool, value: Timestamp, violations: Violations) -> datetime:
    if not sent:
        violations.add(name, "is required")
    return violations.check_timestamp(name, value)

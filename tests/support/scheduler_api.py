"""The Scheduler service in this process, spoken to over a real port, and Jobs services for it to call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace.scheduler.v1 import (
    schedule_pb2,
    schedule_run_pb2,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from millrace_database.database import Database
from millrace_database.ids import format_id, new_id, parse_id
from millrace_database.schedules_repository import NewSchedule, create_schedule
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_scheduler.recurrence_messages import recurrence_to_json
from millrace_scheduler.service import definition
from support.jobs_api import ANY_TYPE, SCHEMA, TYPE, JobsApi, publish, serving

NOWHERE = "127.0.0.1:1"
"""An address where no Jobs service is."""


@dataclass(frozen=True)
class SchedulerApi:
    """A running service, and a stub that calls it."""

    address: str
    schedules: "scheduler_service_pb2_grpc.SchedulerServiceAsyncStub"

    async def create(self, **fields: Any) -> schedule_pb2.Schedule:
        """Create a schedule of an organisation "acme": every day, of a type that takes any input."""
        request = scheduler_service_pb2.CreateScheduleRequest(
            **{"org_id": "acme", "name": "A schedule", "type": ANY_TYPE, "recurrence": daily(), **fields}
        )
        return (await self.schedules.CreateSchedule(request)).schedule

    async def get(self, schedule_id: str) -> schedule_pb2.Schedule:
        request = scheduler_service_pb2.GetScheduleRequest(org_id="acme", schedule_id=schedule_id)
        return (await self.schedules.GetSchedule(request)).schedule

    async def get_all(self, schedule_id: str) -> scheduler_service_pb2.GetScheduleResponse:
        """Return a schedule with its next times and last runs."""
        request = scheduler_service_pb2.GetScheduleRequest(org_id="acme", schedule_id=schedule_id)
        return await self.schedules.GetSchedule(request)

    async def update(self, schedule_id: str, *paths: str, **fields: Any) -> schedule_pb2.Schedule:
        """Change fields of a schedule: those given, and those that `paths` names."""
        request = scheduler_service_pb2.UpdateScheduleRequest(
            schedule=schedule_pb2.Schedule(**{"org_id": "acme", "schedule_id": schedule_id, **fields})
        )
        unwritten = {"org_id", "version"}
        request.update_mask.paths.extend([*paths, *(path for path in fields if path not in unwritten)])
        return (await self.schedules.UpdateSchedule(request)).schedule

    async def list_(self, **fields: Any) -> list[schedule_pb2.Schedule]:
        """Return a page of schedules."""
        request = scheduler_service_pb2.ListSchedulesRequest(**{"org_id": "acme", **fields})
        return list((await self.schedules.ListSchedules(request)).schedules)

    async def delete(self, schedule_id: str) -> None:
        request = scheduler_service_pb2.DeleteScheduleRequest(org_id="acme", schedule_id=schedule_id)
        await self.schedules.DeleteSchedule(request)

    async def runs(self, schedule_id: str, **fields: Any) -> list[schedule_run_pb2.ScheduleRun]:
        """Return a page of what became of a schedule's times."""
        request = scheduler_service_pb2.ListScheduleRunsRequest(
            **{"org_id": "acme", "schedule_id": schedule_id, **fields}
        )
        return list((await self.schedules.ListScheduleRuns(request)).runs)

    async def preview(self, **fields: Any) -> list[datetime]:
        """Return when a schedule, stored or not, will fire."""
        request = scheduler_service_pb2.PreviewScheduleRequest(**{"org_id": "acme", **fields})
        answer = await self.schedules.PreviewSchedule(request)
        return [time.ToDatetime(UTC) for time in answer.run_times]

    async def backfill(
        self, schedule_id: str, start_time: datetime, end_time: datetime
    ) -> scheduler_service_pb2.BackfillScheduleResponse:
        """Create the jobs of past times, both bounds included."""
        request = scheduler_service_pb2.BackfillScheduleRequest(
            org_id="acme",
            schedule_id=schedule_id,
            start_time=datetime_to_timestamp(start_time),
            end_time=datetime_to_timestamp(end_time),
        )
        return await self.schedules.BackfillSchedule(request)

    async def pause(self, schedule_id: str, reason: str = "") -> schedule_pb2.Schedule:
        request = scheduler_service_pb2.PauseScheduleRequest(
            org_id="acme", schedule_id=schedule_id, reason=reason
        )
        return (await self.schedules.PauseSchedule(request)).schedule

    async def resume(self, schedule_id: str) -> schedule_pb2.Schedule:
        request = scheduler_service_pb2.ResumeScheduleRequest(org_id="acme", schedule_id=schedule_id)
        return (await self.schedules.ResumeSchedule(request)).schedule

    async def run(self, schedule_id: str, request_id: str = "") -> str:
        request = scheduler_service_pb2.RunScheduleRequest(
            org_id="acme", schedule_id=schedule_id, request_id=request_id
        )
        return (await self.schedules.RunSchedule(request)).job_id


@dataclass
class RecordingJobs:
    """A Jobs service that keeps requests, one job for each request id, and answers when it is let."""

    address: str = ""
    requests: list[jobs_service_pb2.CreateJobRequest] = field(default_factory=list)
    jobs: dict[str, UUID] = field(default_factory=dict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def create_job(
        self, request: jobs_service_pb2.CreateJobRequest, _context: object
    ) -> jobs_service_pb2.CreateJobResponse:
        job_id = self.jobs.setdefault(request.request_id, new_id())
        self.requests.append(request)
        self.asked.set()
        await self.may_answer.wait()
        return jobs_service_pb2.CreateJobResponse(job=job_pb2.Job(job_id=format_id("job", job_id)))


@asynccontextmanager
async def recording_jobs() -> AsyncIterator[RecordingJobs]:
    """Run a recording Jobs service on any free port."""
    jobs = RecordingJobs()
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        jobs.create_job,
        request_deserializer=jobs_service_pb2.CreateJobRequest.FromString,
        response_serializer=jobs_service_pb2.CreateJobResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("millrace.jobs.v1.JobsService", {"CreateJob": handler})]
    )
    jobs.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield jobs
    jobs.may_answer.set()
    await server.stop(None)


@asynccontextmanager
async def scheduling(
    database: Database, jobs_address: str = NOWHERE, **settings: Any
) -> AsyncIterator[SchedulerApi]:
    """Run the service on any free port, with two published job types."""
    await publish(database, TYPE, SCHEMA)
    await publish(database, ANY_TYPE, {"type": "object"})
    used = Settings(scheduler_port=0, jobs_address=jobs_address, **settings)
    options = [("grpc.max_receive_message_length", -1)]
    async with (
        running(definition, used, database) as service,
        grpc.aio.insecure_channel(service.address, options=options) as channel,
    ):
        yield SchedulerApi(service.address, scheduler_service_pb2_grpc.SchedulerServiceStub(channel))


@asynccontextmanager
async def scheduling_with_jobs(
    database: Database, data_dir: Path, *, schedulers: int = 1
) -> AsyncIterator[tuple[list[SchedulerApi], JobsApi]]:
    """Run the Jobs service and so many schedulers."""
    async with AsyncExitStack() as running_services:
        jobs = await running_services.enter_async_context(serving(database, data_dir))
        apis = [
            await running_services.enter_async_context(scheduling(database, jobs.address))
            for _ in range(schedulers)
        ]
        yield apis, jobs


async def store_due_schedule(database: Database) -> UUID:
    """Store a schedule of "acme" that is due now, and return its id: every hour, of a type that takes any input."""
    async with database.transaction() as connection:
        now = await connection.fetchval("SELECT now()")
        schedule = NewSchedule(
            schedule_id=new_id(),
            org_id="acme",
            name="A schedule",
            type=ANY_TYPE,
            input_json="{}",
            metadata_json="{}",
            recurrence_json=recurrence_to_json(every(3600)),
            time_zone="UTC",
            start_at=None,
            end_at=None,
            next_run_at=now,
            created_by="user_7",
        )
        await create_schedule(connection, schedule)
    return schedule.schedule_id


async def jobs_of(database: Database, schedule_id: str) -> list[dict[str, Any]]:
    """Return the rows of the jobs that a schedule made, oldest first."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT *, metadata ->> 'scheduled_time' AS scheduled_time FROM jobs "
            "WHERE schedule_id = $1 ORDER BY job_id",
            parse_id("schedule", schedule_id),
        )
    return [dict(row) for row in rows]


async def make_due(database: Database, schedule_id: str, *, ago: timedelta = timedelta(0)) -> None:
    """Let a schedule have been due for so long, and tell the schedulers to look."""
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE scheduled_jobs SET next_run_at = date_trunc('second', now()) - $2::interval "
            "WHERE schedule_id = $1",
            parse_id("schedule", schedule_id),
            ago,
        )
        await connection.execute("NOTIFY millrace_schedules_changed")


def soon(**delta: float) -> datetime:
    """Return a time ahead, in whole seconds."""
    return (datetime.now(UTC) + timedelta(**delta)).replace(microsecond=0)


def daily(time_of_day: str = "09:30") -> schedule_pb2.Recurrence:
    return schedule_pb2.Recurrence(daily=schedule_pb2.DailyRecurrence(time_of_day=time_of_day))


def once(at: datetime) -> schedule_pb2.Recurrence:
    recurrence = schedule_pb2.Recurrence()
    recurrence.once.at.FromDatetime(at)
    return recurrence


def every(seconds: int, nanos: int = 0) -> schedule_pb2.Recurrence:
    recurrence = schedule_pb2.Recurrence()
    recurrence.interval.every.seconds = seconds
    recurrence.interval.every.nanos = nanos
    return recurrence


def cron(expression: str) -> schedule_pb2.Recurrence:
    return schedule_pb2.Recurrence(cron=schedule_pb2.CronRecurrence(expression=expression))

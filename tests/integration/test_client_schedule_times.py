"""What the SDK sends and reads of the times of schedules: those to come, those that were, and those of the system."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.jobs.v1 import job_pb2
from millrace.scheduler.v1 import schedule_pb2, schedule_run_pb2, system_schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client import (
    Backfill,
    Daily,
    JobError,
    JobStatus,
    NotFoundError,
    RunCause,
    RunOutcome,
    ScheduleRun,
    ScheduleTiming,
    SystemSchedule,
    UnavailableError,
)
from support.scripted_scheduler import ScriptedScheduler, client_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
MOMENT = datetime(2027, 1, 31, 9, 30, tzinfo=UTC)
OSLO = timezone(timedelta(hours=1))


def timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def fired(scheduled: datetime, job_id: str) -> schedule_run_pb2.ScheduleRun:
    return schedule_run_pb2.ScheduleRun(
        scheduled_time=timestamp(scheduled),
        cause=schedule_run_pb2.RUN_CAUSE_SCHEDULE,
        outcome=schedule_run_pb2.RUN_OUTCOME_FIRED,
        recorded_at=timestamp(MOMENT),
        job_id=job_id,
        job_status=job_pb2.JOB_STATUS_FAILED,
        job_error=job_pb2.JobError(code="TIMEOUT", message="too slow"),
    )


async def test_runs_are_paged_and_read() -> None:
    skipped = schedule_run_pb2.ScheduleRun(
        scheduled_time=timestamp(MOMENT),
        cause=schedule_run_pb2.RUN_CAUSE_BACKFILL,
        outcome=99,  # type: ignore[arg-type]  # one of a later version
        recorded_at=timestamp(MOMENT),
        reason="the job before still runs",
    )

    def page(token: str, *runs: schedule_run_pb2.ScheduleRun) -> messages.ListScheduleRunsResponse:
        return messages.ListScheduleRunsResponse(runs=runs, next_page_token=token)

    scheduler = ScriptedScheduler(
        page("next", fired(MOMENT, "job_1")), page("", skipped, fired(MOMENT, "job_0"))
    )
    async with client_of(scheduler) as client:
        runs = [run async for run in client.schedules.runs("schedule_1", limit=2, page_size=1)]
    error = JobError("TIMEOUT", "too slow", retryable=False)
    assert runs == [
        ScheduleRun(
            MOMENT, RunCause.SCHEDULE, RunOutcome.FIRED, MOMENT, "job_1", JobStatus.FAILED, error, ""
        ),
        ScheduleRun(
            MOMENT, RunCause.BACKFILL, RunOutcome.UNKNOWN, MOMENT, "", None, None, "the job before still runs"
        ),
    ]
    assert [request.page_token for request in scheduler.requests] == ["", "next"]
    assert scheduler.requests[0].schedule_id == "schedule_1"


async def test_get_says_what_comes_and_what_was() -> None:
    response = messages.GetScheduleResponse(
        schedule=schedule_pb2.Schedule(schedule_id="schedule_1"),
        next_run_times=[timestamp(MOMENT)],
        last_runs=[fired(MOMENT, "job_1")],
    )
    scheduler = ScriptedScheduler(response)
    async with client_of(scheduler) as client:
        schedule = await client.schedules.get("schedule_1")
    assert schedule.next_run_times == (MOMENT,)
    assert schedule.last_runs is not None
    assert [run.job_id for run in schedule.last_runs] == ["job_1"]


async def test_a_preview_is_of_a_stored_schedule_or_of_one_that_need_not_exist() -> None:
    response = messages.PreviewScheduleResponse(run_times=[timestamp(MOMENT)])
    scheduler = ScriptedScheduler(response, response)
    async with client_of(scheduler) as client:
        assert await client.schedules.preview("schedule_1") == (MOMENT,)
        timing = ScheduleTiming(Daily("09:30"), "Europe/Oslo", MOMENT, MOMENT + timedelta(days=1))
        assert await client.schedules.preview(timing, after=MOMENT.astimezone(OSLO), count=3) == (MOMENT,)
    assert list(map(MessageToDict, scheduler.requests)) == [
        {"orgId": "acme", "scheduleId": "schedule_1", "count": 10},
        {
            "orgId": "acme",
            "timing": {
                "recurrence": {"daily": {"timeOfDay": "09:30"}},
                "timeZone": "Europe/Oslo",
                "startAt": "2027-01-31T09:30:00Z",
                "endAt": "2027-02-01T09:30:00Z",
            },
            "after": "2027-01-31T09:30:00Z",
            "count": 3,
        },
    ]


async def test_a_preview_of_no_times_is_refused() -> None:
    async with client_of(ScriptedScheduler()) as client:
        with pytest.raises(ValueError, match="count"):
            await client.schedules.preview("schedule_1", count=0)


async def test_a_backfill_tells_the_runs_and_how_many_are_new() -> None:
    scheduler = ScriptedScheduler(
        messages.BackfillScheduleResponse(
            runs=[fired(MOMENT, "job_1"), fired(MOMENT, "job_2")], created_count=1
        )
    )
    async with client_of(scheduler) as client:
        done = await client.schedules.backfill("schedule_1", MOMENT, MOMENT + timedelta(hours=1))
    assert isinstance(done, Backfill)
    assert ([run.job_id for run in done.runs], done.created_count) == (["job_1", "job_2"], 1)
    assert MessageToDict(scheduler.requests[0]) == {
        "orgId": "acme",
        "scheduleId": "schedule_1",
        "startTime": "2027-01-31T09:30:00Z",
        "endTime": "2027-01-31T10:30:00Z",
    }


async def test_system_schedules_are_listed_and_run() -> None:
    scheduler = ScriptedScheduler(
        messages.ListSystemSchedulesResponse(
            system_schedules=[
                system_schedule_pb2.SystemSchedule(
                    type="storage:cleanup", cron="@daily", time_zone="UTC", next_run_at=timestamp(MOMENT)
                )
            ]
        ),
        messages.RunSystemScheduleResponse(run_id="system_1"),
        UNAVAILABLE,
    )
    async with client_of(scheduler) as client:
        listed = [schedule async for schedule in client.system_schedules.list()]
        assert await client.system_schedules.run("storage:cleanup") == "system_1"
        with pytest.raises(UnavailableError):
            await client.system_schedules.run("storage:cleanup")
    assert listed == [SystemSchedule("storage:cleanup", "@daily", "UTC", "", MOMENT, None, "", "", "", None)]
    assert [request.type for request in scheduler.requests[1:]] == ["storage:cleanup"] * 2


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.schedules.get("schedule_1"),
        lambda client: anext(client.schedules.runs("schedule_1")),
        lambda client: client.schedules.preview("schedule_1"),
        lambda client: client.schedules.backfill("schedule_1", MOMENT, MOMENT),
        lambda client: anext(client.system_schedules.list()),
    ],
)
async def test_what_may_be_repeated_is_repeated_while_the_service_is_away(call: Any) -> None:
    scheduler = ScriptedScheduler(UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
    async with client_of(scheduler) as client:
        with pytest.raises(NotFoundError):
            await call(client)
    assert len(scheduler.requests) == 2

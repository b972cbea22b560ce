"""Schedules created, read, listed, paused, resumed, run and deleted by their callers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc
import pytest
from google.rpc import error_details_pb2
from google.type import dayofweek_pb2

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.deliveries import DELIVERY_TYPES
from millrace_database.ids import format_id
from millrace_runtime.struct_json import dict_to_struct, struct_to_dict
from support.jobs_api import TYPE, JobsApi, detail, publish, refusal, refused_fields, status_of
from support.scheduler_api import (
    SchedulerApi,
    cron,
    daily,
    every,
    jobs_of,
    once,
    scheduling,
    scheduling_with_jobs,
    soon,
)


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


@pytest.fixture
async def api_and_jobs(database: Database, tmp_path: Path) -> AsyncIterator[tuple[SchedulerApi, JobsApi]]:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), jobs):
        yield api, jobs


async def test_a_created_schedule_is_returned_whole(api: SchedulerApi) -> None:
    recurrence = schedule_pb2.Recurrence(
        weekly=schedule_pb2.WeeklyRecurrence(days=[dayofweek_pb2.MONDAY], time_of_day="08:15:30")
    )
    start_at = soon(days=100)
    schedule = await api.create(
        name="Weekly report",
        type=TYPE,
        input=dict_to_struct({"file_id": "file_1"}),
        metadata=dict_to_struct({"team": "sales"}),
        recurrence=recurrence,
        time_zone="Asia/Kathmandu",
        start_at=start_at,
        end_at=soon(days=200),
        created_by="user_7",
    )

    assert schedule.schedule_id.startswith("schedule_")
    assert (schedule.org_id, schedule.name, schedule.type) == ("acme", "Weekly report", TYPE)
    assert struct_to_dict(schedule.input) == {"file_id": "file_1"}
    assert struct_to_dict(schedule.metadata) == {"team": "sales"}
    assert schedule.recurrence == recurrence
    assert schedule.time_zone == "Asia/Kathmandu"
    assert schedule.start_at.ToDatetime(UTC) == start_at
    assert schedule.created_by == "user_7"
    assert not schedule.paused
    assert not schedule.HasField("last_run_at")
    next_run = schedule.next_run_at.ToDatetime(UTC).astimezone(ZoneInfo("Asia/Kathmandu"))
    assert (next_run.isoweekday(), next_run.strftime("%H:%M:%S")) == (1, "08:15:30")
    assert timedelta(0) <= next_run - start_at <= timedelta(days=7)
    assert await api.get(schedule.schedule_id) == schedule


async def test_what_is_left_out(api: SchedulerApi) -> None:
    schedule = await api.create(recurrence=every(3600))

    assert schedule.time_zone == "UTC"
    assert schedule.created_by == "anonymous"
    assert not schedule.HasField("start_at")
    assert not schedule.HasField("end_at")
    assert struct_to_dict(schedule.input) == {}
    assert schedule.next_run_at.ToDatetime() - schedule.created_at.ToDatetime() == timedelta(hours=1)


@pytest.mark.parametrize(
    ("recurrence", "zone", "start_at", "first"),
    [
        (cron("30 2 * * *"), "America/New_York", "2031-03-09T00:00:00-05:00", "2031-03-09T03:00:00-04:00"),
        (daily("01:30"), "America/New_York", "2031-11-02T00:00:00-04:00", "2031-11-02T01:30:00-04:00"),
        (daily("01:30"), "America/New_York", "2031-11-02T01:45:00-04:00", "2031-11-03T01:30:00-05:00"),
        (cron("30 * * * *"), "America/New_York", "2031-11-02T01:45:00-04:00", "2031-11-02T01:30:00-05:00"),
        (cron("@daily"), "Europe/Paris", "2031-06-01T00:00:00+02:00", "2031-06-01T00:00:00+02:00"),
        (cron("0 0 29 2 *"), "UTC", "2033-01-01T00:00:00+00:00", "2036-02-29T00:00:00+00:00"),
        (every(86_400), "UTC", "2031-01-01T00:00:01+00:00", "2031-01-01T00:00:01+00:00"),
    ],
)
async def test_the_first_time(
    api: SchedulerApi, recurrence: schedule_pb2.Recurrence, zone: str, start_at: str, first: str
) -> None:
    schedule = await api.create(
        recurrence=recurrence, time_zone=zone, start_at=datetime.fromisoformat(start_at)
    )
    assert schedule.next_run_at.ToDatetime(UTC) == datetime.fromisoformat(first)


async def test_a_repeated_creation_returns_the_first_schedule(api: SchedulerApi, database: Database) -> None:
    first = await api.create(request_id="r1", recurrence=once(soon(minutes=5)))

    # What was right at first may not be any more: the time is past, say.
    repeated = await api.create(request_id="r1", recurrence=once(soon(minutes=-5)))

    assert repeated == first
    assert (await api.create(request_id="r2")).schedule_id != first.schedule_id
    assert (await api.create(request_id="r1", org_id="other")).schedule_id != first.schedule_id
    assert await refused_fields(api.create(request_id="r3", recurrence=once(soon(minutes=-5))))
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM scheduled_jobs") == 3


async def test_lists_are_newest_first_and_stable_while_schedules_come_and_go(api: SchedulerApi) -> None:
    created = [(await api.create(name=str(number))).schedule_id for number in range(5)]
    await api.create(org_id="other")

    async def page(token: str, org_id: str = "acme") -> scheduler_service_pb2.ListSchedulesResponse:
        return await api.schedules.ListSchedules(
            scheduler_service_pb2.ListSchedulesRequest(org_id=org_id, page_size=2, page_token=token)
        )

    first = await page("")
    await api.create(name="new")
    await api.schedules.DeleteSchedule(
        scheduler_service_pb2.DeleteScheduleRequest(org_id="acme", schedule_id=created[3])
    )
    second = await page(first.next_page_token)
    third = await page(second.next_page_token)

    seen = [schedule.schedule_id for answer in (first, second, third) for schedule in answer.schedules]
    assert seen == created[::-1]
    assert third.next_page_token == ""
    everywhere = await api.schedules.ListSchedules(scheduler_service_pb2.ListSchedulesRequest(org_id="-"))
    assert len(everywhere.schedules) == 6


async def test_a_page_of_large_schedules_fits_into_a_message(api: SchedulerApi) -> None:
    large = dict_to_struct({"text": "x" * 900_000})
    created = [(await api.create(input=large)).schedule_id for _ in range(6)]
    seen: list[str] = []
    token = ""
    # A client accepts messages of 4 MiB unless it is told otherwise.
    async with grpc.aio.insecure_channel(api.address) as channel:
        schedules = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        while token or not seen:
            request = scheduler_service_pb2.ListSchedulesRequest(org_id="acme", page_token=token)
            answer = await schedules.ListSchedules(request)
            assert answer.schedules
            seen += [schedule.schedule_id for schedule in answer.schedules]
            token = answer.next_page_token
    assert seen == created[::-1]


async def test_a_deleted_schedule_is_gone(api_and_jobs: tuple[SchedulerApi, JobsApi]) -> None:
    api, jobs = api_and_jobs
    schedule = await api.create()
    job_id = await api.run(schedule.schedule_id)
    request = scheduler_service_pb2.DeleteScheduleRequest(org_id="acme", schedule_id=schedule.schedule_id)

    await api.schedules.DeleteSchedule(request)

    for call in (api.get(schedule.schedule_id), api.schedules.DeleteSchedule(request)):
        assert (await refusal(call)).code() is grpc.StatusCode.NOT_FOUND
    assert (await jobs.get(job_id)).schedule_id == schedule.schedule_id


@pytest.mark.parametrize("type_", sorted(DELIVERY_TYPES))
async def test_deliveries_are_not_scheduled(api: SchedulerApi, database: Database, type_: str) -> None:
    await publish(database, type_, {"type": "object"})
    schedule = await api.create()

    said = f"{type_!r} is for deliveries, which are made by the system only"
    assert await refused_fields(api.create(type=type_)) == {"type": said}
    changed = await refused_fields(api.update(schedule.schedule_id, type=type_))
    assert list(changed.values()) == [said]


async def test_pause_and_resume(api: SchedulerApi) -> None:
    schedule = await api.create(recurrence=cron("0 * * * *"))

    paused = await api.pause(schedule.schedule_id, "month end")
    assert (paused.paused, paused.pause_reason) == (True, "month end")
    assert not paused.HasField("next_run_at")
    assert (await api.pause(schedule.schedule_id, "holidays")).pause_reason == "holidays"

    resumed = await api.resume(schedule.schedule_id)
    assert (resumed.paused, resumed.pause_reason) == (False, "")
    assert resumed.next_run_at == schedule.next_run_at
    assert await api.resume(schedule.schedule_id) == resumed


async def test_resuming_what_has_no_time_left(api: SchedulerApi, database: Database) -> None:
    schedule = await api.create(recurrence=daily(), end_at=soon(days=3))
    await api.pause(schedule.schedule_id)
    async with database.connection() as connection:
        await connection.execute("UPDATE scheduled_jobs SET end_at = now() - interval '1 second'")

    error = await refusal(api.resume(schedule.schedule_id))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    failure = detail(status_of(error), error_details_pb2.PreconditionFailure)
    assert failure.violations[0].type == "SCHEDULE_ENDED"
    assert failure.violations[0].subject == schedule.schedule_id
    assert str(error.details()).endswith("has no time left to fire at")
    assert (await api.get(schedule.schedule_id)).paused


async def test_run_creates_a_job_now(api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database) -> None:
    api, jobs = api_and_jobs
    schedule = await api.create(
        type=TYPE,
        input=dict_to_struct({"file_id": "file_1"}),
        metadata=dict_to_struct({"team": "sales"}),
        created_by="user_7",
    )
    await api.pause(schedule.schedule_id)

    job_id = await api.run(schedule.schedule_id, "again")

    job = await jobs.get(job_id)
    assert (job.type, job.created_by, job.schedule_id) == (TYPE, "user_7", schedule.schedule_id)
    assert struct_to_dict(job.input) == {"file_id": "file_1"}
    metadata = struct_to_dict(job.metadata)
    assert metadata.pop("team") == "sales"
    ran_at = datetime.fromisoformat(metadata.pop("scheduled_time"))
    assert abs(ran_at - job.created_at.ToDatetime(UTC)) < timedelta(seconds=5)
    assert metadata == {}
    assert await api.run(schedule.schedule_id, "again") == job_id
    assert len({job_id, await api.run(schedule.schedule_id), await api.run(schedule.schedule_id)}) == 3
    assert len(await jobs_of(database, schedule.schedule_id)) == 3
    after = await api.get(schedule.schedule_id)
    assert after.paused
    assert not after.HasField("last_run_at")


async def test_run_passes_on_why_the_job_is_refused(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create(type=TYPE, input=dict_to_struct({"file_id": "file_1"}))
    await publish(database, TYPE, {"type": "object", "required": ["dataset"]})

    assert await refused_fields(api.run(schedule.schedule_id)) == {"input.dataset": "is required"}


async def test_run_without_a_jobs_service(api: SchedulerApi) -> None:
    schedule = await api.create()

    error = await refusal(api.run(schedule.schedule_id))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "the Jobs service cannot be reached"
    assert detail(status_of(error), error_details_pb2.RetryInfo).retry_delay.ToTimedelta() > timedelta(0)


async def test_an_input_as_large_as_a_job_may_have_can_be_run(database: Database, tmp_path: Path) -> None:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), _):
        numbers = dict_to_struct({"numbers": [1] * ((1024 * 1024 - 14) // 2)})
        schedule = await api.create(input=numbers)
        job_id = await api.run(schedule.schedule_id)
        (row,) = await jobs_of(database, schedule.schedule_id)
        assert format_id("job", row["job_id"]) == job_id
        assert len(row["input"]) > 1024 * 1024

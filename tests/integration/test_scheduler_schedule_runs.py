"""What became of a schedule's times, and past times that are made up for."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.jobs.v1 import job_pb2
from millrace.scheduler.v1 import schedule_run_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.ids import new_id, parse_id
from millrace_runtime.struct_json import dict_to_struct
from support.jobs_api import TYPE, JobsApi, detail, publish, refusal, refused_fields, status_of
from support.polling import eventually
from support.scheduler_api import (
    SchedulerApi,
    cron,
    every,
    jobs_of,
    make_due,
    scheduling,
    scheduling_with_jobs,
    soon,
)

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
_ADD_RUNS = """
INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome, job_id, reason)
SELECT $1::uuid, '2030-01-01Z'::timestamptz + n / 2 * interval '1 minute',
    CASE n % 2 WHEN 0 THEN 'schedule' ELSE 'request' END, 'failed', $2::uuid, n::text
FROM generate_series(0, 6) AS n
"""


@pytest.fixture
async def api_and_jobs(database: Database, tmp_path: Path) -> AsyncIterator[tuple[SchedulerApi, JobsApi]]:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), jobs):
        yield api, jobs


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


async def test_a_missed_time_says_why_it_has_no_job(api: SchedulerApi, database: Database) -> None:
    schedule = await api.create()
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome) VALUES ($1, now(), 'schedule', 'missed')",
            parse_id("schedule", schedule.schedule_id),
        )

    (run,) = await api.runs(schedule.schedule_id)

    assert run.outcome == schedule_run_pb2.RUN_OUTCOME_MISSED
    assert run.reason == "no scheduler, or no Jobs service, was there in time"


async def test_a_run_on_request_is_recorded_once(api_and_jobs: tuple[SchedulerApi, JobsApi]) -> None:
    api, _ = api_and_jobs
    schedule = await api.create()

    first = await api.run(schedule.schedule_id, "r1")
    assert await api.run(schedule.schedule_id, "r1") == first
    second = await api.run(schedule.schedule_id)

    runs = await api.runs(schedule.schedule_id)
    assert [run.job_id for run in runs] == [second, first]
    for run in runs:
        assert run.cause == schedule_run_pb2.RUN_CAUSE_REQUEST
        assert run.outcome == schedule_run_pb2.RUN_OUTCOME_FIRED
        assert run.job_status == job_pb2.JOB_STATUS_PENDING
        assert abs(run.scheduled_time.ToDatetime() - run.recorded_at.ToDatetime()) < timedelta(seconds=5)
    assert (await api.get(schedule.schedule_id)).fired_count == 0
    assert list((await api.get_all(schedule.schedule_id)).last_runs) == runs


async def test_a_firing_is_among_the_runs(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create(recurrence=cron("0 0 * * *"))
    await make_due(database, schedule.schedule_id)

    (run,) = await eventually(lambda: api.runs(schedule.schedule_id))

    after = await api.get(schedule.schedule_id)
    assert (run.cause, run.outcome) == (
        schedule_run_pb2.RUN_CAUSE_SCHEDULE,
        schedule_run_pb2.RUN_OUTCOME_FIRED,
    )
    assert (run.job_id, run.scheduled_time) == (after.last_job_id, after.last_run_at)


async def test_a_run_tells_how_its_job_ended(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create()
    job_id = await api.run(schedule.schedule_id)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE jobs SET status = 'failed', error_code = 'TIMEOUT', error_message = 'too long', completed_at = now()"
        )

    (run,) = await api.runs(schedule.schedule_id)

    assert run.job_status == job_pb2.JOB_STATUS_FAILED
    assert run.job_error == job_pb2.JobError(code="TIMEOUT", message="too long")
    async with database.connection() as connection:
        await connection.execute("DELETE FROM jobs")
    (run,) = await api.runs(schedule.schedule_id)
    assert (run.job_id, run.job_status) == (job_id, job_pb2.JOB_STATUS_UNSPECIFIED)
    assert not run.HasField("job_error")


async def test_pages_of_runs_even_at_the_same_time(api: SchedulerApi, database: Database) -> None:
    schedule, other = await api.create(), await api.create()
    async with database.connection() as connection:
        for one in (schedule, other):
            await connection.execute(_ADD_RUNS, parse_id("schedule", one.schedule_id), new_id())

    seen: list[str] = []
    tokens: list[str] = []
    token = ""
    while token or not seen:
        request = scheduler_service_pb2.ListScheduleRunsRequest(
            org_id="acme", schedule_id=schedule.schedule_id, page_size=2, page_token=token
        )
        answer = await api.schedules.ListScheduleRuns(request)
        seen += [run.reason for run in answer.runs]
        token = answer.next_page_token
        tokens.append(token)

    assert seen == ["6", "4", "5", "2", "3", "0", "1"]
    assert [run.reason for run in (await api.get_all(schedule.schedule_id)).last_runs] == seen
    for wrong in (
        api.runs(other.schedule_id, page_token=tokens[0]),
        api.runs(schedule.schedule_id, page_token=tokens[0][:-4]),
    ):
        assert await refused_fields(wrong) == {
            "page_token": "is not a token of a previous page with the same filters"
        }
    assert await refused_fields(api.runs(schedule.schedule_id, page_size=-1)) == {
        "page_size": "must not be negative"
    }


async def test_a_page_of_long_errors_fits_into_a_message(api: SchedulerApi, database: Database) -> None:
    schedule = await api.create()
    job_id = new_id()
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO jobs (job_id, org_id, type, status, max_attempts, error_code, error_message, completed_at)"
            " VALUES ($1, 'acme', 'a', 'failed', 1, 'BROKEN', repeat('\U0001f4a5', 2000), now())",
            job_id,
        )
        await connection.execute(
            "INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome, job_id)"
            " SELECT $1, now() - n * interval '1 minute', 'schedule', 'fired', $2 FROM generate_series(1, 900) AS n",
            parse_id("schedule", schedule.schedule_id),
            job_id,
        )
    seen, token = 0, ""
    # A client accepts messages of 4 MiB unless it is told otherwise.
    async with grpc.aio.insecure_channel(api.address) as channel:
        schedules = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        while token or not seen:
            request = scheduler_service_pb2.ListScheduleRunsRequest(
                org_id="acme", schedule_id=schedule.schedule_id, page_size=1000, page_token=token
            )
            answer = await schedules.ListScheduleRuns(request)
            assert answer.runs
            seen += len(answer.runs)
            token = answer.next_page_token
    assert seen == 900


async def test_runs_of_a_deleted_schedule_are_kept(api_and_jobs: tuple[SchedulerApi, JobsApi]) -> None:
    api, _ = api_and_jobs
    schedule = await api.create()
    job_id = await api.run(schedule.schedule_id)
    await api.delete(schedule.schedule_id)

    (run,) = await api.runs(schedule.schedule_id)

    assert run.job_id == job_id
    for call in (
        api.runs(schedule.schedule_id, org_id="other"),
        api.runs("schedule_" + "0" * 32),
        api.get(schedule.schedule_id),
        api.pause(schedule.schedule_id),
        api.resume(schedule.schedule_id),
        api.run(schedule.schedule_id),
        api.preview(schedule_id=schedule.schedule_id),
        api.backfill(schedule.schedule_id, soon(days=-1), soon(days=-1)),
        api.delete(schedule.schedule_id),
    ):
        assert (await refusal(call)).code() is grpc.StatusCode.NOT_FOUND


async def test_a_backfill_makes_one_job_for_each_time_however_often(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, jobs = api_and_jobs
    schedule = await api.create(recurrence=cron("0 */6 * * *"), metadata=dict_to_struct({"team": "sales"}))
    times = [MIDNIGHT - timedelta(days=2) + timedelta(hours=6 * number) for number in range(5)]

    first = await api.backfill(schedule.schedule_id, times[0], times[-1] + timedelta(hours=5))
    again = await api.backfill(schedule.schedule_id, times[1], times[-1])

    assert first.created_count == 5
    assert [run.scheduled_time.ToDatetime(UTC) for run in first.runs] == times
    assert {run.cause for run in first.runs} == {schedule_run_pb2.RUN_CAUSE_BACKFILL}
    assert again.created_count == 0
    assert list(again.runs) == list(first.runs[1:])
    job = await jobs.get(first.runs[0].job_id)
    assert job.metadata["scheduled_time"] == times[0].isoformat().replace("+00:00", "Z")
    assert (job.metadata["team"], job.schedule_id) == ("sales", schedule.schedule_id)
    assert len(await jobs_of(database, schedule.schedule_id)) == 5
    assert await api.runs(schedule.schedule_id) == list(first.runs)[::-1]
    assert (await api.get(schedule.schedule_id)).next_run_at == schedule.next_run_at


async def test_backfills_at_once_make_the_same_jobs(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create(recurrence=cron("0 * * * *"))
    start = MIDNIGHT - timedelta(days=2)

    answers = await asyncio.gather(
        *(api.backfill(schedule.schedule_id, start, start + timedelta(hours=30 - n)) for n in range(4))
    )

    assert sum(answer.created_count for answer in answers) == 31
    assert len(await jobs_of(database, schedule.schedule_id)) == 31
    assert len(await api.runs(schedule.schedule_id)) == 31


async def test_a_time_that_was_fired_keeps_its_job(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create(recurrence=cron("0 0 * * *"))
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE scheduled_jobs SET next_run_at = $1, next_scheduled_time = $1", MIDNIGHT
        )
        await connection.execute("NOTIFY millrace_schedules_changed")
    (fired,) = await eventually(lambda: api.runs(schedule.schedule_id))
    async with database.connection() as connection:
        # Not even a job that is gone is made anew.
        await connection.execute("DELETE FROM jobs")

    answer = await api.backfill(schedule.schedule_id, MIDNIGHT - timedelta(days=1), MIDNIGHT)

    assert answer.created_count == 1
    assert [run.job_id for run in answer.runs][1:] == [fired.job_id]
    assert [run.cause for run in answer.runs] == [
        schedule_run_pb2.RUN_CAUSE_BACKFILL,
        schedule_run_pb2.RUN_CAUSE_SCHEDULE,
    ]
    assert len(await jobs_of(database, schedule.schedule_id)) == 1
    assert len(await api.runs(schedule.schedule_id)) == 2


async def test_a_backfill_fits_large_inputs_into_messages(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create(recurrence=cron("0 * * * *"), input=dict_to_struct({"text": "x" * 1_000_000}))
    end = MIDNIGHT - timedelta(days=1)

    answer = await api.backfill(schedule.schedule_id, end - timedelta(hours=9), end)

    assert answer.created_count == len(answer.runs) == 10
    assert len(await jobs_of(database, schedule.schedule_id)) == 10


async def test_a_backfill_passes_on_why_jobs_are_refused(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    schedule = await api.create(
        type=TYPE, input=dict_to_struct({"file_id": "f"}), recurrence=cron("0 * * * *")
    )
    await publish(database, TYPE, {"type": "object", "required": ["dataset"]})

    call = api.backfill(schedule.schedule_id, soon(hours=-3), soon(hours=-1))

    assert await refused_fields(call) == {"input.dataset": "is required"}
    assert await api.runs(schedule.schedule_id) == []


async def test_a_backfill_without_a_jobs_service(api: SchedulerApi) -> None:
    schedule = await api.create(recurrence=cron("0 * * * *"))

    error = await refusal(api.backfill(schedule.schedule_id, soon(hours=-3), soon(hours=-1)))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(status_of(error), error_details_pb2.RetryInfo).retry_delay.ToTimedelta() > timedelta(0)


async def test_ranges_that_cannot_be_backfilled(api: SchedulerApi) -> None:
    schedule = await api.create(recurrence=cron("* * * * *"))

    def call(**fields: Any) -> Any:
        request = scheduler_service_pb2.BackfillScheduleRequest(
            org_id="acme", schedule_id=schedule.schedule_id, **fields
        )
        return api.schedules.BackfillSchedule(request)

    assert await refused_fields(call()) == {"start_time": "is required", "end_time": "is required"}
    for start, end, problem in (
        (soon(hours=-1), soon(hours=-2), "must not be before start_time"),
        (soon(hours=-1), soon(hours=1), "must not be in the future"),
        (MIDNIGHT - timedelta(minutes=1001), MIDNIGHT, "leaves more than 1,000 times since start_time"),
    ):
        assert await refused_fields(call(start_time=start, end_time=end)) == {"end_time": problem}


async def test_a_backfill_of_no_time(api: SchedulerApi) -> None:
    schedule = await api.create(recurrence=every(60))

    # An interval has no times before it began.
    answer = await api.backfill(schedule.schedule_id, soon(days=-9), soon(days=-1))

    assert (list(answer.runs), answer.created_count) == ([], 0)

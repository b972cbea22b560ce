"""What a preview says is what fires."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.type import dayofweek_pb2

from millrace.scheduler.v1 import schedule_pb2, schedule_run_pb2, scheduler_service_pb2
from millrace_database.database import Database
from millrace_database.ids import parse_id
from support.jobs_api import JobsApi, refused_fields
from support.polling import eventually
from support.scheduler_api import (
    SchedulerApi,
    cron,
    daily,
    every,
    once,
    scheduling,
    scheduling_with_jobs,
    soon,
)

ZONE = "America/New_York"
JITTER = timedelta(hours=2)
LONG_AGO = timedelta(days=29)
RECURRENCES = {
    "daily": daily("02:30"),
    "weekly": schedule_pb2.Recurrence(
        weekly=schedule_pb2.WeeklyRecurrence(
            days=[dayofweek_pb2.MONDAY, dayofweek_pb2.THURSDAY], time_of_day="23:59:59"
        )
    ),
    "monthly": schedule_pb2.Recurrence(
        monthly=schedule_pb2.MonthlyRecurrence(last_day=True, time_of_day="12:00")
    ),
    "interval": every(36_000),
    "cron": cron("15 */5 * * 1-5"),
}


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


@pytest.fixture
async def api_and_jobs(database: Database, tmp_path: Path) -> AsyncIterator[tuple[SchedulerApi, JobsApi]]:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), jobs):
        yield api, jobs


def timing(recurrence: schedule_pb2.Recurrence, **fields: Any) -> scheduler_service_pb2.ScheduleTiming:
    return scheduler_service_pb2.ScheduleTiming(recurrence=recurrence, **fields)


@pytest.mark.parametrize("frequency", RECURRENCES)
async def test_the_times_that_were_shown_are_fired(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database, frequency: str
) -> None:
    """A schedule is put back in time, previewed, and then let catch up: its runs are what was shown."""
    api, _ = api_and_jobs
    began = datetime.now(UTC).replace(microsecond=0) - LONG_AGO
    recurrence = RECURRENCES[frequency]
    schedule = await api.create(
        recurrence=recurrence,
        time_zone=ZONE,
        jitter=JITTER,
        start_at=began,
        catch_up_policy=schedule_pb2.CATCH_UP_POLICY_RUN_ALL,
        catch_up_window=timedelta(days=30),
    )
    named = await api.preview(
        timing=timing(recurrence, time_zone=ZONE, start_at=began),
        after=began - timedelta(seconds=1),
        count=200,
    )
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE scheduled_jobs SET next_run_at = $1, next_scheduled_time = $1", named[0]
        )
    shown = await api.preview(schedule_id=schedule.schedule_id, count=200)
    now = datetime.now(UTC)
    due = [time for time in shown if time <= now]
    assert due

    async with database.connection() as connection:
        await connection.execute("NOTIFY millrace_schedules_changed")

    async def all_runs() -> list[schedule_run_pb2.ScheduleRun]:
        runs = await api.runs(schedule.schedule_id, page_size=1000)
        return runs if len(runs) >= len(due) else []

    runs = (await eventually(all_runs))[::-1]
    assert [run.scheduled_time.ToDatetime(UTC) for run in runs] == named[: len(due)]
    assert all(timedelta(0) <= fires - names <= JITTER for fires, names in zip(shown, named, strict=True))
    assert shown == sorted(shown)
    after = await api.get_all(schedule.schedule_id)
    assert after.schedule.next_run_at.ToDatetime(UTC) == shown[len(due)]
    assert [time.ToDatetime(UTC) for time in after.next_run_times] == shown[len(due) : len(due) + 10]


async def test_the_one_time_that_was_shown_is_fired(
    api_and_jobs: tuple[SchedulerApi, JobsApi], database: Database
) -> None:
    api, _ = api_and_jobs
    at = datetime.now(UTC) + timedelta(seconds=1.5)
    schedule = await api.create(recurrence=once(at), jitter=timedelta(seconds=1))
    (shown,) = await api.preview(schedule_id=schedule.schedule_id)

    (run,) = await eventually(lambda: api.runs(schedule.schedule_id))

    assert run.scheduled_time.ToDatetime(UTC) == at
    assert shown <= run.recorded_at.ToDatetime(UTC)
    assert await api.preview(schedule_id=schedule.schedule_id) == []


async def test_a_preview_without_a_schedule_is_what_a_new_one_gets(api: SchedulerApi) -> None:
    for recurrence in RECURRENCES.values():
        start_at = soon(days=3)
        shown = await api.preview(timing=timing(recurrence, time_zone=ZONE, start_at=start_at))
        schedule = await api.create(recurrence=recurrence, time_zone=ZONE, start_at=start_at)
        stored = (await api.get_all(schedule.schedule_id)).next_run_times
        assert shown == [time.ToDatetime(UTC) for time in stored]
        assert len(shown) == 10


async def test_how_many_times_and_from_when(api: SchedulerApi) -> None:
    hourly = timing(cron("0 * * * *"))
    after = datetime(2031, 3, 1, 5, 30, tzinfo=UTC)

    shown = await api.preview(timing=hourly, after=after, count=1000)

    assert shown == [datetime(2031, 3, 1, 6, tzinfo=UTC) + timedelta(hours=n) for n in range(1000)]
    limited = timing(
        cron("0 * * * *"),
        start_at=datetime(2031, 3, 1, 8, tzinfo=UTC),
        end_at=datetime(2031, 3, 1, 9, tzinfo=UTC),
    )
    assert await api.preview(timing=limited, after=after) == [
        datetime(2031, 3, 1, 8, tzinfo=UTC),
        datetime(2031, 3, 1, 9, tzinfo=UTC),
    ]
    # An interval counts as if the schedule were created then.
    assert await api.preview(timing=timing(every(60)), after=after, count=2) == [
        after + timedelta(minutes=1),
        after + timedelta(minutes=2),
    ]


async def test_only_the_firings_that_are_left_are_shown(api: SchedulerApi, database: Database) -> None:
    schedule = await api.create(recurrence=every(3600), max_runs=5)
    async with database.connection() as connection:
        await connection.execute("UPDATE scheduled_jobs SET fired_count = 2")

    shown = await api.preview(schedule_id=schedule.schedule_id)

    assert len(shown) == 3
    assert await api.preview(schedule_id=schedule.schedule_id, after=shown[0]) == shown[1:]
    assert await api.preview(schedule_id=schedule.schedule_id, after=shown[2]) == []
    assert await api.preview(schedule_id=schedule.schedule_id, count=2) == shown[:2]


async def test_a_paused_schedule_is_shown_as_if_it_were_resumed(api: SchedulerApi) -> None:
    schedule = await api.create(recurrence=cron("0 0 * * *"), jitter=JITTER)
    shown = await api.preview(schedule_id=schedule.schedule_id)

    await api.pause(schedule.schedule_id)

    assert (await api.get_all(schedule.schedule_id)).next_run_times == []
    assert await api.preview(schedule_id=schedule.schedule_id) == shown


@pytest.mark.parametrize("max_runs", [0, 9_999])
async def test_a_later_part_of_a_preview_is_the_same(api: SchedulerApi, max_runs: int) -> None:
    schedule = await api.create(recurrence=every(600), jitter=JITTER, max_runs=max_runs)
    shown = await api.preview(schedule_id=schedule.schedule_id, count=100)

    for place in (0, 1, 13, 50, 98):
        later = await api.preview(schedule_id=schedule.schedule_id, after=shown[place], count=100)
        rest = [time for time in shown if time > shown[place]]
        assert later[: len(rest)] == rest


async def test_a_preview_far_ahead(api: SchedulerApi, database: Database) -> None:
    endless = await api.create(recurrence=every(1))
    far = soon(days=3650)

    (time,) = await api.preview(schedule_id=endless.schedule_id, after=far, count=1)

    assert far < time <= far + timedelta(seconds=1)
    counted = await api.create(recurrence=every(1), max_runs=2**31 - 1)
    assert await refused_fields(api.preview(schedule_id=counted.schedule_id, after=far)) == {
        "after": "has more than 10,000 times before it, which count as there is a max_runs"
    }
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE scheduled_jobs SET fired_count = 2147483640 WHERE schedule_id = $1",
            parse_id("schedule", counted.schedule_id),
        )
    assert await api.preview(schedule_id=counted.schedule_id, after=far) == []


async def test_previews_that_are_wrong(api: SchedulerApi) -> None:
    assert await refused_fields(api.preview(org_id="")) == {
        "org_id": "is required",
        "timing": "is required, or schedule_id",
    }
    assert await refused_fields(api.preview(schedule_id="x", count=-1)) == {
        "schedule_id": 'must be "schedule_" and 32 hexadecimal digits',
        "count": "must be 1 to 1000",
    }
    wrong = timing(cron("61 * * * *"), time_zone="Mars/Olympus", start_at=soon(days=2), end_at=soon(days=1))
    assert await refused_fields(api.preview(timing=wrong, count=1001)) == {
        "timing.recurrence.cron.expression": "minute: 61 is out of range 0-59 (at character 1)",
        "timing.time_zone": 'must be an IANA time zone, such as "Europe/Paris"',
        "count": "must be 1 to 1000",
    }
    assert await refused_fields(
        api.preview(timing=timing(daily(), start_at=soon(days=2), end_at=soon(days=1)))
    ) == {"timing.end_at": "must not be before start_at"}
    assert await refused_fields(api.preview(timing=timing(schedule_pb2.Recurrence()))) == {
        "timing.recurrence": "needs one of once, daily, weekly, monthly, interval, cron"
    }

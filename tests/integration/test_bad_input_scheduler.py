"""Every wrong field of a request is named, with a reason, and nothing is created."""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from google.type import dayofweek_pb2

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2
from millrace_database.database import Database
from millrace_runtime.struct_json import datetime_to_timestamp, dict_to_struct
from support.jobs_api import TYPE, detail, refusal, refused_fields, status_of
from support.scheduler_api import SchedulerApi, cron, daily, every, once, scheduling, soon

UNKNOWN = "schedule_" + "0" * 32


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


def weekly(*days: Any, time_of_day: str = "08:00") -> schedule_pb2.Recurrence:
    recurrence = schedule_pb2.Recurrence(weekly=schedule_pb2.WeeklyRecurrence(time_of_day=time_of_day))
    recurrence.weekly.days.extend(days)
    return recurrence


def monthly(day: int, time_of_day: str = "08:00") -> schedule_pb2.Recurrence:
    return schedule_pb2.Recurrence(monthly=schedule_pb2.MonthlyRecurrence(day=day, time_of_day=time_of_day))


def deep(levels: int) -> dict[str, Any]:
    return {} if levels == 1 else {"a": deep(levels - 1)}


MONDAY = dayofweek_pb2.MONDAY
NEVER = "would never fire: it has no time left within start_at and end_at"
NO_MONTHLY_DAY = "needs one of day, last_day and weekday"
NO_TIME_OF_DAY = 'must be a time such as "09:30" or "09:30:15", from 00:00 to 23:59:59'

CASES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("no organisation", {"org_id": ""}, {"org_id": "is required"}),
    ("all organisations", {"org_id": "-"}, {"org_id": 'must name one organisation; "-" means all of them'}),
    (
        "a strange organisation",
        {"org_id": "a b"},
        {"org_id": 'may hold letters, digits, "-", "_" and ".", at most 128 characters'},
    ),
    ("no name", {"name": ""}, {"name": "is required"}),
    ("a long name", {"name": "n" * 201}, {"name": "is 201 characters long, more than 200"}),
    ("NUL in the name", {"name": "a\0"}, {"name": "holds the character U+0000, which cannot be stored"}),
    ("no type", {"type": ""}, {"type": "is required"}),
    (
        "an unknown type",
        {"type": "no:such"},
        {"type": "'no:such' is no job type that a worker has published"},
    ),
    ("input without a field", {"type": TYPE}, {"input.file_id": "is required"}),
    (
        "input that does not match",
        {"type": TYPE, "input": dict_to_struct({"file_id": 7, "rows": [{"id": 1}, {}]})},
        {"input.file_id": "must be string", "input.rows[1].id": "is required"},
    ),
    ("deep input", {"input": dict_to_struct(deep(33))}, {"input": "is more than 32 levels deep"}),
    (
        "NaN in the metadata",
        {"metadata": dict_to_struct({"a": float("nan")})},
        {"metadata": "holds NaN or an infinity, which JSON cannot express"},
    ),
    (
        "large metadata",
        {"metadata": dict_to_struct({"a": "x" * 16_384})},
        {"metadata": "is 16392 bytes of JSON, more than 16320"},
    ),
    (
        "an unknown zone",
        {"time_zone": "Mars/Olympus"},
        {"time_zone": 'must be an IANA time zone, such as "Europe/Paris"'},
    ),
    (
        "an offset",
        {"time_zone": "+02:00"},
        {"time_zone": 'must be an IANA time zone, such as "Europe/Paris"'},
    ),
    (
        "end before start",
        {"start_at": soon(days=2), "end_at": soon(days=1)},
        {"end_at": "must not be before start_at"},
    ),
    ("an end that is past", {"end_at": soon(days=-1)}, {"recurrence": NEVER}),
    (
        "no time within the limits",
        {"recurrence": once(soon(days=3)), "end_at": soon(days=1)},
        {"recurrence": NEVER},
    ),
    (
        "nanoseconds out of range",
        {"start_at": Timestamp(seconds=1, nanos=-1)},
        {"start_at": "has nanos outside of 0 to 999,999,999"},
    ),
    (
        "a year out of range",
        {"end_at": Timestamp(seconds=2**62)},
        {"end_at": "must lie within the years 1 to 9999"},
    ),
    ("a long creator", {"created_by": "c" * 257}, {"created_by": "is 257 characters long, more than 256"}),
    ("a long request id", {"request_id": "r" * 129}, {"request_id": "is 129 characters long, more than 128"}),
    (
        "no recurrence",
        {"recurrence": None},
        {"recurrence": "needs one of once, daily, weekly, monthly, interval, cron"},
    ),
    (
        "an empty recurrence",
        {"recurrence": schedule_pb2.Recurrence()},
        {"recurrence": "needs one of once, daily, weekly, monthly, interval, cron"},
    ),
    (
        "once without a time",
        {"recurrence": schedule_pb2.Recurrence(once=schedule_pb2.OnceRecurrence())},
        {"recurrence.once.at": "is required"},
    ),
    ("once, in the past", {"recurrence": once(soon(seconds=-10))}, {"recurrence": NEVER}),
    ("daily without a time", {"recurrence": daily("")}, {"recurrence.daily.time_of_day": "is required"}),
    *(
        (f"daily at {text!r}", {"recurrence": daily(text)}, {"recurrence.daily.time_of_day": NO_TIME_OF_DAY})
        for text in ("24:00", "9:30", "09:60", "09:30:60", "09:30:15.5", "09:30Z", "0930", "٠٩:٣٠", " 09:30")
    ),
    ("weekly without days", {"recurrence": weekly()}, {"recurrence.weekly.days": "is required"}),
    (
        "weekly on a day twice",
        {"recurrence": weekly(MONDAY, dayofweek_pb2.FRIDAY, MONDAY)},
        {"recurrence.weekly.days[2]": "is there already"},
    ),
    (
        "weekly on no day of the week",
        {"recurrence": weekly(0, 8)},
        {
            "recurrence.weekly.days[0]": "must be MONDAY to SUNDAY",
            "recurrence.weekly.days[1]": "must be MONDAY to SUNDAY",
        },
    ),
    (
        "weekly with nothing",
        {"recurrence": weekly(time_of_day="")},
        {"recurrence.weekly.days": "is required", "recurrence.weekly.time_of_day": "is required"},
    ),
    *(
        (f"monthly on day {day}", {"recurrence": monthly(day)}, {"recurrence.monthly.day": "must be 1 to 31"})
        for day in (32, -1)
    ),
    ("monthly on no day", {"recurrence": monthly(0)}, {"recurrence.monthly": NO_MONTHLY_DAY}),
    (
        "monthly at no time",
        {"recurrence": monthly(1, "x")},
        {"recurrence.monthly.time_of_day": NO_TIME_OF_DAY},
    ),
    (
        "an interval without a length",
        {"recurrence": schedule_pb2.Recurrence(interval=schedule_pb2.IntervalRecurrence())},
        {"recurrence.interval.every": "is required"},
    ),
    (
        "an interval of 0",
        {"recurrence": every(0)},
        {"recurrence.interval.every": "must be at least 1 second"},
    ),
    (
        "an interval below 0",
        {"recurrence": every(-60)},
        {"recurrence.interval.every": "must be at least 1 second"},
    ),
    (
        "an interval of 1.5 s",
        {"recurrence": every(1, 500_000_000)},
        {"recurrence.interval.every": "must be in whole seconds"},
    ),
    (
        "an endless interval",
        {"recurrence": every(2**62)},
        {"recurrence.interval.every": "must be at most 315,576,000,000 seconds"},
    ),
    ("an interval past the calendar", {"recurrence": every(315_576_000_000)}, {"recurrence": NEVER}),
    ("cron without an expression", {"recurrence": cron("")}, {"recurrence.cron.expression": "is required"}),
    (
        "cron at minute 61",
        {"recurrence": cron("61 * * * *")},
        {"recurrence.cron.expression": "minute: 61 is out of range 0-59 (at character 1)"},
    ),
    (
        "cron on day 32",
        {"recurrence": cron("0 0 32 * *")},
        {"recurrence.cron.expression": "day of month: 32 is out of range 1-31 (at character 5)"},
    ),
    (
        "cron with 6 fields",
        {"recurrence": cron("0 0 * * * *")},
        {
            "recurrence.cron.expression": "has 6 fields; it needs five: minute, hour, day of month, month, day of week "
            "(at character 11)"
        },
    ),
    (
        "cron that never fires",
        {"recurrence": cron("0 0 30 2 *")},
        {
            "recurrence.cron.expression": "day of month: 30 never occurs in the months it names "
            "(at character 5)"
        },
    ),
    (
        "several things at once",
        {"name": "", "type": "no:such", "time_zone": "x", "recurrence": cron("@reboot")},
        {
            "name": "is required",
            "type": "'no:such' is no job type that a worker has published",
            "time_zone": 'must be an IANA time zone, such as "Europe/Paris"',
            "recurrence.cron.expression": "'@reboot' is not one of @hourly, @daily, @midnight, @weekly, @monthly, "
            "@yearly, @annually (at character 1)",
        },
    ),
]


async def test_schedules_that_cannot_be_created(api: SchedulerApi, database: Database) -> None:
    wrong: dict[str, Mapping[str, str]] = {}
    for name, fields, expected in CASES:
        found = await refused_fields(api.create(**fields))
        if found != expected:
            wrong[name] = found
    assert wrong == {}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM scheduled_jobs") == 0


METHODS: dict[str, Callable[..., Message]] = {
    "GetSchedule": scheduler_service_pb2.GetScheduleRequest,
    "DeleteSchedule": scheduler_service_pb2.DeleteScheduleRequest,
    "PauseSchedule": scheduler_service_pb2.PauseScheduleRequest,
    "ResumeSchedule": scheduler_service_pb2.ResumeScheduleRequest,
    "RunSchedule": scheduler_service_pb2.RunScheduleRequest,
    "ListScheduleRuns": scheduler_service_pb2.ListScheduleRunsRequest,
    "PreviewSchedule": scheduler_service_pb2.PreviewScheduleRequest,
    "BackfillSchedule": partial(
        scheduler_service_pb2.BackfillScheduleRequest,
        start_time=datetime_to_timestamp(soon(hours=-2)),
        end_time=datetime_to_timestamp(soon(hours=-1)),
    ),
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_schedule_is_named_by_its_organisation_and_id(api: SchedulerApi, method: str) -> None:
    schedule = await api.create()

    def call(**fields: str) -> Any:
        request = METHODS[method](**{"org_id": "acme", "schedule_id": schedule.schedule_id, **fields})
        return getattr(api.schedules, method)(request)

    assert await refused_fields(call(org_id="", schedule_id="")) == {
        "org_id": "is required",
        "schedule_id": "is required",
    }
    for malformed in ("x", "job_" + "0" * 32, UNKNOWN.upper(), UNKNOWN + "0", "schedule_" + "g" * 32):
        assert await refused_fields(call(schedule_id=malformed)) == {
            "schedule_id": 'must be "schedule_" and 32 hexadecimal digits'
        }
    for missing in ({"org_id": "other"}, {"schedule_id": UNKNOWN}):
        error = await refusal(call(**missing))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert resource.resource_type == "schedule"
        assert resource.resource_name == missing.get("schedule_id", schedule.schedule_id)
    assert await api.get(schedule.schedule_id) == schedule


async def test_long_texts_of_pause_and_run(api: SchedulerApi) -> None:
    schedule = await api.create()
    assert await refused_fields(api.pause(schedule.schedule_id, "r" * 501)) == {
        "reason": "is 501 characters long, more than 500"
    }
    assert await refused_fields(api.run(schedule.schedule_id, "r" * 65)) == {
        "request_id": "is 65 characters long, more than 64"
    }


async def test_pages_that_do_not_exist(api: SchedulerApi) -> None:
    for _ in range(2):
        await api.create()

    def call(**fields: Any) -> Any:
        return api.schedules.ListSchedules(
            scheduler_service_pb2.ListSchedulesRequest(**{"org_id": "acme", **fields})
        )

    token = (await call(page_size=1)).next_page_token
    no_token = {"page_token": "is not a token of a previous page with the same filters"}
    assert await refused_fields(call(org_id="")) == {"org_id": "is required"}
    assert await refused_fields(call(page_size=-1)) == {"page_size": "must not be negative"}
    for garbage in ("x", "AAAA", token[:-4], token + "AAAA", "\u00e4"):
        assert await refused_fields(call(page_token=garbage)) == no_token
    assert await refused_fields(call(org_id="other", page_token=token)) == no_token

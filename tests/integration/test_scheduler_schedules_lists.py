"""Lists of schedules by filters."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2
from millrace_database.database import Database
from millrace_runtime.struct_json import dict_to_struct
from support.jobs_api import TYPE, refused_fields
from support.scheduler_api import SchedulerApi, cron, every, once, scheduling, soon

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DELIVERIES = {
    "download": schedule_pb2.Delivery(download=schedule_pb2.DownloadDelivery()),
    "webhook": schedule_pb2.Delivery(
        webhook=schedule_pb2.WebhookDelivery(url="https://example.com/", secret=SECRET)
    ),
    "email": schedule_pb2.Delivery(email=schedule_pb2.EmailDelivery(to=["ann@example.com"])),
    "storage": schedule_pb2.Delivery(storage=schedule_pb2.StorageDelivery(path="a/{{file_name}}")),
}


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


async def names(api: SchedulerApi, **filters: Any) -> list[str]:
    return [schedule.name for schedule in await api.list_(**filters)]


async def test_by_type(api: SchedulerApi) -> None:
    await api.create(name="a")
    await api.create(name="b", type=TYPE, input=dict_to_struct({"file_id": "f"}))

    assert await names(api, type=TYPE) == ["b"]
    assert await names(api, type="no:such") == []


async def test_by_frequency(api: SchedulerApi) -> None:
    recurrences = {
        scheduler_service_pb2.FREQUENCY_ONCE: once(soon(days=1)),
        scheduler_service_pb2.FREQUENCY_DAILY: schedule_pb2.Recurrence(
            daily=schedule_pb2.DailyRecurrence(time_of_day="08:00")
        ),
        scheduler_service_pb2.FREQUENCY_WEEKLY: schedule_pb2.Recurrence(
            weekly=schedule_pb2.WeeklyRecurrence(days=[1], time_of_day="08:00")
        ),
        scheduler_service_pb2.FREQUENCY_MONTHLY: schedule_pb2.Recurrence(
            monthly=schedule_pb2.MonthlyRecurrence(day=1, time_of_day="08:00")
        ),
        scheduler_service_pb2.FREQUENCY_INTERVAL: every(60),
        scheduler_service_pb2.FREQUENCY_CRON: cron("@daily"),
    }
    assert set(recurrences) == set(scheduler_service_pb2.Frequency.values()) - {0}
    for frequency, recurrence in recurrences.items():
        await api.create(name=str(frequency), recurrence=recurrence)

    for frequency in recurrences:
        assert await names(api, frequency=frequency) == [str(frequency)]
    assert len(await names(api)) == len(recurrences)


async def test_by_whether_they_will_fire(api: SchedulerApi, database: Database) -> None:
    await api.create(name="fires")
    paused = await api.create(name="paused")
    await api.pause(paused.schedule_id)
    ended = await api.create(name="ended", max_runs=1)
    async with database.connection() as connection:
        await connection.execute("UPDATE scheduled_jobs SET fired_count = 1 WHERE name = 'ended'")
    await api.update(ended.schedule_id, "max_runs", max_runs=1)

    assert await names(api, active=True) == ["fires"]
    assert await names(api, active=False) == ["ended", "paused"]
    assert await names(api) == ["ended", "paused", "fires"]


async def test_by_delivery(api: SchedulerApi) -> None:
    await api.create(name="none")
    for name, delivery in DELIVERIES.items():
        await api.create(name=name, delivery=delivery)

    for name in ("none", *DELIVERIES):
        method = scheduler_service_pb2.DeliveryMethod.Value(f"DELIVERY_METHOD_{name.upper()}")
        assert await names(api, delivery=method) == [name]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("REPORT", ["Monthly report"]),
        ("port", ["Monthly report"]),
        ("notes:", ["50%_off\\", "ÉTÉ", "Monthly report"]),
        ("été", ["ÉTÉ"]),
        ("%", ["50%_off\\"]),
        ("_", ["50%_off\\"]),
        ("\\", ["50%_off\\"]),
        ("0%_o", ["50%_off\\"]),
        ("o%f", []),
        ("no such", []),
    ],
)
async def test_by_text(api: SchedulerApi, search: str, found: list[str]) -> None:
    for name in ("Monthly report", "ÉTÉ", "50%_off\\"):
        await api.create(name=name)
    await api.create(name="Monthly report", org_id="other")

    assert await names(api, search=search) == found


async def test_filters_must_all_match_on_every_page(api: SchedulerApi) -> None:
    for number in range(6):
        await api.create(
            name=f"Report {number}",
            recurrence=every(60) if number % 2 else cron("@daily"),
            jitter=timedelta(1),
        )
    wanted: dict[str, Any] = {
        "org_id": "acme",
        "search": "report",
        "frequency": scheduler_service_pb2.FREQUENCY_INTERVAL,
    }
    seen: list[str] = []
    token = ""
    while token or not seen:
        request = scheduler_service_pb2.ListSchedulesRequest(**wanted, page_size=1, page_token=token)
        answer = await api.schedules.ListSchedules(request)
        seen += [schedule.name for schedule in answer.schedules]
        token = answer.next_page_token
        last = request.page_token or token

    assert seen == ["Report 5", "Report 3", "Report 1"]
    assert await names(api, org_id="-", search="5") == ["Report 5"]
    for other in ({"search": "report"}, {**wanted, "active": True}, {**wanted, "search": "Report"}):
        assert await refused_fields(api.list_(**{**other, "page_token": last})) == {
            "page_token": "is not a token of a previous page with the same filters"
        }


async def test_filters_that_are_wrong(api: SchedulerApi) -> None:
    assert await refused_fields(
        api.list_(type="t" * 129, search="s" * 101, frequency=99, delivery=-1, page_size=-1)
    ) == {
        "type": "is 129 characters long, more than 128",
        "search": "is 101 characters long, more than 100",
        "frequency": "is 99, which is unknown",
        "delivery": "is -1, which is unknown",
        "page_size": "must not be negative",
    }
    assert await refused_fields(api.list_(search="a\0")) == {
        "search": "holds the character U+0000, which cannot be stored"
    }


async def test_a_deleted_schedule_is_not_listed_and_its_request_id_is_free(api: SchedulerApi) -> None:
    first = await api.create(request_id="r")
    await api.delete(first.schedule_id)

    assert await names(api) == []
    assert await names(api, org_id="-") == []
    assert (await api.create(request_id="r")).schedule_id != first.schedule_id

"""What the SDK sends to the Scheduler service of schedules themselves, and what it reads of its answers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from millrace.scheduler.v1 import schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client import (
    AbortedError,
    CatchUpPolicy,
    Daily,
    Delivery,
    DeliveryMethod,
    DownloadDelivery,
    EmailDelivery,
    Frequency,
    LastDay,
    Monthly,
    NthWeekday,
    OverlapPolicy,
    StorageDelivery,
    UnavailableError,
    WebhookDelivery,
)
from support.scripted_scheduler import ScriptedScheduler, client_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
MOMENT = datetime(2027, 1, 31, 9, 30, tzinfo=UTC)


async def test_every_option_of_a_schedule_is_sent_and_read_back() -> None:
    response = messages.CreateScheduleResponse()
    scheduler = ScriptedScheduler(response)
    async with client_of(scheduler) as client:
        await client.schedules.create(
            "Reports",
            "reports:generate",
            Monthly(NthWeekday(-1, "FRIDAY"), "09:30"),
            {"a": 1},
            time_zone="Europe/Oslo",
            jitter=timedelta(minutes=5),
            overlap_policy=OverlapPolicy.BUFFER_ONE,
            catch_up_policy="RUN_ALL",
            catch_up_window=timedelta(hours=6),
            max_runs=10,
            pause_after_failed_runs=3,
            delivery=WebhookDelivery("https://example.com/hook", "whsec_1", on_failure=True),
            request_id="r1",
        )
        sent = MessageToDict(scheduler.requests[0])
        assert sent == {
            "orgId": "acme",
            "name": "Reports",
            "type": "reports:generate",
            "input": {"a": 1},
            "recurrence": {
                "monthly": {"weekday": {"nth": -1, "day": "FRIDAY"}, "timeOfDay": "09:30"},
            },
            "timeZone": "Europe/Oslo",
            "requestId": "r1",
            "jitter": "300s",
            "overlapPolicy": "OVERLAP_POLICY_BUFFER_ONE",
            "catchUpPolicy": "CATCH_UP_POLICY_RUN_ALL",
            "catchUpWindow": "21600s",
            "maxRuns": 10,
            "pauseAfterFailedRuns": 3,
            "delivery": {
                "webhook": {"url": "https://example.com/hook", "secret": "whsec_1"},
                "onFailure": True,
            },
        }
        del sent["requestId"]
        ParseDict(sent, response.schedule)
        response.schedule.delivery.webhook.secret = ""
        response.schedule.version = 2**40
        response.schedule.fired_count, response.schedule.missed_count, response.schedule.skipped_count = (
            1,
            2,
            3,
        )
        scheduler.script.append(response)
        schedule = await client.schedules.create("Reports", "reports:generate", Daily("09:30"))
    assert schedule.recurrence == Monthly(NthWeekday(-1, "FRIDAY"), "09:30")
    assert schedule.jitter == timedelta(minutes=5)
    assert schedule.overlap_policy is OverlapPolicy.BUFFER_ONE
    assert schedule.catch_up_policy is CatchUpPolicy.RUN_ALL
    assert schedule.catch_up_window == timedelta(hours=6)
    assert (schedule.max_runs, schedule.pause_after_failed_runs, schedule.version) == (10, 3, 2**40)
    assert schedule.delivery == WebhookDelivery("https://example.com/hook", on_failure=True)
    assert (schedule.fired_count, schedule.missed_count, schedule.skipped_count) == (1, 2, 3)
    assert (schedule.next_run_times, schedule.last_runs) == (None, None)


async def test_a_plain_schedule_has_the_ordinary_policies() -> None:
    scheduler = ScriptedScheduler(messages.CreateScheduleResponse())
    async with client_of(scheduler) as client:
        schedule = await client.schedules.create("n", "t", Daily("09:30"), request_id="r")
    assert MessageToDict(scheduler.requests[0]) == {
        "orgId": "acme",
        "name": "n",
        "type": "t",
        "recurrence": {"daily": {"timeOfDay": "09:30"}},
        "requestId": "r",
    }
    assert (schedule.overlap_policy, schedule.catch_up_policy) == (
        OverlapPolicy.ALLOW,
        CatchUpPolicy.RUN_ONCE,
    )
    assert (schedule.jitter, schedule.catch_up_window, schedule.delivery) == (timedelta(), None, None)


@pytest.mark.parametrize(
    ("delivery", "contract"),
    [
        (DownloadDelivery(), {"download": {}}),
        (DownloadDelivery(on_failure=True), {"download": {}, "onFailure": True}),
        (WebhookDelivery("https://a"), {"webhook": {"url": "https://a"}}),
        (
            EmailDelivery(["a@b.c", "d@e.f"], "s", "b", attach=True),
            {"email": {"to": ["a@b.c", "d@e.f"], "subject": "s", "body": "b", "attach": True}},
        ),
        (StorageDelivery("a/{{file_name}}"), {"storage": {"path": "a/{{file_name}}"}}),
    ],
)
async def test_a_delivery_is_sent_as_the_contract_has_it_and_read_back(
    delivery: Delivery, contract: dict[str, Any]
) -> None:
    stored = schedule_pb2.Schedule()
    ParseDict(contract, stored.delivery)
    scheduler = ScriptedScheduler(messages.UpdateScheduleResponse(schedule=stored))
    async with client_of(scheduler) as client:
        schedule = await client.schedules.update("schedule_1", delivery=delivery)
    assert MessageToDict(scheduler.requests[0].schedule.delivery) == contract
    assert schedule.delivery == delivery


def test_a_secret_is_not_shown_and_addresses_are_a_list() -> None:
    assert "whsec" not in repr(WebhookDelivery("https://a", "whsec_1"))
    with pytest.raises(TypeError, match="list"):
        EmailDelivery("ada@example.com")


async def test_what_is_given_of_an_update_is_its_mask() -> None:
    changed = messages.UpdateScheduleResponse(
        schedule=schedule_pb2.Schedule(schedule_id="schedule_1", version=5)
    )
    scheduler = ScriptedScheduler(changed, changed)
    async with client_of(scheduler) as client:
        schedule = await client.schedules.update(
            "schedule_1",
            version=4,
            name="New",
            recurrence=Monthly(LastDay(), "09:30"),
            end_at=None,
            max_runs=0,
        )
        assert schedule.version == 5
        await client.schedules.update(
            "schedule_1",
            job_type="t",
            job_input={"a": 1},
            metadata=None,
            time_zone="",
            start_at=MOMENT,
            jitter=timedelta(seconds=5),
            overlap_policy="SKIP",
            catch_up_policy=None,
            catch_up_window=timedelta(hours=1),
            pause_after_failed_runs=2,
            delivery=None,
        )
    first, second = scheduler.requests
    assert MessageToDict(first) == {
        "schedule": {
            "orgId": "acme",
            "scheduleId": "schedule_1",
            "name": "New",
            "recurrence": {"monthly": {"lastDay": True, "timeOfDay": "09:30"}},
            "version": "4",
        },
        "updateMask": "name,recurrence,endAt,maxRuns",
    }
    assert MessageToDict(second.schedule) == {
        "orgId": "acme",
        "scheduleId": "schedule_1",
        "type": "t",
        "input": {"a": 1},
        "startAt": "2027-01-31T09:30:00Z",
        "jitter": "5s",
        "overlapPolicy": "OVERLAP_POLICY_SKIP",
        "catchUpWindow": "3600s",
        "pauseAfterFailedRuns": 2,
    }
    assert list(second.update_mask.paths) == [
        "type", "input", "metadata", "time_zone", "start_at", "jitter", "overlap_policy", "catch_up_policy",
        "catch_up_window", "pause_after_failed_runs", "delivery",
    ]  # fmt: skip


async def test_an_update_is_not_repeated_and_says_when_another_came_first() -> None:
    scheduler = ScriptedScheduler(grpc.StatusCode.ABORTED, UNAVAILABLE)
    async with client_of(scheduler) as client:
        with pytest.raises(AbortedError):
            await client.schedules.update("schedule_1", version=1, name="a")
        with pytest.raises(UnavailableError):
            await client.schedules.update("schedule_1", name="a")
    assert scheduler.script == []


async def test_a_change_that_cannot_be_sent_is_refused_at_once() -> None:
    scheduler = ScriptedScheduler()
    async with client_of(scheduler) as client:
        with pytest.raises(TypeError, match="nmae"):
            await client.schedules.update("schedule_1", nmae="a")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="SOMETIMES"):
            await client.schedules.update("schedule_1", overlap_policy="SOMETIMES")
        with pytest.raises(ValueError, match="no time zone"):
            await client.schedules.update("schedule_1", start_at=datetime(2027, 1, 31))  # noqa: DTZ001
        with pytest.raises(ValueError, match="UNKNOWN"):
            await client.schedules.create("n", "t", Daily("09:30"), catch_up_policy=CatchUpPolicy.UNKNOWN)
    assert scheduler.requests == []


async def test_the_filters_of_a_list_are_sent_with_every_page() -> None:
    def page(name: str, token: str) -> messages.ListSchedulesResponse:
        return messages.ListSchedulesResponse(
            schedules=[schedule_pb2.Schedule(name=name)], next_page_token=token
        )

    scheduler = ScriptedScheduler(page("b", "next"), page("a", ""), page("a", ""))
    async with client_of(scheduler) as client:
        listed = client.schedules.list(
            job_type="t",
            frequency=Frequency.INTERVAL,
            active=False,
            delivery="NONE",
            search="Night",
            page_size=1,
        )
        assert [schedule.name async for schedule in listed] == ["b", "a"]
        assert [schedule.name async for schedule in client.schedules.list(limit=7)] == ["a"]
        with pytest.raises(ValueError, match="HOURLY"):
            [schedule async for schedule in client.schedules.list(frequency="HOURLY")]
        with pytest.raises(ValueError, match="UNKNOWN"):
            [schedule async for schedule in client.schedules.list(delivery=DeliveryMethod.UNKNOWN)]
    filtered = {
        "orgId": "acme",
        "pageSize": 1,
        "type": "t",
        "frequency": "FREQUENCY_INTERVAL",
        "active": False,
        "delivery": "DELIVERY_METHOD_NONE",
        "search": "Night",
    }
    assert list(map(MessageToDict, scheduler.requests)) == [
        filtered,
        {**filtered, "pageToken": "next"},
        {"orgId": "acme", "pageSize": 7},
    ]

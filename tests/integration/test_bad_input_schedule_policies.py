"""Every wrong field of a schedule's policies is named, when it is created and when it is changed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.database import Database
from support.jobs_api import refused_fields
from support.scheduler_api import SchedulerApi, scheduling

RUN_ALL = schedule_pb2.CATCH_UP_POLICY_RUN_ALL
NO_DURATION = "has seconds and nanos that are no duration"
JITTER_RANGE = "must be 0 s to 1 day"
WINDOW_RANGE = "must be 1 s to 30 days"

CASES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("a negative jitter", {"jitter": timedelta(seconds=-1)}, {"jitter": JITTER_RANGE}),
    ("a long jitter", {"jitter": timedelta(days=1, seconds=1)}, {"jitter": JITTER_RANGE}),
    ("half a second", {"jitter": timedelta(seconds=1.5)}, {"jitter": "must be in whole seconds"}),
    ("no duration", {"jitter": Duration(seconds=2**62)}, {"jitter": NO_DURATION}),
    ("a strange overlap policy", {"overlap_policy": 9}, {"overlap_policy": "is 9, which is no such policy"}),
    (
        "a strange catch-up policy",
        {"catch_up_policy": -1},
        {"catch_up_policy": "is -1, which is no such policy"},
    ),
    ("no window", {"catch_up_policy": RUN_ALL}, {"catch_up_window": "is required with RUN_ALL"}),
    (
        "a window of no time",
        {"catch_up_policy": RUN_ALL, "catch_up_window": timedelta(0)},
        {"catch_up_window": WINDOW_RANGE},
    ),
    (
        "a long window",
        {"catch_up_policy": RUN_ALL, "catch_up_window": timedelta(days=30, seconds=1)},
        {"catch_up_window": WINDOW_RANGE},
    ),
    (
        "a window in parts of seconds",
        {"catch_up_policy": RUN_ALL, "catch_up_window": timedelta(seconds=1, microseconds=1)},
        {"catch_up_window": "must be in whole seconds"},
    ),
    *(
        (
            f"a window with {policy}",
            {"catch_up_policy": policy, "catch_up_window": timedelta(hours=1)},
            {"catch_up_window": "may be set with RUN_ALL only"},
        )
        for policy in (
            schedule_pb2.CATCH_UP_POLICY_UNSPECIFIED,
            schedule_pb2.CATCH_UP_POLICY_RUN_ONCE,
            schedule_pb2.CATCH_UP_POLICY_SKIP,
        )
    ),
    ("fewer runs than none", {"max_runs": -1}, {"max_runs": "must not be negative"}),
    *(
        (
            f"a pause after {count}",
            {"pause_after_failed_runs": count},
            {"pause_after_failed_runs": "must be 0 to 100"},
        )
        for count in (-1, 101)
    ),
    (
        "a delivery of no kind",
        {"delivery": schedule_pb2.Delivery(on_failure=True)},
        {"delivery": "needs one of download, webhook, email, storage"},
    ),
    (
        "a webhook to nowhere",
        {"delivery": schedule_pb2.Delivery(webhook=schedule_pb2.WebhookDelivery())},
        {"delivery.webhook.url": "is required", "delivery.webhook.secret": "is required"},
    ),
    (
        "several things at once",
        {"jitter": timedelta(days=2), "max_runs": -1, "pause_after_failed_runs": 101, "overlap_policy": 7},
        {
            "jitter": JITTER_RANGE,
            "max_runs": "must not be negative",
            "pause_after_failed_runs": "must be 0 to 100",
            "overlap_policy": "is 7, which is no such policy",
        },
    ),
]
"""What was asked for, and what is wrong with it."""


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


async def test_policies_that_no_schedule_can_have(api: SchedulerApi, database: Database) -> None:
    wrong = {}
    for name, fields, expected in CASES:
        if (found := await refused_fields(api.create(**fields))) != expected:
            wrong[name] = found
    assert wrong == {}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM scheduled_jobs") == 0


async def test_policies_that_no_schedule_can_be_given(api: SchedulerApi) -> None:
    schedule = await api.create()
    wrong = {}
    for name, fields, expected in CASES:
        found = await refused_fields(api.update(schedule.schedule_id, **fields))
        if found != {f"schedule.{field}": problem for field, problem in expected.items()}:
            wrong[name] = found
    assert wrong == {}
    assert await api.get(schedule.schedule_id) == schedule


async def test_the_ends_of_each_range(api: SchedulerApi) -> None:
    for window in (timedelta(seconds=1), timedelta(days=30)):
        schedule = await api.create(
            jitter=timedelta(days=1),
            catch_up_policy=RUN_ALL,
            catch_up_window=window,
            max_runs=2**31 - 1,
            pause_after_failed_runs=100,
        )
        assert schedule.catch_up_window.ToTimedelta() == window
        assert schedule.jitter.ToTimedelta() == timedelta(days=1)
        assert (schedule.max_runs, schedule.pause_after_failed_runs) == (2**31 - 1, 100)

"""The command's JSON has the contract's names and forms: each message is filled in everywhere and compared."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from millrace.files.v1 import file_pb2
from millrace.jobs.v1 import job_attempt_pb2, job_pb2, jobs_service_pb2, limits_pb2, subscription_pb2
from millrace.scheduler.v1 import (
    schedule_pb2,
    schedule_run_pb2,
    scheduler_service_pb2,
    system_schedule_pb2,
)
from millrace.worker.v1 import worker_pb2
from millrace_client.command.json_form import json_form
from millrace_client.command.output import Output
from millrace_client.delivery import read_delivery
from millrace_client.file import read_file
from millrace_client.job import read_details, read_job
from millrace_client.job_attempt import read_attempt
from millrace_client.job_options import Retention
from millrace_client.job_type import read_job_type
from millrace_client.limits import read_organisation
from millrace_client.queue_health import read_queue_health
from millrace_client.schedule import read_details as read_schedule_details
from millrace_client.schedule import read_schedule
from millrace_client.schedule_run import read_backfill, read_run
from millrace_client.subscription import read_subscription
from millrace_client.system_schedule import read_system_schedule
from millrace_client.worker import read_worker

INTEGERS = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64}
LONG_INTEGERS = {
    "totalItems",
    "processedItems",
    "sizeBytes",
    "jobsBefore",
    "ready",
    "scheduled",
    "held",
    "running",
    "liveRows",
    "deadRows",
    "transactionsBehind",
    "version",
    "firedCount",
    "missedCount",
    "skippedCount",
}


def fill(message: Message) -> Message:
    """Give every field a value of its own, so that none can be left out or mixed up unseen."""
    for field in message.DESCRIPTOR.fields:
        place = field.number
        if field.full_name == "millrace.scheduler.v1.Schedule.recurrence":
            message.recurrence.weekly.time_of_day = "09:30"  # type: ignore[attr-defined]
            message.recurrence.weekly.days.extend([1, 5])  # type: ignore[attr-defined]
        elif field.message_type is not None and field.is_repeated:
            fill_message(getattr(message, field.name).add(), place)
        elif field.message_type is not None:
            fill_message(getattr(message, field.name), place)
        elif field.is_repeated:
            getattr(message, field.name).extend([f"{field.name} a", f"{field.name} b"])
        else:
            setattr(message, field.name, scalar(field, place))
    return message


def fill_message(message: Any, place: int) -> None:
    match message.DESCRIPTOR.full_name:
        case "google.protobuf.Struct":
            message.update({"place": place, "nested": {"list": [1, 2.5, None, True]}})
        case "google.protobuf.Timestamp":
            message.FromJsonString(f"2026-11-24T09:30:{place:02}.{place:03}Z")
        case "google.protobuf.Duration":
            message.FromSeconds(3600 + place)
        case _:
            fill(message)


def scalar(field: Any, place: int) -> Any:
    if field.enum_type is not None:
        return 2
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return place + 0.5
    return place if field.type in INTEGERS else f"{field.name} {place}"


def with_numbers(form: Any) -> Any:
    """Turn 64-bit integers, which the Protobuf mapping writes as text, into numbers."""
    if isinstance(form, list):
        return [with_numbers(item) for item in form]
    if not isinstance(form, dict):
        return form
    return {
        name: int(value) if name in LONG_INTEGERS and isinstance(value, str) else with_numbers(value)
        for name, value in form.items()
    }


READ: list[tuple[Message, Callable[[Any], Any]]] = [
    (job_pb2.Job(), read_job),
    (job_pb2.JobType(), read_job_type),
    (job_attempt_pb2.JobAttempt(), read_attempt),
    (limits_pb2.Organisation(), read_organisation),
    (jobs_service_pb2.GetQueueHealthResponse(), read_queue_health),
    (file_pb2.File(), read_file),
    (schedule_pb2.Schedule(), read_schedule),
    (schedule_run_pb2.ScheduleRun(), read_run),
    (scheduler_service_pb2.BackfillScheduleResponse(), read_backfill),
    (subscription_pb2.Subscription(), read_subscription),
    (system_schedule_pb2.SystemSchedule(), read_system_schedule),
    (worker_pb2.Worker(), read_worker),
]
ALL_MESSAGES = pytest.mark.parametrize(
    ("message", "read"),
    READ,
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)


@ALL_MESSAGES
def test_every_field_has_its_contract_name_and_form(message: Message, read: Callable[[Any], Any]) -> None:
    fill(message)
    assert json_form(read(message)) == with_numbers(MessageToDict(message))


@ALL_MESSAGES
def test_people_read_the_words_of_tables_instead_of_the_contracts_names(
    message: Message, read: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(message)
    names = re.compile(
        r"\b(JOB_STATUS|FILE_STATE|BACKOFF|KEY_ORDER|[A-Z_]+_(STATE|POLICY|OUTCOME|CAUSE|STATES))_"
    )
    Output(as_json=False).show(read(message))
    assert not names.search(capsys.readouterr().out)


def test_what_only_the_answer_about_one_job_says_stands_beside_the_job() -> None:
    response = jobs_service_pb2.GetJobResponse()
    fill(response)
    form = json_form(read_details(response))
    expected = with_numbers(MessageToDict(response))
    assert form == expected["job"] | {
        "attemptCounts": expected["attemptCounts"],
        "waitingReason": expected["waitingReason"],
    }


def test_what_only_the_answer_about_one_schedule_says_stands_beside_the_schedule() -> None:
    response = scheduler_service_pb2.GetScheduleResponse()
    fill(response)
    form = json_form(read_schedule_details(response))
    expected = with_numbers(MessageToDict(response))
    assert form == expected["schedule"] | {
        "nextRunTimes": expected["nextRunTimes"],
        "lastRuns": expected["lastRuns"],
    }


@pytest.mark.parametrize("method", ["download", "webhook", "email", "storage"])
def test_each_way_of_delivery_has_the_form_of_the_contract(method: str) -> None:
    delivery = schedule_pb2.Delivery(on_failure=True)
    getattr(delivery, method).SetInParent()
    fill_message(getattr(delivery, method), 1)
    assert json_form(read_delivery(delivery)) == MessageToDict(delivery)


def test_a_long_time_keeps_all_its_digits() -> None:
    retention = Retention(
        timedelta(days=3650), timedelta(seconds=1234567.5), timedelta(milliseconds=1, microseconds=5)
    )
    assert json_form(retention) == {
        "completed": "315360000s",
        "failed": "1234567.500s",
        "cancelled": "0.001005s",
    }


def test_what_is_not_set_is_left_out() -> None:
    form = json_form(read_job(job_pb2.Job(status=job_pb2.JOB_STATUS_PENDING)))
    assert form["status"] == "JOB_STATUS_PENDING"
    assert form["progress"] == 0
    assert {"output", "error", "runAt", "completedAt"}.isdisjoint(form)

"""What callers of the Scheduler service may do who are not allowed everything."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database.database import Database
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller, Role
from millrace_runtime.struct_json import datetime_to_timestamp
from support.jobs_api import refusal
from support.scheduler_api import SchedulerApi, daily, scheduling, soon

ANN = Caller("ann", frozenset({"acme"}))
BOB = Caller("bob", frozenset({"other"}))


@pytest.fixture
async def api(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SchedulerApi]:
    """The service as Ann of "acme" finds it, who is neither a service nor an operator."""
    _become(monkeypatch, ANN)
    async with scheduling(database) as api:
        yield api


def _become(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: caller)


async def _code(call: Awaitable[Any]) -> grpc.StatusCode:
    return (await refusal(call)).code()


def _calls(api: SchedulerApi, org_id: str, schedule_id: str) -> dict[str, Awaitable[Any]]:
    """Every call there is that names an organisation."""
    s, key = api.schedules, {"org_id": org_id, "schedule_id": schedule_id}
    at = datetime_to_timestamp(soon(hours=-1))
    timing = scheduler_service_pb2.ScheduleTiming(recurrence=daily())
    return {
        "CreateSchedule": api.create(org_id=org_id),
        "GetSchedule": s.GetSchedule(scheduler_service_pb2.GetScheduleRequest(**key)),
        "UpdateSchedule": api.update(schedule_id, name="new", org_id=org_id),
        "ListSchedules": s.ListSchedules(scheduler_service_pb2.ListSchedulesRequest(org_id=org_id)),
        "DeleteSchedule": s.DeleteSchedule(scheduler_service_pb2.DeleteScheduleRequest(**key)),
        "PauseSchedule": s.PauseSchedule(scheduler_service_pb2.PauseScheduleRequest(**key)),
        "ResumeSchedule": s.ResumeSchedule(scheduler_service_pb2.ResumeScheduleRequest(**key)),
        "RunSchedule": s.RunSchedule(scheduler_service_pb2.RunScheduleRequest(**key)),
        "ListScheduleRuns": api.runs(schedule_id, org_id=org_id),
        "PreviewSchedule": api.preview(**key),
        "PreviewSchedule of no schedule": api.preview(org_id=org_id, timing=timing),
        "BackfillSchedule": s.BackfillSchedule(
            scheduler_service_pb2.BackfillScheduleRequest(**key, start_time=at, end_time=at)
        ),
    }


async def test_every_call_is_denied_in_another_organisation(
    api: SchedulerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = await api.create()
    _become(monkeypatch, BOB)

    calls = _calls(api, "acme", schedule.schedule_id)

    methods = {
        method.name
        for method in scheduler_service_pb2.DESCRIPTOR.services_by_name["SchedulerService"].methods
    }
    assert {name.split()[0] for name in calls} == methods - {"ListSystemSchedules", "RunSystemSchedule"}
    codes = {name: await _code(call) for name, call in calls.items()}
    assert codes == dict.fromkeys(calls, grpc.StatusCode.PERMISSION_DENIED)


async def test_a_schedule_is_not_found_in_an_organisation_that_is_not_its_own(
    api: SchedulerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = await api.create()
    _become(monkeypatch, BOB)

    calls = _calls(api, "other", schedule.schedule_id)

    without_schedule = ("CreateSchedule", "ListSchedules", "PreviewSchedule of no schedule")
    for name in without_schedule:
        await calls.pop(name)
    codes = {name: await _code(call) for name, call in calls.items()}
    assert codes == dict.fromkeys(calls, grpc.StatusCode.NOT_FOUND)
    _become(monkeypatch, ANN)
    assert await api.get(schedule.schedule_id) == schedule


async def test_only_a_service_names_another_creator(
    api: SchedulerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.create()).created_by == "ann"
    assert await _code(api.create(created_by="bob")) is grpc.StatusCode.PERMISSION_DENIED

    _become(monkeypatch, Caller("gateway", None, frozenset({Role.SERVICE})))

    assert (await api.create(created_by="bob")).created_by == "bob"


async def test_only_an_operator_lists_all_organisations(
    api: SchedulerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create()
    assert await _code(api.list_(org_id="-")) is grpc.StatusCode.PERMISSION_DENIED

    _become(monkeypatch, Caller("op", frozenset(), frozenset({Role.OPERATOR})))

    assert len(await api.list_(org_id="-")) == 1

"""`millrace schedules` and `millrace system-schedules`: what is sent, and what people and programs read."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.scheduler.v1 import schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from support.command_line import CommandLine
from support.scripted_scheduler import ScriptedScheduler, serving

MOMENT = datetime(2027, 3, 27, 8, 30, tzinfo=UTC)
RUN = {
    "scheduledTime": "2027-03-26T08:30:00Z",
    "cause": "RUN_CAUSE_SCHEDULE",
    "outcome": "RUN_OUTCOME_FIRED",
    "recordedAt": "2027-03-26T08:30:01Z",
    "jobId": "job_1",
    "jobStatus": "JOB_STATUS_FAILED",
    "jobError": {"code": "OUT_OF_STOCK", "message": "none left", "retryable": False},
    "reason": "",
}


@asynccontextmanager
async def millrace(scheduler: ScriptedScheduler) -> AsyncIterator[CommandLine]:
    async with serving(scheduler) as address:
        yield CommandLine({"MILLRACE_SCHEDULER_ADDRESS": address, "MILLRACE_ORG_ID": "acme", "TZ": "UTC"})


def message(kind: Any, fields: dict[str, Any]) -> Any:
    return ParseDict(fields, kind())


def timestamps(count: int) -> list[Timestamp]:
    moments = [Timestamp() for _ in range(count)]
    for day, moment in enumerate(moments):
        moment.FromDatetime(MOMENT + timedelta(days=day))
    return moments


async def test_all_that_a_schedule_may_ask_for_is_sent(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_1\n")
    scheduler = ScriptedScheduler(*[messages.CreateScheduleResponse()] * 4)
    async with millrace(scheduler) as command:
        await command.succeed(
            "schedules", "create", "Reports", "reports:generate", "--input", '{"a": 1}', "--monthly", "last fri 09:30",
            "--time-zone", "Europe/Oslo", "--jitter", "5m", "--overlap", "buffer-one", "--catch-up", "run-all",
            "--catch-up-window", "6h", "--max-runs", "10", "--pause-after-failed-runs", "3", "--webhook",
            "https://example.com/hook", "--webhook-secret", f"@{tmp_path}/secret", "--deliver-failures",
            "--request-id", "r1",
        )  # fmt: skip
        mail = ("--email", "a@b.c", "--email", "d@e.f", "--email-subject", "{{status}}", "--email-attach")
        for delivery in (mail, ("--store", "reports/{{file_name}}"), ("--download",)):
            await command.succeed("schedules", "create", "n", "t", "--every", "15m", *delivery)
    first, *others = map(MessageToDict, scheduler.requests)
    assert first == {
        "orgId": "acme",
        "name": "Reports",
        "type": "reports:generate",
        "input": {"a": 1},
        "recurrence": {"monthly": {"weekday": {"nth": -1, "day": "FRIDAY"}, "timeOfDay": "09:30"}},
        "timeZone": "Europe/Oslo",
        "jitter": "300s",
        "overlapPolicy": "OVERLAP_POLICY_BUFFER_ONE",
        "catchUpPolicy": "CATCH_UP_POLICY_RUN_ALL",
        "catchUpWindow": "21600s",
        "maxRuns": 10,
        "pauseAfterFailedRuns": 3,
        "delivery": {"webhook": {"url": "https://example.com/hook", "secret": "whsec_1"}, "onFailure": True},
        "requestId": "r1",
    }
    assert [request["delivery"] for request in others] == [
        {"email": {"to": ["a@b.c", "d@e.f"], "subject": "{{status}}", "attach": True}},
        {"storage": {"path": "reports/{{file_name}}"}},
        {"download": {}},
    ]


async def test_what_is_given_is_changed_and_the_rest_stays() -> None:
    changed = messages.UpdateScheduleResponse(
        schedule=schedule_pb2.Schedule(schedule_id="schedule_1", version=5)
    )
    scheduler = ScriptedScheduler(changed, changed, grpc.StatusCode.ABORTED)
    async with millrace(scheduler) as command:
        outcome = await command.succeed(
            "schedules", "update", "schedule_1", "--if-version", "4", "--name", "New", "--max-runs", "0", "--clear",
            "end-at", "--clear", "delivery", "--catch-up", "skip", "--json",
        )  # fmt: skip
        assert outcome.line["version"] == 5
        await command.succeed("schedules", "update", "schedule_1", "--daily", "09:30", "--type", "t")
        refused = await command.run("schedules", "update", "schedule_1", "--if-version", "4", "--name", "a")
    assert refused.code == 64 + grpc.StatusCode.ABORTED.value[0]
    assert refused.stderr == "error: ABORTED: as scripted\n"
    first, second, _ = scheduler.requests
    assert MessageToDict(first.schedule) == {
        "orgId": "acme",
        "scheduleId": "schedule_1",
        "name": "New",
        "version": "4",
        "catchUpPolicy": "CATCH_UP_POLICY_SKIP",
    }
    assert set(first.update_mask.paths) == {
        "name", "max_runs", "end_at", "delivery", "catch_up_policy", "catch_up_window",
    }  # fmt: skip
    assert list(second.update_mask.paths) == ["type", "recurrence"]
    assert second.schedule.recurrence.daily.time_of_day == "09:30"


async def test_the_filters_of_a_list_are_sent() -> None:
    scheduler = ScriptedScheduler(*[messages.ListSchedulesResponse()] * 2)
    async with millrace(scheduler) as command:
        await command.succeed(
            "schedules", "list", "--type", "t", "--frequency", "interval", "--inactive", "--delivery", "none", "--search",
            "Night",
        )  # fmt: skip
        await command.succeed("schedules", "list")
    assert list(map(MessageToDict, scheduler.requests)) == [
        {
            "orgId": "acme",
            "pageSize": 51,
            "type": "t",
            "frequency": "FREQUENCY_INTERVAL",
            "active": False,
            "delivery": "DELIVERY_METHOD_NONE",
            "search": "Night",
        },
        {"orgId": "acme", "pageSize": 51},
    ]


async def test_a_schedule_that_will_not_fire_says_so() -> None:
    paused = {"scheduleId": "schedule_1", "paused": True}
    ended = {"scheduleId": "schedule_2"}
    active = {"scheduleId": "schedule_3", "nextRunAt": "2027-03-27T08:30:00Z"}
    page = message(messages.ListSchedulesResponse, {"schedules": [paused, ended, active]})
    one = message(messages.GetScheduleResponse, {"schedule": ended})
    scheduler = ScriptedScheduler(page, one, one)
    async with millrace(scheduler) as command:
        rows = (await command.succeed("schedules", "list")).stdout.splitlines()[1:]
        shown = (await command.succeed("schedules", "show", "schedule_2")).stdout
        form = (await command.succeed("schedules", "show", "schedule_2", "--json")).line
    assert [row.split()[1:] for row in rows] == [["paused"], ["ended"], ["2027-03-27", "08:30:00"]]
    assert ["nextRunAt", "ended"] in map(str.split, shown.splitlines())
    assert "nextRunAt" not in form


async def test_times_without_an_offset_are_in_the_time_zone_that_is_given() -> None:
    answer = messages.PreviewScheduleResponse()
    scheduler = ScriptedScheduler(answer, messages.CreateScheduleResponse())
    zone = ("--time-zone", "America/New_York")
    async with millrace(scheduler) as command:
        await command.succeed(
            "schedules", "preview", "--daily", "09:30", *zone, "--after", "2027-03-20", "--end-at", "2027-03-29"
        )  # fmt: skip
        await command.succeed("schedules", "create", "n", "t", "--once", "2027-03-20T09:30", *zone)
    preview, create = map(MessageToDict, scheduler.requests)
    assert (preview["after"], preview["timing"]["endAt"]) == ("2027-03-20T04:00:00Z", "2027-03-29T04:00:00Z")
    assert create["recurrence"] == {"once": {"at": "2027-03-20T13:30:00Z"}}


async def test_a_schedule_is_shown_with_what_comes_and_what_was() -> None:
    response = message(
        messages.GetScheduleResponse,
        {
            "schedule": {"scheduleId": "schedule_1", "timeZone": "Europe/Oslo", "missedCount": 2},
            "nextRunTimes": ["2027-03-27T08:30:00Z", "2027-03-28T07:30:00Z"],
            "lastRuns": [RUN],
        },
    )
    scheduler = ScriptedScheduler(response, response)
    async with millrace(scheduler) as command:
        shown = (await command.succeed("schedules", "show", "schedule_1")).stdout
        form = (await command.succeed("schedules", "get", "schedule_1", "--json")).line
    details, times, runs = shown.split("\n\n")
    assert ["missedCount", "2"] in map(str.split, details.splitlines())
    assert "nextRunTimes" not in details
    assert times.splitlines() == [
        "next:",
        "Sat 2027-03-27 09:30:00+01:00 Europe/Oslo",
        "Sun 2027-03-28 09:30:00+02:00 Europe/Oslo",
    ]
    headings, run = runs.splitlines()
    assert headings.split("  ")[0] == "SCHEDULED"
    assert run.split() == [
        "2027-03-26", "08:30:00", "SCHEDULE", "FIRED", "job_1", "FAILED", "OUT_OF_STOCK:", "none", "left",
    ]  # fmt: skip
    assert form["nextRunTimes"] == ["2027-03-27T08:30:00Z", "2027-03-28T07:30:00Z"]
    assert form["lastRuns"] == [RUN]
    assert form["missedCount"] == 2


async def test_a_preview_is_in_the_time_zone_of_the_schedule() -> None:
    times = messages.PreviewScheduleResponse(run_times=timestamps(2))
    stored = messages.GetScheduleResponse(schedule=schedule_pb2.Schedule(time_zone="America/New_York"))
    nothing = messages.PreviewScheduleResponse()
    scheduler = ScriptedScheduler(times, stored, times, times, nothing)
    async with millrace(scheduler) as command:
        of_stored = await command.succeed("schedules", "preview", "schedule_1", "--count", "2")
        of_timing = await command.succeed(
            "schedules", "preview", "--daily", "09:30", "--time-zone", "Europe/Oslo", "--after",
            "2027-03-27T00:00Z", "--end-at", "2027-03-29T00:00Z",
        )  # fmt: skip
        in_json = await command.succeed("schedules", "preview", "schedule_1", "--json")
        ended = await command.succeed("schedules", "preview", "--once", "2020-01-01T00:00Z")
    assert of_stored.stdout.splitlines() == [
        "Sat 2027-03-27 04:30:00-04:00 America/New_York",
        "Sun 2027-03-28 04:30:00-04:00 America/New_York",
    ]
    assert of_timing.stdout.splitlines() == [
        "Sat 2027-03-27 09:30:00+01:00 Europe/Oslo",
        "Sun 2027-03-28 10:30:00+02:00 Europe/Oslo",
    ]
    assert in_json.line == {"runTimes": ["2027-03-27T08:30:00Z", "2027-03-28T08:30:00Z"]}
    assert ended.stdout == "it does not fire any more\n"
    previews = [
        request for request in scheduler.requests if isinstance(request, messages.PreviewScheduleRequest)
    ]
    assert list(map(MessageToDict, previews[:2])) == [
        {"orgId": "acme", "scheduleId": "schedule_1", "count": 2},
        {
            "orgId": "acme",
            "timing": {
                "recurrence": {"daily": {"timeOfDay": "09:30"}},
                "timeZone": "Europe/Oslo",
                "endAt": "2027-03-29T00:00:00Z",
            },
            "after": "2027-03-27T00:00:00Z",
            "count": 10,
        },
    ]


async def test_runs_are_listed_for_people_and_programs() -> None:
    skipped = {
        "scheduledTime": "2027-03-25T08:30:00Z",
        "outcome": "RUN_OUTCOME_SKIPPED",
        "reason": "it still runs",
    }
    page = message(messages.ListScheduleRunsResponse, {"runs": [RUN, skipped]})
    scheduler = ScriptedScheduler(page, page)
    async with millrace(scheduler) as command:
        table = (await command.succeed("schedules", "runs", "schedule_1", "--limit", "2")).stdout
        lines = (await command.succeed("schedules", "runs", "schedule_1", "--json")).lines
    assert "none left" in table
    assert table.splitlines()[2].endswith("it still runs")
    assert lines[0] == RUN
    assert (lines[1]["jobId"], "jobStatus" in lines[1]) == ("", False)
    assert [request.page_size for request in scheduler.requests] == [3, 51]


async def test_past_times_are_backfilled() -> None:
    done = message(messages.BackfillScheduleResponse, {"runs": [RUN, RUN], "createdCount": 1})
    scheduler = ScriptedScheduler(done, done)
    arguments = (
        "schedules",
        "backfill",
        "schedule_1",
        "--from",
        "2027-03-25T00:00Z",
        "--to",
        "2027-03-26T23:00Z",
    )
    async with millrace(scheduler) as command:
        for_people = (await command.succeed(*arguments)).stdout
        form = (await command.succeed(*arguments, "--json")).line
    assert for_people.splitlines()[-1] == "jobs created: 1; times that had one: 1"
    assert form == {"runs": [RUN, RUN], "createdCount": 1}
    assert MessageToDict(scheduler.requests[0]) == {
        "orgId": "acme",
        "scheduleId": "schedule_1",
        "startTime": "2027-03-25T00:00:00Z",
        "endTime": "2027-03-26T23:00:00Z",
    }


async def test_system_schedules_are_listed_and_run_without_an_organisation() -> None:
    listed = message(
        messages.ListSystemSchedulesResponse,
        {
            "systemSchedules": [
                {"type": "storage:cleanup", "cron": "@daily", "lastOutcome": "failed", "lastError": "full"}
            ]
        },
    )
    started = messages.RunSystemScheduleResponse(run_id="system_1")
    scheduler = ScriptedScheduler(listed, listed, started, started, grpc.StatusCode.FAILED_PRECONDITION)
    async with serving(scheduler) as address:
        command = CommandLine({"MILLRACE_SCHEDULER_ADDRESS": address})
        table = (await command.succeed("system-schedules", "list")).stdout
        form = (await command.succeed("system-schedules", "list", "--json")).line
        assert (await command.succeed("system-schedules", "run", "storage:cleanup")).stdout == "system_1\n"
        again = await command.succeed("system-schedules", "run", "storage:cleanup", "--json")
        assert json.loads(again.stdout) == {"runId": "system_1"}
        assert (await command.run("system-schedules", "run", "storage:cleanup")).code == 73
    assert table.splitlines()[1].split() == ["storage:cleanup", "@daily", "failed", "full"]
    assert (form["type"], form["lastOutcome"], "nextRunAt" in form) == ("storage:cleanup", "failed", False)
    assert scheduler.requests[2].type == "storage:cleanup"

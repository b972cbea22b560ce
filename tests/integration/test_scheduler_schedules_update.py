"""Schedules that are changed: which fields, who wins, and when they fire then."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id, parse_id
from millrace_runtime.struct_json import dict_to_struct, struct_to_dict
from support.jobs_api import TYPE, detail, refusal, refused_fields, status_of
from support.polling import eventually
from support.scheduler_api import (
    SchedulerApi,
    cron,
    daily,
    every,
    make_due,
    once,
    recording_jobs,
    scheduling,
    soon,
)

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def api(database: Database) -> AsyncIterator[SchedulerApi]:
    async with scheduling(database) as api:
        yield api


def webhook(url: str, secret: str = "") -> schedule_pb2.Delivery:
    return schedule_pb2.Delivery(webhook=schedule_pb2.WebhookDelivery(url=url, secret=secret))


async def test_a_schedule_with_every_policy_is_returned_whole(api: SchedulerApi) -> None:
    schedule = await api.create(
        jitter=timedelta(hours=1),
        overlap_policy=schedule_pb2.OVERLAP_POLICY_CANCEL_RUNNING,
        catch_up_policy=schedule_pb2.CATCH_UP_POLICY_RUN_ALL,
        catch_up_window=timedelta(days=30),
        max_runs=7,
        pause_after_failed_runs=3,
        delivery=webhook("https://example.com/hook", SECRET),
    )

    assert schedule.jitter.ToTimedelta() == timedelta(hours=1)
    assert schedule.overlap_policy == schedule_pb2.OVERLAP_POLICY_CANCEL_RUNNING
    assert schedule.catch_up_policy == schedule_pb2.CATCH_UP_POLICY_RUN_ALL
    assert schedule.catch_up_window.ToTimedelta() == timedelta(days=30)
    assert (schedule.max_runs, schedule.pause_after_failed_runs) == (7, 3)
    assert schedule.delivery == webhook("https://example.com/hook")
    assert schedule.version == 1
    assert (schedule.fired_count, schedule.missed_count, schedule.skipped_count) == (0, 0, 0)
    assert await api.get(schedule.schedule_id) == schedule


async def test_what_is_left_out_has_a_meaning(api: SchedulerApi) -> None:
    schedule = await api.create()

    assert schedule.overlap_policy == schedule_pb2.OVERLAP_POLICY_ALLOW
    assert schedule.catch_up_policy == schedule_pb2.CATCH_UP_POLICY_RUN_ONCE
    for field in ("jitter", "catch_up_window", "delivery"):
        assert not schedule.HasField(field)


async def test_only_the_fields_that_the_mask_names_are_written(api: SchedulerApi) -> None:
    before = await api.create(
        name="Old",
        metadata=dict_to_struct({"team": "sales"}),
        end_at=soon(days=9),
        jitter=timedelta(minutes=1),
    )
    request = scheduler_service_pb2.UpdateScheduleRequest(
        schedule=schedule_pb2.Schedule(
            org_id="acme",
            schedule_id=before.schedule_id,
            name="New",
            max_runs=5,
            input=dict_to_struct({"not": "named"}),
        )
    )
    request.update_mask.paths.extend(["name", "max_runs", "end_at"])

    after = (await api.schedules.UpdateSchedule(request)).schedule

    assert (after.name, after.max_runs) == ("New", 5)
    assert not after.HasField("end_at")
    assert struct_to_dict(after.metadata) == {"team": "sales"}
    assert struct_to_dict(after.input) == {}
    assert after.jitter == before.jitter
    assert after.version == before.version + 1
    assert after.updated_at.ToDatetime() > before.updated_at.ToDatetime()
    assert await api.get(before.schedule_id) == after


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "Other"}, "Other"),
        ({"type": TYPE, "input": dict_to_struct({"file_id": "f"})}, TYPE),
        ({"metadata": dict_to_struct({"a": 1})}, None),
        ({"recurrence": every(60)}, None),
        ({"time_zone": "Asia/Tokyo"}, None),
        ({"start_at": soon(days=1)}, None),
        ({"jitter": timedelta(seconds=30)}, None),
        ({"overlap_policy": schedule_pb2.OVERLAP_POLICY_SKIP}, None),
        (
            {"catch_up_policy": schedule_pb2.CATCH_UP_POLICY_RUN_ALL, "catch_up_window": timedelta(hours=1)},
            None,
        ),
        ({"pause_after_failed_runs": 100}, None),
        ({"delivery": schedule_pb2.Delivery(download=schedule_pb2.DownloadDelivery())}, None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
async def test_each_field_can_be_changed(
    api: SchedulerApi, fields: dict[str, Any], expected: str | None
) -> None:
    before = await api.create()

    after = await api.update(before.schedule_id, **fields)

    asked_for = schedule_pb2.Schedule(**fields)
    for field in fields:
        assert getattr(after, field) == getattr(asked_for, field)
        assert getattr(after, field) != getattr(before, field)
    assert await api.get(before.schedule_id) == after


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        ([], "is required"),
        (["created_by"], "'created_by' cannot be changed"),
        (["schedule_id"], "'schedule_id' cannot be changed"),
        (["paused"], "'paused' cannot be changed"),
        (["nothing"], "'nothing' is no field of a schedule, as a whole"),
        (["*"], "'*' is no field of a schedule, as a whole"),
        (["recurrence.cron"], "'recurrence.cron' is no field of a schedule, as a whole"),
    ],
)
async def test_masks_that_are_wrong(api: SchedulerApi, paths: list[str], problem: str) -> None:
    schedule = await api.create()

    assert await refused_fields(api.update(schedule.schedule_id, *paths)) == {"update_mask": problem}

    assert await api.get(schedule.schedule_id) == schedule


async def test_every_wrong_field_of_an_update_is_named(api: SchedulerApi) -> None:
    schedule = await api.create(start_at=soon(days=5))

    assert await refused_fields(
        api.update(
            schedule.schedule_id,
            "name",
            type="no:such",
            end_at=soon(days=1),
            recurrence=cron("61 * * * *"),
            max_runs=-1,
            catch_up_policy=schedule_pb2.CATCH_UP_POLICY_RUN_ALL,
        )
    ) == {
        "schedule.name": "is required",
        "schedule.type": "'no:such' is no job type that a worker has published",
        "schedule.end_at": "must not be before start_at",
        "schedule.recurrence.cron.expression": "minute: 61 is out of range 0-59 (at character 1)",
        "schedule.max_runs": "must not be negative",
        "schedule.catch_up_window": "is required with RUN_ALL",
    }
    assert await refused_fields(api.update(schedule.schedule_id, type=TYPE)) == {
        "schedule.input.file_id": "is required"
    }
    assert await refused_fields(api.update(schedule.schedule_id, recurrence=once(soon(days=1)))) == {
        "schedule.recurrence": "would never fire: it has no time left within start_at and end_at"
    }
    assert await api.get(schedule.schedule_id) == schedule


async def test_a_change_to_a_version_that_has_passed_is_aborted(api: SchedulerApi) -> None:
    first = await api.create()
    second = await api.update(first.schedule_id, name="second", version=first.version)

    error = await refusal(api.update(first.schedule_id, name="third", version=first.version))

    assert error.code() is grpc.StatusCode.ABORTED
    assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "SCHEDULE_CHANGED"
    assert await api.get(first.schedule_id) == second
    await api.pause(first.schedule_id)
    error = await refusal(api.update(first.schedule_id, name="third", version=second.version))
    assert error.code() is grpc.StatusCode.ABORTED


async def test_of_changes_at_once_to_one_version_one_wins(api: SchedulerApi) -> None:
    schedule = await api.create()

    answers = await asyncio.gather(
        *(
            api.update(schedule.schedule_id, name=f"n{number}", version=schedule.version)
            for number in range(8)
        ),
        return_exceptions=True,
    )

    won = [answer for answer in answers if isinstance(answer, schedule_pb2.Schedule)]
    lost = [answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert (len(won), lost) == (1, [grpc.StatusCode.ABORTED] * 7)
    assert await api.get(schedule.schedule_id) == won[0]


async def test_changes_at_once_of_different_fields_are_all_kept(api: SchedulerApi) -> None:
    schedule = await api.create()

    await asyncio.gather(
        api.update(schedule.schedule_id, name="new"),
        api.update(schedule.schedule_id, max_runs=3),
        api.update(schedule.schedule_id, metadata=dict_to_struct({"a": 1})),
        api.update(schedule.schedule_id, recurrence=every(60)),
    )

    after = await api.get(schedule.schedule_id)
    assert (after.name, after.max_runs, struct_to_dict(after.metadata)) == ("new", 3, {"a": 1})
    assert after.recurrence == every(60)
    assert after.version == schedule.version + 4


async def test_a_new_timing_counts_from_now_on(api: SchedulerApi, database: Database) -> None:
    schedule = await api.create(recurrence=daily("04:00"))
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE scheduled_jobs SET paused = true, next_run_at = now() - interval '1 h', "
            "reserved_until = now() + interval '1 h'"
        )

    after = await api.update(schedule.schedule_id, recurrence=cron("0 * * * *"))

    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT next_run_at > now() AS ahead, reserved_until FROM scheduled_jobs"
        )
    assert row is not None
    assert (row["ahead"], row["reserved_until"]) == (True, None)
    assert after.paused
    assert (await api.resume(schedule.schedule_id)).next_run_at.ToDatetime().minute == 0


async def test_a_change_of_other_fields_does_not_move_the_next_time(
    api: SchedulerApi, database: Database
) -> None:
    schedule = await api.create(recurrence=every(3600), jitter=timedelta(minutes=30))

    after = await api.update(
        schedule.schedule_id, name="new", overlap_policy=schedule_pb2.OVERLAP_POLICY_SKIP
    )

    assert after.next_run_at == schedule.next_run_at
    assert await api.preview(schedule_id=schedule.schedule_id, count=1) == [
        schedule.next_run_at.ToDatetime(UTC)
    ]


async def test_a_firing_that_is_under_way_does_not_undo_a_new_timing(database: Database) -> None:
    async with recording_jobs() as jobs, scheduling(database, jobs.address) as api:
        schedule = await api.create(recurrence=cron("0 0 * * *"))
        await make_due(database, schedule.schedule_id)
        await jobs.asked.wait()

        changed = await api.update(schedule.schedule_id, recurrence=cron("0 12 * * *"))
        jobs.may_answer.set()

        (run,) = await eventually(lambda: api.runs(schedule.schedule_id))
        assert run.job_id in {format_id("job", job_id) for job_id in jobs.jobs.values()}
        after = await api.get(schedule.schedule_id)
        assert after.next_run_at == changed.next_run_at
        assert after.next_run_at.ToDatetime().hour == 12
        assert len(jobs.jobs) == 1


async def test_a_deletion_while_it_fires_keeps_the_run(database: Database) -> None:
    async with recording_jobs() as jobs, scheduling(database, jobs.address) as api:
        schedule = await api.create(recurrence=cron("0 0 * * *"))
        await make_due(database, schedule.schedule_id)
        await jobs.asked.wait()

        await api.delete(schedule.schedule_id)
        jobs.may_answer.set()

        await eventually(lambda: api.runs(schedule.schedule_id))
        assert (await refusal(api.get(schedule.schedule_id))).code() is grpc.StatusCode.NOT_FOUND
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT next_run_at IS NULL AND paused FROM scheduled_jobs")


async def test_a_new_jitter_holds_for_the_next_time(api: SchedulerApi) -> None:
    at = soon(days=1)
    schedule = await api.create(recurrence=once(at), jitter=timedelta(hours=1))
    assert timedelta(0) <= schedule.next_run_at.ToDatetime(UTC) - at < timedelta(hours=1)

    without = await api.update(schedule.schedule_id, jitter=timedelta(0))

    assert without.next_run_at.ToDatetime(UTC) == at
    again = await api.update(schedule.schedule_id, jitter=timedelta(hours=1))
    assert again.next_run_at == schedule.next_run_at


async def test_the_number_of_firings_ends_a_schedule_and_revives_it(
    api: SchedulerApi, database: Database
) -> None:
    schedule = await api.create(recurrence=every(3600))
    async with database.connection() as connection:
        await connection.execute("UPDATE scheduled_jobs SET fired_count = 4")

    assert not (await api.update(schedule.schedule_id, max_runs=4)).HasField("next_run_at")
    assert (await api.get_all(schedule.schedule_id)).next_run_times == []
    error = await refusal(api.resume(schedule.schedule_id))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert str(error.details()).endswith("has no firing left: max_runs is 4, and it has fired 4 times")

    revived = await api.update(schedule.schedule_id, max_runs=6)

    assert revived.next_run_at == schedule.next_run_at
    assert len((await api.get_all(schedule.schedule_id)).next_run_times) == 2


async def test_a_webhook_keeps_its_secret_while_its_url_stays(api: SchedulerApi, database: Database) -> None:
    schedule = await api.create(delivery=webhook("https://example.com/a", SECRET))

    changed = webhook("https://example.com/a")
    changed.on_failure = True
    after = await api.update(schedule.schedule_id, delivery=changed)

    assert after.delivery == changed
    async with database.connection() as connection:
        stored = await connection.fetchval("SELECT delivery -> 'webhook' ->> 'secret' FROM scheduled_jobs")
    assert stored == SECRET
    assert await refused_fields(
        api.update(schedule.schedule_id, delivery=webhook("https://example.com/b"))
    ) == {"schedule.delivery.webhook.secret": "is required"}


async def test_a_damaged_schedule_is_shown_and_can_be_mended(api: SchedulerApi, database: Database) -> None:
    whole, damaged = await api.create(), await api.create(name="damaged")
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE scheduled_jobs SET recurrence = '{\"hourly\": 7}' WHERE schedule_id = $1",
            parse_id("schedule", damaged.schedule_id),
        )

    listed = await api.list_()

    assert [schedule.schedule_id for schedule in listed] == [damaged.schedule_id, whole.schedule_id]
    assert listed[0].recurrence == schedule_pb2.Recurrence()
    assert (await api.get_all(damaged.schedule_id)).next_run_times == []
    for call in (
        api.preview(schedule_id=damaged.schedule_id),
        api.update(damaged.schedule_id, time_zone="Asia/Tokyo"),
    ):
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "SCHEDULE_UNREADABLE"
    assert (await api.update(damaged.schedule_id, name="still damaged")).name == "still damaged"
    mended = await api.update(damaged.schedule_id, recurrence=daily())
    assert mended.next_run_at == whole.next_run_at


async def test_what_is_not_there_cannot_be_changed(api: SchedulerApi) -> None:
    schedule = await api.create()

    for call in (
        api.update("schedule_" + "0" * 32, name="new"),
        api.update(schedule.schedule_id, name="new", org_id="other"),
    ):
        assert (await refusal(call)).code() is grpc.StatusCode.NOT_FOUND
    assert await refused_fields(api.update("x", name="new", org_id="")) == {
        "schedule.org_id": "is required",
        "schedule.schedule_id": 'must be "schedule_" and 32 hexadecimal digits',
    }
    await api.delete(schedule.schedule_id)
    assert (await refusal(api.update(schedule.schedule_id, name="new"))).code() is grpc.StatusCode.NOT_FOUND

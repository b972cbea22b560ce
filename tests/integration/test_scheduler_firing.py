"""Schedules fire: on time, once, whatever happens to schedulers, the Jobs service and the schedules."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_jobs.service import definition as jobs_definition
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from millrace_runtime.struct_json import dict_to_struct
from millrace_scheduler.service import definition as scheduler_definition
from support.database_proxy import proxied
from support.due_schedules import firing_alone
from support.jobs_api import ANY_TYPE, TYPE, publish, serving
from support.polling import eventually
from support.processes import free_port, set_dead_proxy
from support.scheduler_api import (
    RecordingJobs,
    SchedulerApi,
    cron,
    every,
    jobs_of,
    make_due,
    once,
    recording_jobs,
    scheduling,
    scheduling_with_jobs,
    soon,
    store_due_schedule,
)

Condition = Callable[[], Awaitable[Any]]


def _fired_for(api: SchedulerApi, schedule_id: str, elapsed: timedelta) -> Condition:
    async def condition() -> schedule_pb2.Schedule | None:
        schedule = await api.get(schedule_id)
        reached = schedule.last_run_at.ToDatetime() - schedule.created_at.ToDatetime() >= elapsed
        return schedule if reached else None

    return condition


def _fired(api: SchedulerApi, schedule_id: str) -> Condition:
    async def condition() -> schedule_pb2.Schedule | None:
        schedule = await api.get(schedule_id)
        return schedule if schedule.last_job_id else None

    return condition


async def test_an_interval_makes_one_job_for_each_of_its_times(database: Database, tmp_path: Path) -> None:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), jobs):
        schedule = await api.create(
            type=TYPE,
            input=dict_to_struct({"file_id": "file_1"}),
            metadata=dict_to_struct({"team": "sales"}),
            recurrence=every(1),
            created_by="user_7",
        )
        fired = await eventually(_fired_for(api, schedule.schedule_id, timedelta(seconds=3)))
        rows = await jobs_of(database, schedule.schedule_id)
        last = await jobs.get(fired.last_job_id)

    created_at = schedule.created_at.ToDatetime(UTC)
    times = [datetime.fromisoformat(row["scheduled_time"]) for row in rows]
    assert times == [created_at + timedelta(seconds=number) for number in range(1, len(rows) + 1)]
    for row, time in zip(rows, times, strict=True):
        assert timedelta(0) <= row["created_at"] - time < timedelta(seconds=1)
    assert (last.type, last.created_by, last.schedule_id) == (TYPE, "user_7", schedule.schedule_id)
    assert last.input["file_id"] == "file_1"
    assert last.metadata["team"] == "sales"
    assert fired.next_run_at.ToDatetime() - fired.last_run_at.ToDatetime() == timedelta(seconds=1)


async def test_a_schedule_that_fires_once_ends(database: Database, tmp_path: Path) -> None:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), _):
        at = soon(seconds=2)
        schedule = await api.create(recurrence=once(at))
        fired = await eventually(_fired(api, schedule.schedule_id))
        (row,) = await jobs_of(database, schedule.schedule_id)

    assert not fired.HasField("next_run_at")
    assert fired.last_run_at.ToDatetime(UTC) == at
    assert fired.last_job_id == format_id("job", row["job_id"])
    assert row["created_at"] - at < timedelta(seconds=1)


async def test_what_was_missed_is_made_up_for_once(database: Database, tmp_path: Path) -> None:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), _):
        schedule = await api.create(recurrence=every(3600))
        await make_due(database, schedule.schedule_id, ago=timedelta(days=2))
        fired = await eventually(_fired(api, schedule.schedule_id))
        rows = await jobs_of(database, schedule.schedule_id)

    missed = datetime.fromisoformat(rows[0]["scheduled_time"])
    assert len(rows) == 1
    assert fired.last_run_at.ToDatetime(UTC) == missed
    assert fired.next_run_at == schedule.next_run_at


async def test_a_paused_schedule_does_not_fire_and_makes_up_for_nothing(
    database: Database, tmp_path: Path
) -> None:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), _):
        paused = await api.create(recurrence=every(3600))
        other = await api.create(recurrence=every(3600))
        await api.pause(paused.schedule_id)
        await make_due(database, paused.schedule_id, ago=timedelta(hours=3))
        await make_due(database, other.schedule_id)
        await eventually(_fired(api, other.schedule_id))
        assert await jobs_of(database, paused.schedule_id) == []

        resumed = await api.resume(paused.schedule_id)
        assert resumed.next_run_at == paused.next_run_at
        await make_due(database, other.schedule_id)
        assert await jobs_of(database, paused.schedule_id) == []


async def test_several_schedulers_make_each_job_once(database: Database, tmp_path: Path) -> None:
    async with scheduling_with_jobs(database, tmp_path, schedulers=3) as (apis, _):
        at = soon(seconds=3)
        created = await asyncio.gather(
            *(apis[number % 3].create(recurrence=once(at), name=str(number)) for number in range(100))
        )
        for schedule in created:
            await eventually(_fired(apis[0], schedule.schedule_id))

    async with database.connection() as connection:
        rows = await connection.fetch("SELECT schedule_id, count(*) FROM jobs GROUP BY schedule_id")
    assert {format_id("schedule", row["schedule_id"]): row["count"] for row in rows} == {
        schedule.schedule_id: 1 for schedule in created
    }


async def test_other_schedulers_are_told_of_a_new_schedule(database: Database) -> None:
    told = asyncio.Event()
    connection = await database.direct_connection()
    await connection.add_listener("millrace_schedules_changed", lambda *_: told.set())
    async with scheduling(database) as api, asyncio.timeout(10):
        schedule = await api.create()
        await told.wait()
        told.clear()
        await api.pause(schedule.schedule_id)
        await api.resume(schedule.schedule_id)
        await told.wait()
    await connection.close()


async def test_a_scheduler_that_is_too_late_changes_nothing(database: Database) -> None:
    async with recording_jobs() as jobs, scheduling(database, jobs.address) as api:
        schedule = await api.create(recurrence=cron("0 0 1 1 *"))
        await make_due(database, schedule.schedule_id)
        await jobs.asked.wait()
        # The first scheduler hangs, or has died: its reservation ends, and another fires the same time.
        await _execute(database, "UPDATE scheduled_jobs SET reserved_until = now()")
        async with firing_alone(database, jobs.address):
            await eventually(_asked(jobs, times=2))
            jobs.may_answer.set()
            fired = await eventually(_fired(api, schedule.schedule_id))

        assert await api.get(schedule.schedule_id) == fired
        assert jobs.requests[0] == jobs.requests[1]
        (job_id,) = jobs.jobs.values()
        assert fired.last_job_id == format_id("job", job_id)
        assert fired.next_run_at == schedule.next_run_at


async def test_a_job_that_was_created_but_not_recorded_is_found_again(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due_schedule(database)
        before = await _stored(database, schedule_id)
        async with firing_alone(database, jobs.address):
            await eventually(_moved(database, schedule_id))
        first = await _stored(database, schedule_id)
        # As it was when its scheduler died between the two steps.
        await _execute(
            database,
            "UPDATE scheduled_jobs SET last_job_id = NULL, next_run_at = last_run_at, fired_count = 0",
        )
        await _execute(database, "DELETE FROM schedule_runs")
        async with firing_alone(database, jobs.address):
            await eventually(_moved(database, schedule_id))

    assert await _stored(database, schedule_id) == first
    assert first["last_run_at"] == before["next_run_at"]
    assert len(await jobs_of(database, format_id("schedule", schedule_id))) == 1


async def test_no_transaction_is_open_while_the_jobs_service_is_asked(database: Database) -> None:
    async with recording_jobs() as jobs:
        await store_due_schedule(database)
        async with firing_alone(database, jobs.address):
            await jobs.asked.wait()
            async with database.connection() as connection:
                assert not await connection.fetch(
                    "SELECT * FROM pg_stat_activity "
                    "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
                )


async def test_a_stopping_scheduler_finishes_the_firing_in_hand(database: Database) -> None:
    async with recording_jobs() as jobs:
        schedule_id = await store_due_schedule(database)
        async with scheduling(database, jobs.address):
            await jobs.asked.wait()
            asyncio.get_running_loop().call_later(0.3, jobs.may_answer.set)
        row = await _stored(database, schedule_id)

    assert [row["last_job_id"]] == list(jobs.jobs.values())
    assert row["reserved_until"] is None


async def test_no_firing_is_lost_while_the_jobs_service_is_away(database: Database, tmp_path: Path) -> None:
    port = free_port()
    await publish(database, ANY_TYPE, {"type": "object"})
    schedule_id = await store_due_schedule(database)
    due_at = (await _stored(database, schedule_id))["next_run_at"]
    async with firing_alone(database, f"127.0.0.1:{port}"):
        await eventually(_reserved(database, schedule_id))
        settings = Settings(jobs_port=port, files_port=0, data_dir=tmp_path)
        async with running(jobs_definition, settings, database):
            await eventually(_moved(database, schedule_id), within=30)

    row = await _stored(database, schedule_id)
    assert row["last_run_at"] == due_at
    assert row["consecutive_failures"] == 0
    (job,) = await jobs_of(database, format_id("schedule", schedule_id))
    assert job["job_id"] == row["last_job_id"]


async def test_a_firing_outlives_an_outage_of_the_database(database: Database) -> None:
    async with recording_jobs() as jobs, proxied(database.url) as (way, url):
        schedule_id = await store_due_schedule(database)
        flaky = await Database.open(url, application_name="test")
        with capture_logs() as logs:
            async with firing_alone(flaky, jobs.address):
                await jobs.asked.wait()
                await way.cut()
                # The job exists now, and that cannot be recorded.
                jobs.may_answer.set()
                await eventually(_logged(logs, "firing is left for later"))
                assert (await _stored(database, schedule_id))["last_job_id"] is None
                await _execute(database, "UPDATE scheduled_jobs SET reserved_until = now()")
                await way.connect()
                await eventually(_moved(database, schedule_id))
        await flaky.close()

    assert [(await _stored(database, schedule_id))["last_job_id"]] == list(jobs.jobs.values())
    assert len(jobs.requests) == 2


async def test_five_refusals_in_a_row_pause_a_schedule(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        await publish(database, ANY_TYPE, {"type": "object", "required": ["dataset"]})
        schedule_id = await store_due_schedule(database)
        due_at = (await _stored(database, schedule_id))["next_run_at"]
        async with firing_alone(database, jobs.address):
            await eventually(_paused(database, schedule_id))

    row = await _stored(database, schedule_id)
    assert row["consecutive_failures"] == 5
    assert row["pause_reason"] == ("no job could be created, 5 times in a row: input.dataset: is required")
    assert (row["next_run_at"], row["last_job_id"]) == (due_at, None)
    async with scheduling(database, jobs.address) as api:
        resumed = await api.resume(format_id("schedule", schedule_id))
    assert (resumed.consecutive_failures, resumed.pause_reason) == (0, "")
    assert await jobs_of(database, format_id("schedule", schedule_id)) == []


async def test_a_success_ends_the_row_of_refusals(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due_schedule(database)
        await _execute(database, "UPDATE scheduled_jobs SET consecutive_failures = 4")
        async with firing_alone(database, jobs.address):
            await eventually(_moved(database, schedule_id))

    row = await _stored(database, schedule_id)
    assert (row["consecutive_failures"], row["paused"]) == (0, False)


@pytest.mark.parametrize(
    ("recurrence", "time_zone"),
    [
        ('{"cron": {"expression": "x"}}', "UTC"),
        ('{"later": {}}', "UTC"),
        ('{"interval": {"every": "60s"}}', "Gone/City"),
    ],
)
async def test_a_damaged_schedule_fails_alone(
    database: Database, tmp_path: Path, recurrence: str, time_zone: str
) -> None:
    async with serving(database, tmp_path) as jobs:
        damaged = await store_due_schedule(database)
        await _execute(
            database,
            "UPDATE scheduled_jobs SET recurrence = $1::text::jsonb, time_zone = $2",
            recurrence,
            time_zone,
        )
        sound = await store_due_schedule(database)
        async with firing_alone(database, jobs.address):
            await eventually(_moved(database, sound))
            await eventually(_paused(database, damaged))

    row = await _stored(database, damaged)
    assert row["pause_reason"].endswith(": the stored schedule cannot be used")
    assert await jobs_of(database, format_id("schedule", damaged)) == []


def _asked(jobs: RecordingJobs, *, times: int) -> Condition:
    async def condition() -> bool:
        return len(jobs.requests) >= times

    return condition


def _logged(logs: Sequence[Mapping[str, Any]], event: str) -> Condition:
    async def condition() -> bool:
        return any(entry["event"] == event for entry in logs)

    return condition


def _moved(database: Database, schedule_id: UUID) -> Condition:
    async def condition() -> bool:
        return (await _stored(database, schedule_id))["last_job_id"] is not None

    return condition


def _paused(database: Database, schedule_id: UUID) -> Condition:
    async def condition() -> bool:
        return bool((await _stored(database, schedule_id))["paused"])

    return condition


def _reserved(database: Database, schedule_id: UUID) -> Condition:
    async def condition() -> bool:
        return (await _stored(database, schedule_id))["reserved_until"] is not None

    return condition


async def _stored(database: Database, schedule_id: UUID) -> dict[str, Any]:
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM scheduled_jobs WHERE schedule_id = $1", schedule_id)
    assert row is not None
    return dict(row)


async def _execute(database: Database, statement: str, *values: object) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, *values)


async def test_the_jobs_service_is_called_past_the_proxy_of_the_environment(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = await store_due_schedule(database)
    async with recording_jobs() as jobs:
        jobs.may_answer.set()
        set_dead_proxy(monkeypatch)
        async with running(
            scheduler_definition, Settings(scheduler_port=0, jobs_address=jobs.address), database
        ):
            async with asyncio.timeout(8):
                await jobs.asked.wait()
    assert [request.schedule_id for request in jobs.requests] == [format_id("schedule", schedule_id)]

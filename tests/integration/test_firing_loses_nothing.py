"""No time and no job of a schedule is lost to other schedules, to a change, or to a job that is refused."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from millrace_database.database import Database
from millrace_database.firing_repository import Outcome, pause_failed, record_outcomes
from millrace_database.ids import format_id, new_id
from millrace_database.job_lifecycle import JobFailure, fail_jobs
from millrace_database.schedules_repository import ScheduleRecord, get_schedule
from millrace_scheduler.failed_runs import FailedRunsWatch
from millrace_scheduler.fire_times import stored_fire
from millrace_scheduler.firing import Firing
from millrace_scheduler.jobs_client import JobsClient
from millrace_scheduler.stored_schedules import timing_of
from support.due_schedules import Condition, at_rest, execute, firing_alone, runs_of, store_due, stored
from support.jobs_api import claim, serving, start_worker
from support.polling import eventually
from support.scheduler_api import jobs_of, scheduling_with_jobs

_COPY = """
INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, next_run_at)
SELECT gen_random_uuid(), org_id, name, type, recurrence, time_zone, next_run_at - n * interval '1 second'
FROM scheduled_jobs, generate_series(1, $2::integer) AS n
WHERE schedule_id = $1
"""


class _SlowJobs:
    """Creates jobs, each when it is let."""

    def __init__(self) -> None:
        self.organisations: list[str] = []
        self.may_answer = asyncio.Semaphore(0)

    async def create_job(self, schedule: ScheduleRecord, **_: Any) -> UUID:
        self.organisations.append(schedule.org_id)
        await self.may_answer.acquire()
        return new_id()


def _asked(jobs: _SlowJobs, *, times: int) -> Condition:
    async def condition() -> bool:
        return len(jobs.organisations) >= times

    return condition


async def test_the_next_free_place_is_that_of_an_organisation_without_one(database: Database) -> None:
    many = await store_due(database, ago=timedelta(hours=1))
    await execute(database, _COPY, many, 600)
    jobs = _SlowJobs()
    async with asyncio.TaskGroup() as loops:
        firing = Firing(database, cast("JobsClient", jobs))
        loops.create_task(firing.run())
        await eventually(_asked(jobs, times=256))
        await store_due(database, org_id="other")
        jobs.may_answer.release()
        await eventually(_asked(jobs, times=257))
        assert jobs.organisations == ["acme"] * 256 + ["other"]
        for _ in range(1000):
            jobs.may_answer.release()
        await firing.drain()


async def test_a_time_that_waits_for_its_jitter_is_fired_when_the_jitter_is_taken_away(
    database: Database, tmp_path: Path
) -> None:
    async with scheduling_with_jobs(database, tmp_path) as ((api,), _):
        schedule_id = await store_due(
            database, ago=timedelta(hours=-1), jitter_seconds=86400, catch_up_policy="skip"
        )
        await execute(
            database,
            "UPDATE scheduled_jobs SET start_at = now() - interval '1 hour', "
            "next_scheduled_time = now() - interval '1 hour'",
        )
        time = (await stored(database, schedule_id))["next_scheduled_time"]
        await api.update(format_id("schedule", schedule_id), jitter=timedelta(0))
        first, *_ = await eventually(lambda: runs_of(database, schedule_id))

    assert (first["scheduled_time"], first["outcome"]) == (time, "fired")


async def test_a_firing_that_began_with_a_longer_jitter_leaves_a_time_that_can_be_read(
    database: Database,
) -> None:
    schedule_id = await store_due(database, jitter_seconds=10)
    due_at = (await stored(database, schedule_id))["next_run_at"]
    following = due_at + timedelta(minutes=1)
    outcome = Outcome(
        schedule_id,
        due_at,
        due_at,
        "fired",
        job_id=new_id(),
        upcoming_at=following + timedelta(seconds=15),
        upcoming_scheduled=following,
    )
    async with database.connection() as connection:
        await record_outcomes(connection, [outcome], pause_after=5)
        record = await get_schedule(connection, None, schedule_id)

    assert record is not None
    assert record.next_run_at is not None
    fire = stored_fire(timing_of(record), record.next_run_at, record.next_scheduled_time)
    assert fire.scheduled == following


async def test_what_a_sweep_has_just_paused_is_not_fired(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, pause_after_failed_runs=1)
        worker_id = await start_worker(database)
        async with firing_alone(database, jobs.address):
            await eventually(at_rest(database, schedule_id))
        job = await claim(database, worker_id)
    async with database.transaction() as connection:
        await fail_jobs(connection, [JobFailure(job.lease, None, "BROKEN", "no disk", retryable=False)])

    # A scheduler has reserved it, and not looked at its jobs yet.
    await FailedRunsWatch(database).sweep()
    assert (await stored(database, schedule_id))["paused"]
    async with database.connection() as connection:
        assert await pause_failed(connection, [schedule_id]) == {schedule_id}


async def test_a_job_is_not_cancelled_for_one_that_is_refused(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, overlap_policy="cancel_running")
        worker_id = await start_worker(database)
        async with firing_alone(database, jobs.address):
            await eventually(at_rest(database, schedule_id))
        await claim(database, worker_id)
        await execute(
            database, "UPDATE scheduled_jobs SET type = 'notes:gone', start_at = now(), next_run_at = now()"
        )

        async def paused() -> bool:
            return bool((await stored(database, schedule_id))["paused"])

        async with firing_alone(database, jobs.address):
            await eventually(paused)
        (job,) = await jobs_of(database, format_id("schedule", schedule_id))

    assert job["status"] == "processing"

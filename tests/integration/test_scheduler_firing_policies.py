"""What becomes of times that were missed, that overlap, that are too many, or whose jobs fail."""

import asyncio
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_lifecycle import ClaimedJob, JobFailure, complete_jobs, fail_jobs
from millrace_scheduler.failed_runs import FailedRunsWatch
from support.due_schedules import at_rest, execute, firing_alone, runs_of, store_due, stored
from support.jobs_api import ANY_TYPE, JobsApi, claim, publish, serving, start_worker
from support.polling import eventually
from support.scheduler_api import cron, every, jobs_of, once, recording_jobs

TEN_MINUTES = timedelta(minutes=10)
MINUTE = timedelta(minutes=1)


async def _fire(database: Database, jobs: JobsApi, schedule_id: UUID) -> dict[str, Any]:
    """Let a scheduler run until nothing is to be done for a schedule, and return its row."""
    async with firing_alone(database, jobs.address):
        await eventually(at_rest(database, schedule_id))
    return await stored(database, schedule_id)


async def _make_due(database: Database, schedule_id: UUID) -> None:
    await execute(
        database,
        "UPDATE scheduled_jobs SET start_at = now(), next_run_at = now() WHERE schedule_id = $1",
        schedule_id,
    )


async def _outcomes(database: Database, schedule_id: UUID) -> Counter[str]:
    return Counter(run["outcome"] for run in await runs_of(database, schedule_id))


async def _fail(database: Database, job: ClaimedJob) -> None:
    async with database.transaction() as connection:
        await fail_jobs(connection, [JobFailure(job.lease, None, "BROKEN", "no disk", retryable=False)])


async def test_after_an_outage_the_first_missed_time_is_fired_and_the_others_are_not(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, ago=TEN_MINUTES)
        first = (await stored(database, schedule_id))["next_run_at"]
        row = await _fire(database, jobs, schedule_id)

    runs = await runs_of(database, schedule_id)
    assert [(run["scheduled_time"], run["outcome"]) for run in runs] == [
        (first, "fired"),
        *((first + number * MINUTE, "missed") for number in range(1, 11)),
    ]
    assert (row["fired_count"], row["missed_count"], row["last_run_at"]) == (1, 10, first)
    assert row["next_run_at"] == first + 11 * MINUTE
    assert runs[0]["job_id"] == row["last_job_id"]


async def test_of_many_missed_times_all_are_counted_and_ten_are_listed(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as jobs:
        seconds = await store_due(database, ago=timedelta(days=3), recurrence=every(1))
        minutes = await store_due(database, ago=timedelta(days=3), recurrence=cron("* * * * *"))
        first = (await stored(database, seconds))["next_run_at"]
        await _fire(database, jobs, minutes)
        row = await stored(database, seconds)

    assert await _outcomes(database, seconds) >= Counter(fired=1, missed=10)
    assert await _outcomes(database, minutes) == Counter(fired=1, missed=10)
    assert row["missed_count"] >= 3 * 86400
    assert row["missed_count"] + row["fired_count"] == (row["next_run_at"] - first).total_seconds()
    assert (await stored(database, minutes))["missed_count"] in (3 * 1440 - 1, 3 * 1440)


async def test_all_times_within_the_window_are_made_up_for(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(
            database,
            ago=TEN_MINUTES + timedelta(seconds=20),
            catch_up_policy="run_all",
            catch_up_seconds=300,
        )
        first = (await stored(database, schedule_id))["next_run_at"]
        row = await _fire(database, jobs, schedule_id)

    # Those of the last 5 minutes are the latest five.
    outcomes = [run["outcome"] for run in await runs_of(database, schedule_id)]
    assert outcomes == ["missed"] * 6 + ["fired"] * 5
    assert (row["fired_count"], row["missed_count"]) == (5, 6)
    assert row["next_run_at"] == first + 11 * MINUTE
    times = [job["scheduled_time"] for job in await jobs_of(database, format_id("schedule", schedule_id))]
    assert times == [(first + number * MINUTE).isoformat().replace("+00:00", "Z") for number in range(6, 11)]


async def test_no_more_than_a_thousand_times_are_made_up_for(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(
            database,
            ago=timedelta(minutes=1500, seconds=20),
            catch_up_policy="run_all",
            catch_up_seconds=30 * 86400,
        )
        async with firing_alone(database, jobs.address):
            await eventually(at_rest(database, schedule_id), within=60)
        row = await stored(database, schedule_id)

    assert (row["fired_count"], row["missed_count"]) == (1000, 501)


async def test_what_is_late_is_skipped(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        late = await store_due(database, ago=timedelta(minutes=10, seconds=30), catch_up_policy="skip")
        first = (await stored(database, late))["next_run_at"]
        row = await _fire(database, jobs, late)

    # The latest one is late by no more than a minute.
    assert await _outcomes(database, late) == Counter(missed=10, fired=1)
    assert (row["last_run_at"], row["fired_count"], row["missed_count"]) == (first + TEN_MINUTES, 1, 10)


async def test_a_late_time_that_was_tried_before_is_fired(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(
            database, ago=TEN_MINUTES, recurrence=cron("0 0 1 1 *"), catch_up_policy="skip"
        )
        # A scheduler had begun with it, and died.
        await execute(database, "UPDATE scheduled_jobs SET reserved_until = now() - interval '1 minute'")
        row = await _fire(database, jobs, schedule_id)

    assert (row["fired_count"], row["missed_count"]) == (1, 0)


async def test_a_single_time_that_was_missed_ends_the_schedule(database: Database, tmp_path: Path) -> None:
    at = datetime.now(UTC).replace(microsecond=0) - TEN_MINUTES
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(
            database, ago=TEN_MINUTES, recurrence=once(at), catch_up_policy="skip", start_at=None
        )
        row = await _fire(database, jobs, schedule_id)

    assert (row["next_run_at"], row["last_job_id"], row["missed_count"]) == (None, None, 1)
    assert await _outcomes(database, schedule_id) == Counter(missed=1)


async def test_with_skip_no_job_is_made_while_one_is_unfinished(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, overlap_policy="skip")
        worker_id = await start_worker(database)
        first = await _fire(database, jobs, schedule_id)
        running = await claim(database, worker_id)
        await _make_due(database, schedule_id)
        row = await _fire(database, jobs, schedule_id)
        assert (row["fired_count"], row["skipped_count"]) == (1, 1)
        assert row["last_job_id"] == first["last_job_id"]
        (_, skipped) = await runs_of(database, schedule_id)
        name = format_id("job", first["last_job_id"])
        assert (skipped["outcome"], skipped["reason"]) == ("skipped", f"{name} is not finished")

        async with database.transaction() as connection:
            await complete_jobs(connection, [(running.lease, "{}")])
        await _make_due(database, schedule_id)
        row = await _fire(database, jobs, schedule_id)
    assert (row["fired_count"], row["skipped_count"]) == (2, 1)


async def test_with_buffer_one_a_single_job_waits_for_the_one_that_runs(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, overlap_policy="buffer_one")
        worker_id = await start_worker(database)
        await _fire(database, jobs, schedule_id)
        running = await claim(database, worker_id)
        for _ in range(3):
            await _make_due(database, schedule_id)
            row = await _fire(database, jobs, schedule_id)
        assert (row["fired_count"], row["skipped_count"]) == (2, 2)
        with pytest.raises(ValueError, match="not enough values"):
            await claim(database, worker_id)
        async with database.transaction() as connection:
            await complete_jobs(connection, [(running.lease, "{}")])
        assert (await claim(database, worker_id)).claim.id == row["last_job_id"]


async def test_with_cancel_running_the_latest_time_wins(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, overlap_policy="cancel_running")
        worker_id = await start_worker(database)
        await _fire(database, jobs, schedule_id)
        running = await claim(database, worker_id)
        for _ in range(2):
            await _make_due(database, schedule_id)
            row = await _fire(database, jobs, schedule_id)
        rows = await jobs_of(database, format_id("schedule", schedule_id))
        assert [job["status"] for job in rows] == ["cancelling", "cancelled", "pending"]
        assert rows[0]["job_id"] == running.claim.id
        with pytest.raises(ValueError, match="not enough values"):
            await claim(database, worker_id)
    assert (row["fired_count"], row["skipped_count"]) == (3, 0)


async def test_a_schedule_ends_after_its_last_run(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(
            database, ago=TEN_MINUTES, catch_up_policy="run_all", catch_up_seconds=3600, max_runs=3
        )
        row = await _fire(database, jobs, schedule_id)

    assert (row["fired_count"], row["next_run_at"], row["paused"]) == (3, None, False)
    assert len(await jobs_of(database, format_id("schedule", schedule_id))) == 3


@pytest.mark.parametrize("swept", [True, False])
async def test_a_schedule_whose_jobs_fail_is_paused(database: Database, tmp_path: Path, swept: bool) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, pause_after_failed_runs=2)
        worker_id = await start_worker(database)
        for _ in range(2):
            await _make_due(database, schedule_id)
            assert not (await _fire(database, jobs, schedule_id))["paused"]
            await _fail(database, await claim(database, worker_id))
        version = (await stored(database, schedule_id))["version"]
        if swept:
            await FailedRunsWatch(database).sweep()
        else:
            await _make_due(database, schedule_id)
            await _fire(database, jobs, schedule_id)
        row = await stored(database, schedule_id)

    assert (row["paused"], row["fired_count"], row["version"]) == (True, 2, version + 1)
    assert row["pause_reason"] == "its last 2 jobs failed, the last one with BROKEN: no disk"


async def test_failures_from_before_a_resumption_do_not_count(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database, pause_after_failed_runs=1)
        worker_id = await start_worker(database)
        await _fire(database, jobs, schedule_id)
        await _fail(database, await claim(database, worker_id))
        await execute(database, "UPDATE scheduled_jobs SET watched_since = now()")
        await FailedRunsWatch(database).sweep()
        assert not (await stored(database, schedule_id))["paused"]


async def test_a_job_made_before_its_schedule_was_changed_is_found(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as jobs:
        schedule_id = await store_due(database)
        due_at = (await stored(database, schedule_id))["next_run_at"]
        first = await _fire(database, jobs, schedule_id)
        # As if its scheduler had died before it recorded the job, and the input was changed then.
        await execute(
            database,
            "UPDATE scheduled_jobs SET next_run_at = $1, input = '{\"n\": 1}', fired_count = 0",
            due_at,
        )
        await execute(database, "DELETE FROM schedule_runs")
        row = await _fire(database, jobs, schedule_id)

    assert (row["fired_count"], row["paused"], row["last_job_id"]) == (1, False, first["last_job_id"])


async def test_refusals_are_recorded_once_for_each_time(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as jobs:
        await publish(database, ANY_TYPE, {"type": "object", "required": ["dataset"]})
        schedule_id = await store_due(database)
        async with firing_alone(database, jobs.address):
            await eventually(_paused(database, schedule_id))
        assert [(run["outcome"], run["reason"]) for run in await runs_of(database, schedule_id)] == [
            ("failed", "input.dataset: is required")
        ]

        await execute(
            database,
            "UPDATE scheduled_jobs SET input = '{\"dataset\": 1}', paused = false, consecutive_failures = 0",
        )
        await execute(database, "UPDATE scheduled_jobs SET reserved_until = NULL")
        await _fire(database, jobs, schedule_id)
    assert await _outcomes(database, schedule_id) == Counter(fired=1)


async def test_three_schedulers_make_one_job_for_each_of_many_times(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as jobs:
        ids = [
            await store_due(
                database, ago=timedelta(seconds=200), catch_up_policy="run_all", catch_up_seconds=3600
            )
            for _ in range(200)
        ]
        loops = [firing_alone(database, jobs.address) for _ in range(3)]
        async with loops[0], loops[1], loops[2]:
            for schedule_id in ids:
                await eventually(at_rest(database, schedule_id))

    async with database.connection() as connection:
        made = await connection.fetch(
            "SELECT schedule_id, metadata ->> 'scheduled_time' AS time, count(*) FROM jobs GROUP BY 1, 2"
        )
        rows = await connection.fetch("SELECT schedule_id, fired_count FROM scheduled_jobs")
        runs = await connection.fetchval("SELECT count(*) FROM schedule_runs WHERE outcome = 'fired'")
    assert {row["count"] for row in made} == {1}
    assert len(made) == runs == sum(row["fired_count"] for row in rows) >= 200 * 4
    assert Counter(row["schedule_id"] for row in made) == {
        row["schedule_id"]: row["fired_count"] for row in rows
    }


async def test_a_job_that_hangs_holds_up_no_other_schedule(database: Database) -> None:
    async with recording_jobs() as hanging:
        stuck = await store_due(database)
        async with firing_alone(database, hanging.address) as firing:
            await hanging.asked.wait()
            other = await store_due(database)
            firing.wake()
            await eventually(_asked_for(hanging.requests, other))
            # Neither has been answered.
            assert (await stored(database, stuck))["last_job_id"] is None
            hanging.may_answer.set()
            await eventually(at_rest(database, other))
            await eventually(at_rest(database, stuck))


@pytest.mark.parametrize("hours", [-1, 1])
async def test_only_the_clock_of_the_database_counts(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    class WrongTime:
        @staticmethod
        def time() -> float:
            return time.time() + hours * 3600

    async with serving(database, tmp_path) as jobs:
        due = await store_due(database, recurrence=every(7200))
        ahead = await store_due(database, ago=timedelta(minutes=-30))
        for name, module in list(sys.modules.items()):
            if name.startswith("millrace_scheduler."):
                _replace(monkeypatch, module, datetime, Wrong)
                _replace(monkeypatch, module, time, WrongTime)
        first = (await stored(database, due))["next_run_at"]
        row = await _fire(database, jobs, due)
        monkeypatch.undo()

    assert (row["last_run_at"], row["missed_count"]) == (first, 0)
    assert row["next_run_at"] == first + timedelta(hours=2)
    assert await runs_of(database, ahead) == []


def _replace(monkeypatch: pytest.MonkeyPatch, module: ModuleType, clock: object, wrong: object) -> None:
    for name, value in list(vars(module).items()):
        if value is clock:
            monkeypatch.setattr(module, name, wrong)


def _paused(database: Database, schedule_id: UUID) -> Any:
    async def condition() -> bool:
        return bool((await stored(database, schedule_id))["paused"])

    return condition


def _asked_for(requests: list[Any], schedule_id: UUID) -> Any:
    async def condition() -> bool:
        await asyncio.sleep(0)
        return format_id("schedule", schedule_id) in {request.schedule_id for request in requests}

    return condition

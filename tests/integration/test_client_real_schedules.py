"""The SDK's schedules against the real services: what a program that uses them sees."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from millrace_client import (
    AbortedError,
    CatchUpPolicy,
    Cron,
    Daily,
    EmailDelivery,
    Every,
    FailedPreconditionError,
    InvalidArgumentError,
    JobStatus,
    LastDay,
    Millrace,
    Monthly,
    NotFoundError,
    NthWeekday,
    Once,
    OverlapPolicy,
    RunCause,
    RunOutcome,
    ScheduleTiming,
    StorageDelivery,
    WebhookDelivery,
)
from millrace_database.database import Database
from millrace_worker import Registry, SystemContext
from support.system_runs import NEVER_IN_TESTS, ended
from support.system_runs import schedule as schedule_row
from support.whole_system import WholeSystem, running_whole_system
from support.worker_runs import worker

PAST = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, 12, tzinfo=UTC))
NEXT_YEAR = datetime.now(UTC).year + 1


@pytest.fixture
async def system(database: Database, tmp_path: Path) -> AsyncIterator[WholeSystem]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield system


@pytest.fixture
async def client(system: WholeSystem) -> AsyncIterator[Millrace]:
    async with Millrace(
        system.jobs, scheduler=system.scheduler, worker=system.worker, org_id="acme", timeout=15
    ) as client:
        yield client


async def test_what_a_schedule_asks_for_comes_back_as_it_was_given(client: Millrace) -> None:
    created = await client.schedules.create(
        "Nightly",
        "toy:add",
        Monthly(NthWeekday(-1, "FRIDAY"), "03:30"),
        {"a": 1},
        time_zone="Europe/Paris",
        jitter=timedelta(minutes=5),
        overlap_policy=OverlapPolicy.SKIP,
        catch_up_policy=CatchUpPolicy.RUN_ALL,
        catch_up_window=timedelta(hours=6),
        max_runs=3,
        pause_after_failed_runs=2,
        delivery=StorageDelivery("reports/{{file_name}}"),
    )
    assert created.recurrence == Monthly(NthWeekday(-1, "FRIDAY"), "03:30")
    assert created.jitter == timedelta(minutes=5)
    assert (created.overlap_policy, created.catch_up_policy) == (OverlapPolicy.SKIP, CatchUpPolicy.RUN_ALL)
    assert created.catch_up_window == timedelta(hours=6)
    assert (created.max_runs, created.pause_after_failed_runs) == (3, 2)
    assert created.delivery == StorageDelivery("reports/{{file_name}}")
    assert (created.fired_count, created.missed_count, created.skipped_count) == (0, 0, 0)
    read = await client.schedules.get(created.schedule_id)
    assert read == created
    assert read.last_runs == ()
    assert read.next_run_times is not None
    assert read.next_run_times[0] == created.next_run_at
    assert len(read.next_run_times) == 3
    assert await client.schedules.preview(created.schedule_id) == read.next_run_times


async def test_only_what_is_given_is_changed_and_only_by_whoever_saw_the_latest(client: Millrace) -> None:
    created = await client.schedules.create(
        "Nightly",
        "toy:add",
        Daily("03:30"),
        {"a": 1},
        metadata={"by": "night"},
        max_runs=3,
        jitter=timedelta(seconds=9),
    )
    changed = await client.schedules.update(
        created.schedule_id,
        version=created.version,
        name="Monthly",
        recurrence=Monthly(LastDay(), "03:30"),
        metadata=None,
        max_runs=0,
        delivery=EmailDelivery(["ada@example.com"], on_failure=True),
    )
    assert changed.version > created.version
    assert (changed.name, changed.recurrence) == ("Monthly", Monthly(LastDay(), "03:30"))
    assert (changed.metadata, changed.max_runs) == ({}, 0)
    assert changed.delivery == EmailDelivery(["ada@example.com"], on_failure=True)
    assert (changed.type, changed.input, changed.jitter) == ("toy:add", {"a": 1}, timedelta(seconds=9))
    with pytest.raises(AbortedError):
        await client.schedules.update(created.schedule_id, version=created.version, name="late")
    assert (await client.schedules.get(created.schedule_id)).name == "Monthly"
    with pytest.raises(InvalidArgumentError):
        await client.schedules.update(created.schedule_id)
    with pytest.raises(InvalidArgumentError) as raised:
        await client.schedules.update(created.schedule_id, time_zone="Mars/Olympus")
    assert any("time_zone" in violation.field for violation in raised.value.violations)


async def test_a_secret_never_comes_back_and_stays(client: Millrace) -> None:
    secret = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
    created = await client.schedules.create(
        "Hook",
        "toy:add",
        Daily("03:30"),
        {"a": 1},
        delivery=WebhookDelivery("https://example.com/hook", secret),
    )
    assert created.delivery == WebhookDelivery("https://example.com/hook", None)
    changed = await client.schedules.update(
        created.schedule_id, delivery=WebhookDelivery("https://example.com/hook", on_failure=True)
    )
    assert changed.delivery == WebhookDelivery("https://example.com/hook", None, on_failure=True)


async def test_lists_are_filtered(client: Millrace) -> None:
    await client.schedules.create("Alpha", "toy:add", Daily("03:30"), {"a": 1})
    await client.schedules.create(
        "Beta", "toy:steps", Every(timedelta(days=30)), delivery=StorageDelivery("a")
    )
    paused = await client.schedules.create("Gamma", "toy:steps", Cron("0 3 * * *"))
    await client.schedules.pause(paused.schedule_id)

    async def names(**filters: object) -> list[str]:
        return [schedule.name async for schedule in client.schedules.list(page_size=1, **filters)]  # type: ignore[arg-type]

    assert await names() == ["Gamma", "Beta", "Alpha"]
    assert await names(job_type="toy:steps") == ["Gamma", "Beta"]
    assert await names(frequency="INTERVAL") == ["Beta"]
    assert await names(active=True) == ["Beta", "Alpha"]
    assert await names(active=False) == ["Gamma"]
    assert await names(delivery="STORAGE") == ["Beta"]
    assert await names(delivery="NONE", search="ALPH") == ["Alpha"]


async def test_a_preview_follows_the_clocks_of_its_zone(client: Millrace) -> None:
    timing = ScheduleTiming(Daily("02:30"), "Europe/Paris", end_at=datetime(2027, 3, 29, 12, tzinfo=UTC))
    assert await client.schedules.preview(timing, after=datetime(2027, 3, 27, 12, tzinfo=UTC)) == (
        datetime(2027, 3, 28, 1, 0, tzinfo=UTC),  # 02:30 does not exist: clocks go from 02:00 to 03:00
        datetime(2027, 3, 29, 0, 30, tzinfo=UTC),
    )
    at = datetime(NEXT_YEAR, 1, 1, tzinfo=UTC)
    assert await client.schedules.preview(ScheduleTiming(Once(at))) == (at,)
    with pytest.raises(InvalidArgumentError):
        await client.schedules.preview(ScheduleTiming(Cron("0 0 30 2 *")))


async def test_past_times_are_backfilled_once_and_runs_outlive_the_schedule(client: Millrace) -> None:
    schedule = await client.schedules.create("Nightly", "toy:add", Daily("03:30"), {"a": 1})
    schedule_id = schedule.schedule_id
    requested = await client.schedules.run(schedule_id)
    done = await client.schedules.backfill(schedule_id, *PAST)
    assert done.created_count == len(done.runs) == 3
    assert [run.scheduled_time for run in done.runs] == [
        datetime(2026, 1, day, 3, 30, tzinfo=UTC) for day in (1, 2, 3)
    ]
    again = await client.schedules.backfill(schedule_id, *PAST)
    assert again.created_count == 0
    assert [run.job_id for run in again.runs] == [run.job_id for run in done.runs]
    for job_id in (requested, *(run.job_id for run in done.runs)):
        await client.jobs.wait(job_id, timeout=15)
    runs = [run async for run in client.schedules.runs(schedule_id, page_size=1)]
    assert [run.scheduled_time for run in runs] == sorted((run.scheduled_time for run in runs), reverse=True)
    assert runs[0].job_id == requested
    assert [run.cause for run in runs] == [RunCause.REQUEST, *[RunCause.BACKFILL] * 3]
    assert {(run.outcome, run.job_status) for run in runs} == {(RunOutcome.FIRED, JobStatus.COMPLETED)}
    assert (await client.schedules.get(schedule_id)).last_runs == tuple(runs)
    await client.schedules.delete(schedule_id)
    assert [run async for run in client.schedules.runs(schedule_id)] == runs
    with pytest.raises(NotFoundError):
        await client.schedules.update(schedule_id, name="gone")


async def test_a_time_that_came_is_a_run(client: Millrace) -> None:
    schedule = await client.schedules.create(
        "Soon", "toy:add", Every(timedelta(seconds=1)), {"a": 1}, max_runs=1
    )
    schedule_id = schedule.schedule_id
    job_id = ""
    while not job_id:
        job_id = (await client.schedules.get(schedule_id)).last_job_id
    job = (await client.jobs.wait(job_id, timeout=15)).raise_for_status()
    [run] = [run async for run in client.schedules.runs(schedule_id)]
    assert (run.cause, run.outcome, run.job_id) == (RunCause.SCHEDULE, RunOutcome.FIRED, job.job_id)
    assert run.job_status is JobStatus.COMPLETED
    ended = await client.schedules.get(schedule_id)
    assert (ended.fired_count, ended.next_run_at, ended.next_run_times) == (1, None, ())


async def test_a_system_schedule_is_listed_and_run(
    client: Millrace, database: Database, tmp_path: Path
) -> None:
    registry, may_end = Registry(), asyncio.Event()

    @registry.system_schedule("test:cleanup", NEVER_IN_TESTS)
    async def clean_up(context: SystemContext) -> None:
        """Remove what nobody needs."""
        await may_end.wait()

    async with worker(database, registry, tmp_path / "worker"):
        await schedule_row(database, "test:cleanup", lambda row: row["next_run_at"] is not None)
        run_id = await client.system_schedules.run("test:cleanup")
        with pytest.raises(FailedPreconditionError):
            await client.system_schedules.run("test:cleanup")
        may_end.set()
        await ended(database, "test:cleanup")
        [listed] = [one async for one in client.system_schedules.list() if one.type == "test:cleanup"]
    assert (listed.cron, listed.time_zone, listed.description) == (
        NEVER_IN_TESTS,
        "UTC",
        "Remove what nobody needs.",
    )
    assert (listed.last_run_id, listed.last_outcome, listed.last_error) == (run_id, "completed", "")
    assert listed.next_run_at is not None
    assert listed.last_ended_at is not None
    with pytest.raises(NotFoundError):
        await client.system_schedules.run("no:such")

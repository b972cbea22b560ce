"""Runs of system schedules, with real workers and schedulers: made by one worker, to an end that the schedule tells."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from millrace_database.database import Database
from millrace_database.queue_health import queue_health
from millrace_database.workers_repository import list_workers
from millrace_scheduler import stale_system_schedules
from millrace_worker import JobContext, JobError, Registry, SystemContext
from support.scheduler_api import scheduling
from support.system_runs import (
    NEVER_IN_TESTS,
    TYPE,
    Runs,
    ended,
    list_system_schedules,
    make_due,
    no_entries,
    run_refused,
    run_system_schedule,
    schedule,
    tell_schedulers,
)
from support.worker_runs import create, eventually, fetch, fetched, finished, worker


async def test_a_time_is_skipped_while_the_last_run_goes_on(database: Database, tmp_path: Path) -> None:
    runs = Runs(held=True)
    async with scheduling(database) as api, worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(runs.begun.wait(), 20)
        first = await schedule(database, TYPE)
        await make_due(database, TYPE)
        skipped = await schedule(database, TYPE, lambda row: row["next_run_at"] > datetime.now(UTC))
        assert await run_refused(api) is grpc.StatusCode.FAILED_PRECONDITION
        runs.may_end.set()
        await ended(database, TYPE)

    assert skipped["last_run_id"] == first["last_run_id"]
    assert skipped["last_outcome"] == "running"
    assert len(runs.seen) == 1


async def test_a_run_can_be_asked_for(database: Database, tmp_path: Path) -> None:
    runs = Runs()
    async with scheduling(database) as api:
        assert await run_refused(api) is grpc.StatusCode.NOT_FOUND
        assert await run_refused(api, "") is grpc.StatusCode.INVALID_ARGUMENT
        async with worker(database, runs.registry, tmp_path):
            planned = await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
            run_id = await run_system_schedule(api)
            row = await ended(database, TYPE)
        assert await run_refused(api) is grpc.StatusCode.FAILED_PRECONDITION

    assert [context.run_id for context in runs.seen] == [run_id]
    assert row["next_run_at"] == planned["next_run_at"]


async def test_a_failure_is_recorded_and_told_once_and_not_tried_again(
    database: Database, tmp_path: Path
) -> None:
    registry = Registry()

    @registry.system_schedule("test:broken", NEVER_IN_TESTS)
    async def fail(context: SystemContext) -> None:
        raise ValueError(f"no luck with {context.type}")

    @registry.system_schedule("test:refuses", NEVER_IN_TESTS)
    def refuse(context: SystemContext) -> None:
        raise JobError("NO_DISK", "There is no room.", retryable=True)

    with capture_logs() as lines:
        async with scheduling(database) as api, worker(database, registry, tmp_path):
            for type_ in ("test:broken", "test:refuses"):
                await make_due(database, type_)
                await ended(database, type_)
            listed = await list_system_schedules(api)
            await no_entries(database)

    assert [(one.last_outcome, one.last_error) for one in listed] == [
        ("failed", "ValueError: no luck with test:broken"),
        ("failed", "JobError: NO_DISK: There is no room."),
    ]
    of_run = [line for line in lines if line.get("run_id") == listed[0].last_run_id]
    assert [line["event"] for line in of_run] == [
        "system schedule fired",
        "system run started",
        "system run failed",
    ]
    assert isinstance(of_run[-1]["exc_info"], ValueError)
    assert of_run[-1]["seconds"] >= 0


async def test_a_plain_function_is_told_to_stop_and_its_run_goes_on_elsewhere(
    database: Database, tmp_path: Path
) -> None:
    begun, stopped, again = threading.Event(), threading.Event(), threading.Event()
    registry, other = Registry(), Registry()

    @registry.system_schedule(TYPE, NEVER_IN_TESTS)
    def work(context: SystemContext) -> None:
        begun.set()
        while not context.cancelled:
            stopped.wait(0.01)
        stopped.set()
        context.raise_if_cancelled()

    @other.system_schedule(TYPE, NEVER_IN_TESTS)
    def work_again(context: SystemContext) -> None:
        assert context.attempt == 1
        again.set()

    async with scheduling(database):
        async with worker(database, registry, tmp_path, shutdown_grace_seconds=2):
            await make_due(database, TYPE)
            assert await asyncio.to_thread(begun.wait, 20)
            running = await schedule(database, TYPE)
        assert stopped.is_set()
        async with worker(database, other, tmp_path):
            row = await ended(database, TYPE)

    assert again.is_set()
    assert (row["last_run_id"], row["last_outcome"]) == (running["last_run_id"], "completed")


async def test_a_run_is_stopped_when_its_lease_is_lost_and_made_again(
    database: Database, tmp_path: Path
) -> None:
    registry = Registry()
    ends: list[tuple[int, str]] = []
    begun = asyncio.Event()

    @registry.system_schedule(TYPE, NEVER_IN_TESTS)
    async def work(context: SystemContext) -> None:
        if context.attempt > 1:
            ends.append((context.attempt, "returned"))
            return
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append((context.attempt, "cancelled"))
            raise

    async with scheduling(database), worker(database, registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(begun.wait(), 20)
        await fetch(database, "DELETE FROM queue_workers")
        row = await ended(database, TYPE)
    assert ends == [(1, "cancelled"), (2, "returned")]
    assert row["last_outcome"] == "completed"


async def test_a_run_that_takes_too_long_has_failed(database: Database, tmp_path: Path) -> None:
    registry = Registry()

    @registry.system_schedule(TYPE, NEVER_IN_TESTS, timeout=timedelta(milliseconds=50))
    async def work(_: SystemContext) -> None:
        await asyncio.Event().wait()

    async with scheduling(database), worker(database, registry, tmp_path):
        await make_due(database, TYPE)
        row = await ended(database, TYPE)
    assert (row["last_outcome"], row["last_error"]) == ("failed", "The attempt took longer than 0.05 s.")


async def test_a_run_that_waits_for_a_forgotten_schedule_goes_with_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_system_schedules, "WATCHED_SECONDS", 0)
    runs = Runs(held=True)
    async with scheduling(database):
        async with worker(database, runs.registry, tmp_path, shutdown_grace_seconds=1):
            await make_due(database, TYPE)
            await asyncio.wait_for(runs.begun.wait(), 20)
        assert [row["state"] for row in await fetch(database, "SELECT state FROM queue")] == ["ready"]
        await fetch(database, "UPDATE system_schedules SET published_at = now() - interval '25 hours'")
        await tell_schedulers(database)
        await fetched(database, "SELECT FROM system_schedules", lambda rows: not rows)
        await no_entries(database)


async def test_a_run_whose_workers_were_all_lost_has_failed(database: Database, tmp_path: Path) -> None:
    runs = Runs(held=True)
    async with scheduling(database), worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(runs.begun.wait(), 20)
        # As a rescue does after the last attempt.
        await fetch(database, "DELETE FROM queue")
        await tell_schedulers(database)
        row = await ended(database, TYPE)
    assert (row["last_outcome"], row["last_error"]) == ("failed", "The workers that ran it were lost.")


async def test_a_job_type_may_have_the_name_of_a_system_schedule(database: Database, tmp_path: Path) -> None:
    runs = Runs()

    @runs.registry.job_handler(TYPE)
    async def handle(_: JobContext[dict[str, str]]) -> None:
        pass

    async with scheduling(database), worker(database, runs.registry, tmp_path):
        (job_id,) = await create(database, TYPE)
        job = await finished(database, job_id)
        await make_due(database, TYPE)
        row = await ended(database, TYPE)
    assert (job.status, row["last_outcome"], len(runs.seen)) == ("completed", "completed", 1)


async def test_what_only_makes_work_and_does_not_do_it_has_failed(database: Database, tmp_path: Path) -> None:
    registry = Registry()

    async def work() -> None:
        pass

    @registry.system_schedule(TYPE, NEVER_IN_TESTS)
    def forget_to_await(_: SystemContext) -> object:
        return work()

    async with scheduling(database), worker(database, registry, tmp_path):
        await make_due(database, TYPE)
        row = await ended(database, TYPE)
    assert row["last_outcome"] == "failed"
    assert "async def" in row["last_error"]


async def test_a_run_whose_entry_is_locked_holds_up_no_other(database: Database, tmp_path: Path) -> None:
    runs = Runs(held=True)

    @runs.registry.system_schedule("test:other", NEVER_IN_TESTS)
    async def other(_: SystemContext) -> None:
        pass

    async with scheduling(database), worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(runs.begun.wait(), 20)
        async with database.transaction() as connection:
            await connection.execute("SELECT FROM queue FOR UPDATE")
            runs.may_end.set()
            await make_due(database, "test:other")
            await ended(database, "test:other", within=5)
            assert (await schedule(database, TYPE))["last_outcome"] == "running"
        assert (await ended(database, TYPE))["last_outcome"] == "completed"
    await no_entries(database)


async def test_a_run_is_no_job_in_what_operators_are_told(database: Database, tmp_path: Path) -> None:
    runs = Runs(held=True)
    async with scheduling(database), worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(runs.begun.wait(), 20)
        async with database.connection() as connection:
            depths = (await queue_health(connection)).depths
            (told,) = await list_workers(connection, None, 10)
        runs.may_end.set()
        await ended(database, TYPE)
    assert (depths, told.running_jobs) == ([], 0)


async def test_a_run_that_is_lost_for_good_is_counted_as_no_job(database: Database, tmp_path: Path) -> None:
    runs = Runs(held=True)
    async with scheduling(database), worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(runs.begun.wait(), 20)
        await fetch(database, "UPDATE queue SET attempt = max_attempts")
        await fetch(database, "DELETE FROM queue_workers")
        await no_entries(database)
        await tell_schedulers(database)
        row = await ended(database, TYPE)
    assert (row["last_outcome"], row["last_error"]) == ("failed", "The workers that ran it were lost.")
    assert await fetch(database, "SELECT FROM job_attempts") == []


async def test_a_run_that_was_claimed_ahead_and_finds_no_slot_is_left_to_other_workers(
    database: Database, tmp_path: Path
) -> None:
    registry = Registry()
    may_end = {name: asyncio.Event() for name in ("a", "b", "c", "d")}
    begun: list[str] = []

    def declare(name: str) -> None:
        @registry.system_schedule(f"test:{name}", NEVER_IN_TESTS)
        async def work(_: SystemContext) -> None:
            begun.append(name)
            await may_end[name].wait()

    for name in may_end:
        declare(name)
    async with scheduling(database) as api, worker(database, registry, tmp_path):
        for name in ("a", "b"):
            await schedule(database, f"test:{name}")
            await run_system_schedule(api, f"test:{name}")
        await eventually(lambda: len(begun) == 2)
        for name in ("c", "d"):
            await run_system_schedule(api, f"test:{name}")
        may_end["a"].set()
        await eventually(lambda: len(begun) == 3)
        await fetched(
            database,
            "SELECT FROM queue WHERE state = 'ready'",
            lambda rows: len(rows) == 1,
        )
        for event in may_end.values():
            event.set()
        await no_entries(database)

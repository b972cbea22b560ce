"""System schedules, with real workers and schedulers: fired once for each time, run by one worker, without a job."""

import asyncio
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from millrace.scheduler.v1 import scheduler_service_pb2, system_schedule_pb2
from millrace_database.database import Database
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller, Role
from millrace_worker import JobContext, JobError, Registry, SystemContext
from support.scheduler_api import SchedulerApi, scheduling
from support.system_runs import NEVER_IN_TESTS, ended, make_due, schedule, tell_schedulers
from support.worker_runs import create, fetch, fetched, finished, worker

TYPE = "test:cleanup"


class Runs:
    """A system schedule that notes its runs, and ends when it is let."""

    def __init__(self, cron: str = NEVER_IN_TESTS, *, held: bool = False) -> None:
        self.seen: list[SystemContext] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        if not held:
            self.may_end.set()
        self.registry = Registry()

        @self.registry.system_schedule(TYPE, cron)
        async def clean_up(context: SystemContext) -> None:
            """Remove what nobody needs.

            More of it.
            """
            self.seen.append(context)
            self.begun.set()
            await self.may_end.wait()


async def _list(api: SchedulerApi) -> list[system_schedule_pb2.SystemSchedule]:
    answer = await api.schedules.ListSystemSchedules(scheduler_service_pb2.ListSystemSchedulesRequest())
    return list(answer.system_schedules)


async def _run(api: SchedulerApi, type_: str = TYPE) -> str:
    answer = await api.schedules.RunSystemSchedule(scheduler_service_pb2.RunSystemScheduleRequest(type=type_))
    return answer.run_id


async def _refused(api: SchedulerApi, type_: str = TYPE) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _run(api, type_)
    return raised.value.code()


async def _no_entries(database: Database) -> None:
    await fetched(database, "SELECT FROM queue", lambda rows: not rows)


async def test_a_due_schedule_runs_on_a_worker_without_a_job(database: Database, tmp_path: Path) -> None:
    runs = Runs()
    async with scheduling(database) as api, worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        row = await ended(database, TYPE)
        (listed,) = await _list(api)

    (context,) = runs.seen
    assert context.run_id == listed.last_run_id == f"system_{row['last_run_id'].hex}"
    assert context.scheduled_time == row["last_run_at"]
    assert (context.type, context.org_id, context.attempt) == (TYPE, ":system", 1)
    assert (listed.last_outcome, listed.last_error) == ("completed", "")
    assert (listed.description, listed.cron, listed.time_zone) == (
        "Remove what nobody needs.",
        NEVER_IN_TESTS,
        "UTC",
    )
    next_run_at = listed.next_run_at.ToDatetime(UTC)
    assert (next_run_at.month, next_run_at.day, next_run_at.year) == (1, 1, datetime.now(UTC).year + 1)
    assert await fetch(database, "SELECT FROM jobs") == []
    await _no_entries(database)


async def test_a_schedule_fires_by_itself(database: Database, tmp_path: Path) -> None:
    runs = Runs("* * * * *")
    async with scheduling(database), worker(database, runs.registry, tmp_path):
        row = await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
        assert row["next_run_at"].second == 0
        fires_at = "clock_timestamp() + interval '1 second'"
        await fetch(database, f"UPDATE system_schedules SET next_run_at = {fires_at}")  # noqa: S608
        await tell_schedulers(database)
        await asyncio.wait_for(runs.begun.wait(), 20)


async def test_of_two_schedulers_one_fires_and_missed_times_are_made_up_for_once(
    database: Database, tmp_path: Path
) -> None:
    runs = Runs("* * * * *")
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(scheduling(database))
        for _ in range(2):
            await stack.enter_async_context(worker(database, runs.registry, tmp_path))
        for number in range(1, 6):
            await make_due(database, TYPE, ago=timedelta(hours=number))
            await schedule(
                database,
                TYPE,
                lambda row: row["next_run_at"] > datetime.now(UTC) and row["last_outcome"] == "completed",
            )
        await _no_entries(database)
    assert len({context.scheduled_time for context in runs.seen}) == len(runs.seen) == 5


async def test_a_time_is_skipped_while_the_last_run_goes_on(database: Database, tmp_path: Path) -> None:
    runs = Runs(held=True)
    async with scheduling(database) as api, worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        await asyncio.wait_for(runs.begun.wait(), 20)
        first = await schedule(database, TYPE)
        await make_due(database, TYPE)
        skipped = await schedule(database, TYPE, lambda row: row["next_run_at"] > datetime.now(UTC))
        assert await _refused(api) is grpc.StatusCode.FAILED_PRECONDITION
        runs.may_end.set()
        await ended(database, TYPE)

    assert skipped["last_run_id"] == first["last_run_id"]
    assert skipped["last_outcome"] == "running"
    assert len(runs.seen) == 1


async def test_a_run_can_be_asked_for(database: Database, tmp_path: Path) -> None:
    runs = Runs()
    async with scheduling(database) as api:
        assert await _refused(api) is grpc.StatusCode.NOT_FOUND
        assert await _refused(api, "") is grpc.StatusCode.INVALID_ARGUMENT
        async with worker(database, runs.registry, tmp_path):
            planned = await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
            run_id = await _run(api)
            row = await ended(database, TYPE)
        assert await _refused(api) is grpc.StatusCode.FAILED_PRECONDITION

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
            listed = await _list(api)
            await _no_entries(database)

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


async def test_a_worker_that_comes_back_makes_a_forgotten_schedule_known_again(
    database: Database, tmp_path: Path
) -> None:
    async with scheduling(database), worker(database, Runs().registry, tmp_path):
        await schedule(database, TYPE)
        await fetch(database, "DELETE FROM system_schedules")
        await fetch(database, "DELETE FROM queue_workers")
        await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)


async def test_what_is_removed_from_the_code_is_not_fired_and_in_the_end_forgotten(
    database: Database, tmp_path: Path
) -> None:
    runs = Runs()
    async with scheduling(database) as api:
        async with worker(database, runs.registry, tmp_path):
            await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
            (listed,) = await _list(api)
            assert listed.HasField("next_run_at")
        async with worker(database, Registry(), tmp_path):
            await make_due(database, TYPE)
            (listed,) = await _list(api)
            assert not listed.HasField("next_run_at")
            assert await _refused(api) is grpc.StatusCode.FAILED_PRECONDITION
            await fetch(database, "UPDATE system_schedules SET published_at = now() - interval '25 hours'")
            await tell_schedulers(database)
            await fetched(database, "SELECT FROM system_schedules", lambda rows: not rows)
    assert runs.seen == []


async def test_a_run_that_waits_for_a_forgotten_schedule_goes_with_it(
    database: Database, tmp_path: Path
) -> None:
    runs = Runs(held=True)
    async with scheduling(database):
        async with worker(database, runs.registry, tmp_path, shutdown_grace_seconds=1):
            await make_due(database, TYPE)
            await asyncio.wait_for(runs.begun.wait(), 20)
        assert [row["state"] for row in await fetch(database, "SELECT state FROM queue")] == ["ready"]
        await fetch(database, "UPDATE system_schedules SET published_at = now() - interval '25 hours'")
        await tell_schedulers(database)
        await fetched(database, "SELECT FROM system_schedules", lambda rows: not rows)
        await _no_entries(database)


async def test_the_latest_worker_to_start_decides_the_times(database: Database, tmp_path: Path) -> None:
    async with scheduling(database) as api, worker(database, Runs("0 0 1 1 *").registry, tmp_path):
        old = await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
        async with worker(database, Runs("30 12 2 2 *").registry, tmp_path):
            new = await schedule(
                database, TYPE, lambda row: row["next_run_at"] not in (None, old["next_run_at"])
            )
            (listed,) = await _list(api)
    assert (new["next_run_at"].month, new["next_run_at"].day, new["next_run_at"].hour) == (2, 2, 12)
    assert listed.cron == "30 12 2 2 *"


@pytest.mark.parametrize(
    ("cron", "time_zone", "said"),
    [
        ("61 * * * *", "UTC", "61 is out of range"),
        ("@often", "UTC", "@often"),
        ("@daily", "Mars/Olympus", "Mars"),
    ],
)
async def test_times_that_cannot_be_read_are_shown(
    database: Database, tmp_path: Path, cron: str, time_zone: str, said: str
) -> None:
    registry = Registry()

    @registry.system_schedule(TYPE, cron, time_zone=time_zone)
    async def work(_: SystemContext) -> None:
        pass

    async with scheduling(database) as api, worker(database, registry, tmp_path):
        await schedule(database, TYPE, lambda row: said in row["last_error"])
        (listed,) = await _list(api)
    assert said in listed.last_error
    assert not listed.HasField("next_run_at")


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


async def test_times_of_a_newer_release_are_left_to_it_and_hold_up_nothing(
    database: Database, tmp_path: Path
) -> None:
    runs = Runs()

    @runs.registry.system_schedule("test:newer", NEVER_IN_TESTS)
    async def newer(_: SystemContext) -> None:
        pass

    async with scheduling(database), worker(database, runs.registry, tmp_path):
        await schedule(database, "test:newer", lambda row: row["next_run_at"] is not None)
        await fetch(
            database,
            "UPDATE system_schedules SET cron = 'newer form', next_run_at = now() - interval '1 hour' "
            "WHERE type = 'test:newer'",
        )
        await make_due(database, TYPE)
        await ended(database, TYPE)
        left = await schedule(database, "test:newer")
    assert left["last_run_id"] is None
    assert left["next_run_at"] < datetime.now(UTC)


async def test_system_schedules_are_for_operators(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = Caller("ann", frozenset({"acme"}), frozenset({Role.SERVICE}))
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: ann)
    async with scheduling(database) as api:
        assert await _refused(api) is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _list(api)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED

"""System schedules, with real workers and schedulers: fired once for each time, as the code of the workers says."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from millrace_database.database import Database
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller, Role
from millrace_scheduler import stale_system_schedules, system_firing
from millrace_worker import Registry, SystemContext
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
    schedule,
    tell_schedulers,
)
from support.worker_runs import fetch, fetched, worker


async def test_a_due_schedule_runs_on_a_worker_without_a_job(database: Database, tmp_path: Path) -> None:
    runs = Runs()
    async with scheduling(database) as api, worker(database, runs.registry, tmp_path):
        await make_due(database, TYPE)
        row = await ended(database, TYPE)
        (listed,) = await list_system_schedules(api)

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
    await no_entries(database)


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
        await no_entries(database)
    assert len({context.scheduled_time for context in runs.seen}) == len(runs.seen) == 5


async def test_a_worker_that_comes_back_makes_a_forgotten_schedule_known_again(
    database: Database, tmp_path: Path
) -> None:
    async with scheduling(database), worker(database, Runs().registry, tmp_path):
        await schedule(database, TYPE)
        await fetch(database, "DELETE FROM system_schedules")
        await fetch(database, "DELETE FROM queue_workers")
        await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)


async def test_what_is_removed_from_the_code_is_not_fired_and_in_the_end_forgotten(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_system_schedules, "WATCHED_SECONDS", 0)
    runs = Runs()
    async with scheduling(database) as api:
        async with worker(database, runs.registry, tmp_path):
            await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
            (listed,) = await list_system_schedules(api)
            assert listed.HasField("next_run_at")
        async with worker(database, Registry(), tmp_path):
            await make_due(database, TYPE)
            (listed,) = await list_system_schedules(api)
            assert not listed.HasField("next_run_at")
            assert await run_refused(api) is grpc.StatusCode.FAILED_PRECONDITION
            await fetch(database, "UPDATE system_schedules SET published_at = now() - interval '25 hours'")
            await tell_schedulers(database)
            await fetched(database, "SELECT FROM system_schedules", lambda rows: not rows)
    assert runs.seen == []


async def test_the_latest_worker_to_start_decides_the_times(database: Database, tmp_path: Path) -> None:
    async with scheduling(database) as api, worker(database, Runs("0 0 1 1 *").registry, tmp_path):
        old = await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
        async with worker(database, Runs("30 12 2 2 *").registry, tmp_path):
            new = await schedule(
                database, TYPE, lambda row: row["next_run_at"] not in (None, old["next_run_at"])
            )
            (listed,) = await list_system_schedules(api)
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
        (listed,) = await list_system_schedules(api)
    assert said in listed.last_error
    assert not listed.HasField("next_run_at")


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
        assert await run_refused(api) is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await list_system_schedules(api)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_time_missed_between_two_workers_is_made_up_for_however_long_the_first_ran(
    database: Database, tmp_path: Path
) -> None:
    runs = Runs()
    async with scheduling(database):
        async with worker(database, runs.registry, tmp_path):
            await schedule(database, TYPE, lambda row: row["next_run_at"] is not None)
        await fetch(database, "UPDATE system_schedules SET published_at = now() - interval '30 days'")
        await make_due(database, TYPE)
        # A pass that has planned this one has seen the other.
        await fetch(database, "INSERT INTO system_schedules (type, cron) VALUES ('test:pass', '@daily')")
        await tell_schedulers(database)
        await schedule(database, "test:pass", lambda row: row["next_run_at"] is not None)
        due = await schedule(database, TYPE)
        async with worker(database, runs.registry, tmp_path):
            await ended(database, TYPE)
    assert [context.scheduled_time for context in runs.seen] == [due["next_run_at"]]


async def test_times_missed_since_the_schedule_was_published_are_made_up_for(
    database: Database, tmp_path: Path
) -> None:
    runs = Runs("* * * * *")
    async with worker(database, runs.registry, tmp_path):
        published = "date_trunc('minute', now()) - interval '5 minutes'"
        await schedule(database, TYPE)
        await fetch(database, f"UPDATE system_schedules SET published_at = {published}")  # noqa: S608
        before = await schedule(database, TYPE)
        async with scheduling(database):
            await asyncio.wait_for(runs.begun.wait(), 20)
    assert runs.seen[0].scheduled_time == before["published_at"] + timedelta(minutes=1)


async def test_times_of_a_newer_release_do_not_make_others_late(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_firing, "_UNREADABLE_PAUSE_SECONDS", 600)
    runs = Runs()

    @runs.registry.system_schedule("test:newer", NEVER_IN_TESTS)
    async def newer(_: SystemContext) -> None:
        pass

    async with scheduling(database), worker(database, runs.registry, tmp_path):
        for type_ in (TYPE, "test:newer"):
            await schedule(database, type_, lambda row: row["next_run_at"] is not None)
        await fetch(
            database,
            "UPDATE system_schedules SET cron = CASE type WHEN 'test:newer' THEN 'newer form' ELSE cron END, "
            "next_run_at = clock_timestamp() + interval '1 s' * CASE type WHEN 'test:newer' THEN 0 ELSE 1 END",
        )
        await tell_schedulers(database)
        await ended(database, TYPE)

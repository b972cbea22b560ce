"""Runs of system schedules are started once, whatever comes at the same moment."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database import system_schedules_repository as repository
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.system_schedules_repository import NotStarted, PublishedSchedule, SystemScheduleRecord
from millrace_queue import register_worker
from support.worker_runs import fetched

TYPE = "test:cleanup"
_LATER = timedelta(hours=1)
_DAY = timedelta(days=1)
_PUBLISHED = PublishedSchedule(TYPE, "@hourly", "UTC", "Clean up.")

Started = Callable[[asyncpg.Connection, SystemScheduleRecord], Awaitable[UUID | NotStarted]]


async def _due(database: Database) -> SystemScheduleRecord:
    """A schedule that is due, with a worker that lists it."""
    async with database.transaction() as connection:
        await repository.publish_system_schedules(connection, [_PUBLISHED])
        await register_worker(
            connection, new_id(), lease=timedelta(minutes=1), details={"system_types": [TYPE]}
        )
        await connection.execute("UPDATE system_schedules SET next_run_at = now()")
    async with database.connection() as connection:
        (schedule,) = await repository.due_system_schedules(connection)
    return schedule


async def _entries(database: Database) -> list[UUID]:
    async with database.connection() as connection:
        return [row["id"] for row in await connection.fetch("SELECT id FROM queue")]


async def _somebody_waits(database: Database) -> None:
    """Wait until a transaction waits for another one."""
    waiting = "SELECT * FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
    await fetched(database, waiting, lambda rows: rows)


async def _fire(connection: asyncpg.Connection, schedule: SystemScheduleRecord) -> UUID | NotStarted:
    return await repository.fire_system_schedule(connection, schedule, schedule.read_at + _LATER)


async def _run_now(connection: asyncpg.Connection, schedule: SystemScheduleRecord) -> UUID | NotStarted:
    return await repository.run_system_schedule(connection, schedule.type)


@pytest.mark.parametrize(
    ("first", "second", "refusal"),
    [
        (_fire, _fire, NotStarted.MOVED_ON),
        (_fire, _run_now, NotStarted.BUSY),
        (_run_now, _fire, NotStarted.BUSY),
        (_run_now, _run_now, NotStarted.BUSY),
    ],
)
async def test_of_two_starts_at_once_the_second_starts_nothing(
    database: Database, first: Started, second: Started, refusal: NotStarted
) -> None:
    schedule = await _due(database)

    async def start_second() -> UUID | NotStarted:
        async with database.transaction() as connection:
            return await second(connection, schedule)

    async with asyncio.TaskGroup() as tasks, database.transaction() as connection:
        run_id = await first(connection, schedule)
        later = tasks.create_task(start_second())
        await _somebody_waits(database)
    assert later.result() is refusal
    assert await _entries(database) == [run_id]


async def test_a_time_is_fired_once_even_when_its_run_is_over(database: Database) -> None:
    schedule = await _due(database)
    async with database.transaction() as connection:
        run_id = await _fire(connection, schedule)
        assert isinstance(run_id, UUID)
        await connection.execute("DELETE FROM queue")
        await repository.record_end(connection, run_id, None)
    async with database.transaction() as connection:
        assert await _fire(connection, schedule) is NotStarted.MOVED_ON
    assert await _entries(database) == []


async def test_a_schedule_with_other_times_is_not_fired_for_the_old_ones(database: Database) -> None:
    schedule = await _due(database)
    async with database.transaction() as connection:
        await repository.publish_system_schedules(
            connection, [PublishedSchedule(TYPE, "@daily", "UTC", "Clean up.")]
        )
    async with database.transaction() as connection:
        assert await _fire(connection, schedule) is NotStarted.MOVED_ON
    async with database.connection() as connection:
        (unplanned,) = await repository.unplanned_system_schedules(connection)
    assert unplanned.cron == "@daily"


async def test_the_same_times_published_again_keep_the_next_one(database: Database) -> None:
    schedule = await _due(database)
    async with database.transaction() as connection:
        await repository.publish_system_schedules(
            connection, [PublishedSchedule(TYPE, "@hourly", "UTC", "Another description.")]
        )
    async with database.connection() as connection:
        (found,) = await repository.list_system_schedules(connection)
    assert (found.next_run_at, found.description) == (schedule.next_run_at, "Another description.")


@pytest.mark.parametrize(
    "change", ["draining = true", "heartbeat_at = now() - interval '2 minutes'", "details = '{}'"]
)
async def test_what_no_worker_that_takes_work_lists_is_not_due(database: Database, change: str) -> None:
    await _due(database)
    async with database.connection() as connection:
        await connection.execute(f"UPDATE queue_workers SET {change}")  # noqa: S608 - of the test
        assert await repository.due_system_schedules(connection) == []
        assert await repository.seconds_until_due(connection) is None
        assert await repository.run_system_schedule(connection, TYPE) is NotStarted.NOT_LIVE
        assert [found.is_live for found in await repository.list_system_schedules(connection)] == [False]


async def test_only_what_nobody_lists_and_nobody_published_for_long_is_stale(database: Database) -> None:
    await _due(database)
    async with database.connection() as connection:
        await connection.execute("DELETE FROM queue_workers")
        await connection.execute("UPDATE system_schedules SET published_at = now() - interval '23 hours'")
        assert await repository.stale_system_schedules(connection, _DAY) == []
        await connection.execute("UPDATE system_schedules SET published_at = now() - interval '25 hours'")
        assert await repository.stale_system_schedules(connection, _DAY) == [TYPE]


async def test_the_time_counts_from_when_a_worker_last_listed_it(database: Database) -> None:
    await _due(database)
    async with database.connection() as connection:
        await connection.execute("UPDATE system_schedules SET published_at = now() - interval '30 days'")
        assert await repository.stale_system_schedules(connection, _DAY) == []
        await connection.execute("DELETE FROM queue_workers")
        assert await repository.stale_system_schedules(connection, _DAY) == []


async def test_a_schedule_goes_with_the_run_that_waits(database: Database) -> None:
    schedule = await _due(database)
    async with database.transaction() as connection:
        await _fire(connection, schedule)
    async with database.connection() as connection:
        await connection.execute("DELETE FROM queue_workers")
        await connection.execute("UPDATE system_schedules SET published_at = now() - interval '25 hours'")
        assert await repository.remove_stale_system_schedules(connection, [TYPE], _DAY) == [TYPE]
        assert await repository.list_system_schedules(connection) == []
    assert await _entries(database) == []


async def test_what_is_published_while_it_is_to_be_removed_stays_with_its_run(database: Database) -> None:
    schedule = await _due(database)
    async with database.transaction() as connection:
        run_id = await _fire(connection, schedule)
        await connection.execute("DELETE FROM queue_workers")
        await connection.execute("UPDATE system_schedules SET published_at = now() - interval '25 hours'")

    async def remove() -> list[str]:
        async with database.connection() as connection:
            return await repository.remove_stale_system_schedules(connection, [TYPE], _DAY)

    async with asyncio.TaskGroup() as tasks, database.transaction() as connection:
        await repository.publish_system_schedules(connection, [_PUBLISHED])
        removal = tasks.create_task(remove())
        await _somebody_waits(database)
    assert removal.result() == []
    assert await _entries(database) == [run_id]


async def test_the_first_time_counts_from_when_the_times_were_published(database: Database) -> None:
    async with database.transaction() as connection:
        await repository.publish_system_schedules(connection, [_PUBLISHED])
        await connection.execute("UPDATE system_schedules SET published_at = now() - interval '5 hours'")
    async with database.connection() as connection:
        (first,) = await repository.unplanned_system_schedules(connection)
        await repository.announce_system_schedules(connection, [_PUBLISHED])
    async with database.transaction() as connection:
        await repository.publish_system_schedules(connection, [_PUBLISHED])
    async with database.connection() as connection:
        (later,) = await repository.unplanned_system_schedules(connection)
        assert later.published_at == first.published_at
        await repository.publish_system_schedules(
            connection, [PublishedSchedule(TYPE, "@daily", "UTC", "Clean up.")]
        )
        (changed,) = await repository.unplanned_system_schedules(connection)
    assert changed.published_at > first.published_at


async def test_a_fault_is_told_until_there_is_a_next_time(database: Database) -> None:
    async with database.connection() as connection:
        await repository.publish_system_schedules(connection, [_PUBLISHED])
        await connection.execute(
            "UPDATE system_schedules SET last_outcome = 'failed', last_error = 'Broken.'"
        )
        (schedule,) = await repository.unplanned_system_schedules(connection)
        assert await repository.record_fault(connection, schedule, "nobody knows why")
        assert not await repository.record_fault(connection, schedule, "nobody knows why")
        (faulty,) = await repository.list_system_schedules(connection)
        await repository.plan_system_schedule(connection, schedule, schedule.read_at + _LATER)
        (planned,) = await repository.list_system_schedules(connection)
    assert faulty.last_error == "It cannot be scheduled: nobody knows why."
    assert planned.last_error == ""


async def test_a_next_time_leaves_what_the_last_run_failed_with(database: Database) -> None:
    async with database.connection() as connection:
        await repository.publish_system_schedules(connection, [_PUBLISHED])
        await connection.execute(
            "UPDATE system_schedules SET last_outcome = 'failed', last_error = 'Broken.'"
        )
        (schedule,) = await repository.unplanned_system_schedules(connection)
        await repository.plan_system_schedule(connection, schedule, schedule.read_at + _LATER)
        (planned,) = await repository.list_system_schedules(connection)
    assert planned.last_error == "Broken."

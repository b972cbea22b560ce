"""Reserving what is due and recording what became of it, as the database does it."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from millrace_database import firing_repository
from millrace_database.database import Database
from millrace_database.firing_repository import Outcome
from millrace_database.ids import new_id
from support.due_schedules import execute, runs_of, store_due, stored
from support.polling import eventually

LEASE = timedelta(seconds=30)
_COPY = """
INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, next_run_at)
SELECT gen_random_uuid(), org_id, name, type, recurrence, time_zone, next_run_at - n * interval '1 second'
FROM scheduled_jobs, generate_series(1, $2::integer) AS n
WHERE schedule_id = $1
"""


async def _reserve(database: Database, lease: timedelta = LEASE, limit: int = 100) -> list[UUID]:
    async with database.connection() as connection:
        due = await firing_repository.reserve_due(connection, lease=lease, limit=limit)
        return [one.schedule.schedule_id for one in due]


async def _seconds(database: Database) -> float | None:
    async with database.connection() as connection:
        return await firing_repository.seconds_until_due(connection)


async def _outcome(database: Database, schedule_id: UUID, outcome: Any, **fields: Any) -> Outcome:
    due_at: datetime = (await stored(database, schedule_id))["next_run_at"]
    return Outcome(schedule_id, due_at, due_at, outcome, **fields)


async def _record(database: Database, *outcomes: Outcome) -> dict[UUID, firing_repository.Recorded]:
    async with database.connection() as connection:
        return await firing_repository.record_outcomes(connection, outcomes, pause_after=5)


async def test_what_is_due_is_reserved_once_the_longest_due_first(database: Database) -> None:
    late = await store_due(database, ago=timedelta(hours=2))
    later = await store_due(database, ago=timedelta(hours=1))
    first = await store_due(database, ago=timedelta(hours=3))
    await store_due(database, ago=timedelta(hours=-1))
    assert await _reserve(database, limit=2) == [first, late]
    assert await _reserve(database) == [later]
    assert await _reserve(database) == []


async def test_one_organisation_does_not_hold_up_another(database: Database) -> None:
    many = await store_due(database, ago=timedelta(hours=1))
    await execute(database, _COPY, many, 2000)
    other = await store_due(database, org_id="other")

    first = await _reserve(database, limit=10)

    assert other in first
    assert len(first) == 10


async def test_who_catches_up_does_not_hold_up_the_others_of_its_organisation(database: Database) -> None:
    catching_up = await store_due(
        database, ago=timedelta(days=2), catch_up_policy="run_all", catch_up_seconds=10**6
    )
    on_time = await store_due(database)
    assert await _reserve(database) == [on_time, catching_up]


async def test_reserving_passes_over_what_another_is_reserving(database: Database) -> None:
    first = await store_due(database, ago=timedelta(hours=2))
    second = await store_due(database, ago=timedelta(hours=1))
    async with database.transaction() as connection:
        (taken,) = await firing_repository.reserve_due(connection, lease=LEASE, limit=1)
        assert taken.schedule.schedule_id == first
        assert await _reserve(database) == [second]


async def test_a_reservation_that_ran_out_is_given_to_the_next(database: Database) -> None:
    schedule_id = await store_due(database)
    async with database.connection() as connection:
        (first,) = await firing_repository.reserve_due(connection, lease=timedelta(milliseconds=300), limit=9)
    seconds = await _seconds(database)
    assert seconds is not None
    assert 0 <= seconds <= 0.3

    async def reserve() -> list[firing_repository.Reserved]:
        async with database.connection() as connection:
            return await firing_repository.reserve_due(connection, lease=LEASE, limit=9)

    (second,) = await eventually(reserve)
    assert second.schedule.schedule_id == schedule_id
    assert (first.tried_before, second.tried_before) == (False, True)


@pytest.mark.parametrize(
    "change", ["paused = true", "deleted_at = now(), paused = true", "deleted_at = now()"]
)
async def test_what_is_paused_or_deleted_is_not_reserved(database: Database, change: str) -> None:
    await store_due(database)
    await execute(database, f"UPDATE scheduled_jobs SET {change}")  # noqa: S608 - constants of this test
    assert await _reserve(database) == []


async def test_firing_moves_a_schedule_on_exactly_once(database: Database) -> None:
    schedule_id, other = await store_due(database), await store_due(database)
    due_at = (await stored(database, schedule_id))["next_run_at"]
    ahead = due_at + timedelta(hours=1)
    job_id, other_job = new_id(), new_id()
    fired = await _outcome(database, schedule_id, "fired", job_id=job_id, upcoming_at=ahead)
    last = await _outcome(database, other, "fired", job_id=other_job)

    assert set(await _record(database, fired, last)) == {schedule_id, other}
    assert await _record(database, fired) == {}

    row = await stored(database, schedule_id)
    assert (row["last_run_at"], row["last_job_id"], row["next_run_at"]) == (due_at, job_id, ahead)
    assert (row["fired_count"], row["reserved_until"]) == (1, None)
    assert (await stored(database, other))["next_run_at"] is None
    assert [(run["outcome"], run["job_id"]) for run in await runs_of(database, schedule_id)] == [
        ("fired", job_id)
    ]
    assert await _reserve(database) == []


async def test_a_job_is_recorded_even_when_its_schedule_was_deleted_meanwhile(database: Database) -> None:
    deleted, gone = await store_due(database), await store_due(database)
    outcomes = [await _outcome(database, one, "fired", job_id=new_id()) for one in (deleted, gone)]
    await execute(
        database,
        "UPDATE scheduled_jobs SET deleted_at = now(), next_run_at = NULL WHERE schedule_id = $1",
        deleted,
    )
    await execute(database, "DELETE FROM scheduled_jobs WHERE schedule_id = $1", gone)

    assert await _record(database, *outcomes) == {}

    assert Counter(run["outcome"] for run in await runs_of(database, deleted)) == Counter(fired=1)
    assert (await stored(database, deleted))["next_run_at"] is None


async def test_a_skip_or_failure_of_a_schedule_that_moved_on_is_not_recorded(database: Database) -> None:
    skipped, failed = await store_due(database), await store_due(database)
    outcomes = [await _outcome(database, skipped, "skipped"), await _outcome(database, failed, "failed")]
    await execute(database, "UPDATE scheduled_jobs SET next_run_at = next_run_at + interval '1 second'")

    assert await _record(database, *outcomes) == {}

    assert await runs_of(database, skipped) == await runs_of(database, failed) == []
    assert (await stored(database, failed))["consecutive_failures"] == 0


async def test_five_failures_in_a_row_pause_a_schedule(database: Database) -> None:
    schedule_id = await store_due(database)
    version = (await stored(database, schedule_id))["version"]
    failed = await _outcome(
        database,
        schedule_id,
        "failed",
        reason="gone",
        pause_reason="5 times: gone",
        retry_delay=timedelta(hours=1),
    )

    found = [(await _record(database, failed))[schedule_id] for _ in range(4)]
    assert [(one.consecutive_failures, one.paused) for one in found] == [
        (number, False) for number in range(1, 5)
    ]
    assert await _seconds(database) == pytest.approx(3600, abs=60)
    assert (await stored(database, schedule_id))["version"] == version

    assert (await _record(database, failed))[schedule_id].paused
    row = await stored(database, schedule_id)
    assert (row["paused"], row["pause_reason"], row["version"]) == (True, "5 times: gone", version + 1)
    assert [(run["outcome"], run["reason"]) for run in await runs_of(database, schedule_id)] == [
        ("failed", "gone")
    ]


async def test_watched_schedules_are_looked_through_in_pages(database: Database) -> None:
    watched = sorted([await store_due(database, pause_after_failed_runs=1) for _ in range(5)])
    await store_due(database)
    async with database.connection() as connection:
        pages = [await firing_repository.pause_failed_page(connection, None, 2)]
        while pages[-1][1] is not None:
            pages.append(await firing_repository.pause_failed_page(connection, pages[-1][1], 2))
    assert [last for _, last in pages] == [watched[1], watched[3], None]


async def test_how_long_there_is_nothing_to_do(database: Database) -> None:
    assert await _seconds(database) is None
    await store_due(database, ago=timedelta(hours=-2))
    assert await _seconds(database) == pytest.approx(7200, abs=60)
    await store_due(database, ago=timedelta(hours=-1))
    assert await _seconds(database) == pytest.approx(3600, abs=60)
    await store_due(database)
    assert await _seconds(database) == 0

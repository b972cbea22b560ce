import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from millrace_database import Database, firing_repository, schedules_repository
from millrace_database.ids import new_id
from millrace_database.schedules_repository import NewSchedule, ScheduleFilters, ScheduleRecord

LEASE = timedelta(seconds=30)
PAST = datetime(2026, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


def _schedule(
    org_id: str = "acme", next_run_at: datetime = PAST, request_id: str | None = None
) -> NewSchedule:
    return NewSchedule(
        schedule_id=new_id(),
        org_id=org_id,
        name="nightly",
        type="reports:generate",
        input_json='{"number": 1.50}',
        metadata_json='{"team": "a"}',
        recurrence_json='{"cron": {"expression": "@daily"}}',
        time_zone="Europe/Paris",
        start_at=None,
        end_at=FUTURE,
        next_run_at=next_run_at,
        created_by="ada",
        request_id=request_id,
    )


async def _create(database: Database, schedule: NewSchedule) -> ScheduleRecord:
    async with database.connection() as connection:
        record, _ = await schedules_repository.create_schedule(connection, schedule)
        return record


async def _get(database: Database, schedule_id: UUID) -> ScheduleRecord:
    async with database.connection() as connection:
        record = await schedules_repository.get_schedule(connection, "acme", schedule_id)
        assert record is not None
        return record


async def test_a_schedule_comes_back_as_it_was_given(database: Database) -> None:
    new = _schedule()
    record = await _create(database, new)
    assert record == replace(await _get(database, new.schedule_id), read_at=record.read_at)
    assert record.input_json == '{"number": 1.50}'
    assert (record.name, record.type, record.time_zone, record.created_by) == (
        "nightly",
        "reports:generate",
        "Europe/Paris",
        "ada",
    )
    assert (record.next_run_at, record.end_at, record.start_at) == (PAST, FUTURE, None)
    assert not record.paused
    assert abs(record.read_at - datetime.now(UTC)) < timedelta(minutes=5)


async def test_a_request_id_makes_one_schedule(database: Database) -> None:
    async with database.connection() as connection:
        first, created = await schedules_repository.create_schedule(connection, _schedule(request_id="r"))
        again, created_again = await schedules_repository.create_schedule(
            connection, _schedule(request_id="r")
        )
        other, created_other = await schedules_repository.create_schedule(
            connection, _schedule(org_id="other", request_id="r")
        )
    assert (created, created_again, created_other) == (True, False, True)
    assert again.schedule_id == first.schedule_id
    assert other.schedule_id != first.schedule_id


async def test_a_racing_creation_waits_and_finds_the_other(database: Database) -> None:
    async def create() -> UUID:
        return (await _create(database, _schedule(request_id="r"))).schedule_id

    async with database.transaction() as connection:
        first, _ = await schedules_repository.create_schedule(connection, _schedule(request_id="r"))
        racing = asyncio.create_task(create())
        done, _ = await asyncio.wait([racing], timeout=0.2)
        assert not done
    assert await racing == first.schedule_id


async def test_schedules_are_listed_newest_first_in_pages(database: Database) -> None:
    ids = [(await _create(database, _schedule())).schedule_id for _ in range(5)]
    foreign = (await _create(database, _schedule(org_id="other"))).schedule_id
    async with database.connection() as connection:
        page = await schedules_repository.list_schedules(connection, ScheduleFilters("acme"), None, 3)
        rest = await schedules_repository.list_schedules(
            connection, ScheduleFilters("acme"), page[-1].schedule_id, 3
        )
        everything = await schedules_repository.list_schedules(connection, ScheduleFilters(None), None, 100)
    assert [record.schedule_id for record in page + rest] == ids[::-1]
    assert [record.schedule_id for record in everything] == [foreign, *ids[::-1]]


async def test_another_organisations_schedule_is_no_ones_business(database: Database) -> None:
    record = await _create(database, _schedule())
    async with database.connection() as connection:
        assert await schedules_repository.get_schedule(connection, "other", record.schedule_id) is None
        assert await schedules_repository.pause_schedule(connection, "other", record.schedule_id, "") is None
        assert (
            await schedules_repository.resume_schedule(connection, "other", record.schedule_id, FUTURE)
            is None
        )
        assert not await schedules_repository.delete_schedule(connection, "other", record.schedule_id)
        assert await schedules_repository.get_schedule(connection, None, record.schedule_id) is not None
        assert await schedules_repository.delete_schedule(connection, "acme", record.schedule_id)
        assert not await schedules_repository.delete_schedule(connection, "acme", record.schedule_id)


async def test_pausing_and_resuming(database: Database) -> None:
    schedule = await _create(database, _schedule())
    async with database.connection() as connection:
        paused = await schedules_repository.pause_schedule(
            connection, "acme", schedule.schedule_id, "holidays"
        )
        assert paused is not None
        assert (paused.paused, paused.pause_reason, paused.next_run_at) == (True, "holidays", PAST)
        assert await firing_repository.reserve_due(connection, lease=LEASE, limit=9) == []
        assert await firing_repository.seconds_until_due(connection) is None

        resumed = await schedules_repository.resume_schedule(connection, "acme", schedule.schedule_id, FUTURE)
        assert resumed is not None
        assert (resumed.paused, resumed.pause_reason, resumed.next_run_at) == (False, "", FUTURE)
        again = await schedules_repository.resume_schedule(connection, "acme", schedule.schedule_id, PAST)
        assert again is not None
        assert again.next_run_at == FUTURE
        assert again.updated_at == resumed.updated_at > schedule.updated_at

"""The schedules of organisations: kept, changed, paused and resumed. `firing_repository` fires them."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from millrace_database import schedule_statements as statements


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to be created.

    Attributes:
        schedule_id: its id, made by the caller.
        org_id: whose jobs it creates.
        name: a name for people.
        type: the type of the jobs it creates.
        input_json: their input, a JSON object.
        metadata_json: their metadata, a JSON object.
        recurrence_json: when it fires, in the caller's own JSON form.
        time_zone: the IANA time zone of its local times.
        start_at: it does not fire before.
        end_at: it does not fire after.
        next_run_at: when it fires first.
        created_by: who creates it.
        request_id: makes a repeated creation harmless; unique in its organisation.
        next_scheduled_time: the time that the recurrence names for `next_run_at`; None: the same.
        jitter_seconds: each firing is late by less than so much.
        overlap_policy: one of OVERLAP_POLICIES.
        catch_up_policy: one of CATCH_UP_POLICIES.
        catch_up_seconds: how far back "run_all" goes; None with the others.
        max_runs: it ends after so many firings; 0: never.
        pause_after_failed_runs: it pauses itself when so many of its jobs in a row have failed; 0: never.
        delivery_json: the Delivery message in its JSON form, with secrets; None: results are not delivered.

    """

    schedule_id: UUID
    org_id: str
    name: str
    type: str
    input_json: str
    metadata_json: str
    recurrence_json: str
    time_zone: str
    start_at: datetime | None
    end_at: datetime | None
    next_run_at: datetime
    created_by: str
    request_id: str | None = None
    next_scheduled_time: datetime | None = None
    jitter_seconds: int = 0
    overlap_policy: str = "allow"
    catch_up_policy: str = "run_once"
    catch_up_seconds: int | None = None
    max_runs: int = 0
    pause_after_failed_runs: int = 0
    delivery_json: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule as it was at `read_at`; times are the database's, JSON is text.

    `next_run_at` is None once it has fired for the last time; it is kept while the schedule is paused.
    """

    schedule_id: UUID
    org_id: str
    name: str
    type: str
    input_json: str
    metadata_json: str
    recurrence_json: str
    time_zone: str
    start_at: datetime | None
    end_at: datetime | None
    paused: bool
    pause_reason: str
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_job_id: UUID | None
    consecutive_failures: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    next_scheduled_time: datetime | None
    jitter_seconds: int
    overlap_policy: str
    catch_up_policy: str
    catch_up_seconds: int | None
    max_runs: int
    pause_after_failed_runs: int
    delivery_json: str | None
    version: int
    fired_count: int
    missed_count: int
    skipped_count: int
    watched_since: datetime
    reserved_until: datetime | None
    deleted_at: datetime | None
    read_at: datetime


@dataclass(frozen=True, slots=True)
class ScheduleValues:
    """What a caller may change of a schedule, all of it, with the meanings that NewSchedule gives."""

    # In the order of the parameters of UPDATE.
    name: str
    type: str
    input_json: str
    metadata_json: str
    recurrence_json: str
    time_zone: str
    start_at: datetime | None
    end_at: datetime | None
    jitter_seconds: int
    overlap_policy: str
    catch_up_policy: str
    catch_up_seconds: int | None
    max_runs: int
    pause_after_failed_runs: int
    delivery_json: str | None


@dataclass(frozen=True, slots=True)
class ScheduleFilters:
    """Which schedules to list: all that are given must match.

    Attributes:
        org_id: whose; None: those of all organisations.
        type: the type of their jobs.
        frequency: the name of the frequency's field in the recurrence, such as "daily".
        active: whether they will fire, or are paused or have ended.
        delivery: the name of the method's field in the delivery, such as "webhook"; "none": without delivery.
        search: a text that their name or type holds, in any case.

    """

    org_id: str | None
    type: str | None = None
    frequency: str | None = None
    active: bool | None = None
    delivery: str | None = None
    search: str | None = None


async def create_schedule(conn: asyncpg.Connection, schedule: NewSchedule) -> tuple[ScheduleRecord, bool]:
    """Create a schedule and return it with True, or with False the one that its request id belongs to.

    Waits for the end of an open transaction that creates a schedule with the same request id.
    """
    while True:
        # More than one round only when the schedule in the way was deleted before it could be read.
        row = await conn.fetchrow(
            statements.INSERT,
            schedule.schedule_id,
            schedule.org_id,
            schedule.name,
            schedule.type,
            schedule.input_json,
            schedule.metadata_json,
            schedule.recurrence_json,
            schedule.time_zone,
            schedule.start_at,
            schedule.end_at,
            schedule.next_run_at,
            schedule.created_by,
            schedule.request_id,
            schedule.next_scheduled_time,
            schedule.jitter_seconds,
            schedule.overlap_policy,
            schedule.catch_up_policy,
            schedule.catch_up_seconds,
            schedule.max_runs,
            schedule.pause_after_failed_runs,
            schedule.delivery_json,
        )
        if row is not None:
            return ScheduleRecord(**row), True
        row = await conn.fetchrow(statements.GET_BY_REQUEST, schedule.org_id, schedule.request_id)
        if row is not None:
            return ScheduleRecord(**row), False


async def get_schedule(
    conn: asyncpg.Connection, org_id: str | None, schedule_id: UUID
) -> ScheduleRecord | None:
    """Return a schedule of an organisation (None: of any), or None when there is no such schedule."""
    return _one(await conn.fetchrow(statements.GET, schedule_id, org_id))


async def lock_schedule(conn: asyncpg.Connection, org_id: str, schedule_id: UUID) -> ScheduleRecord | None:
    """Return a schedule, or None; within a transaction, nobody else changes it until that has ended."""
    return _one(await conn.fetchrow(statements.LOCK, schedule_id, org_id))


async def list_schedules(
    conn: asyncpg.Connection, filters: ScheduleFilters, after: UUID | None, limit: int
) -> list[ScheduleRecord]:
    """Return schedules by descending id, newest first.

    `after` is the last id of the page before; None: from the newest.
    """
    search = None if filters.search is None else f"%{_like(filters.search)}%"
    wanted = (filters.type, filters.frequency, filters.active, filters.delivery, search)
    if filters.org_id is None:
        return _all(await conn.fetch(statements.LIST_ALL, after, limit, *wanted))
    return _all(await conn.fetch(statements.LIST_OF_ORG, after, limit, *wanted, filters.org_id))


async def update_schedule(
    conn: asyncpg.Connection,
    schedule_id: UUID,
    values: ScheduleValues,
    *,
    next_run_at: datetime | None,
    next_scheduled_time: datetime | None,
) -> ScheduleRecord | None:
    """Give a schedule these values and times, and a new version. None when there is no such schedule.

    A reservation holds for the time it was made for: it ends when there is another.
    """
    row = await conn.fetchrow(
        statements.UPDATE, schedule_id, *astuple(values), next_run_at, next_scheduled_time
    )
    return _one(row)


async def delete_schedule(conn: asyncpg.Connection, org_id: str, schedule_id: UUID) -> bool:
    """Delete a schedule; False when there is no such schedule. Its runs and the jobs it made stay."""
    return await conn.fetchrow(statements.DELETE, schedule_id, org_id) is not None


async def pause_schedule(
    conn: asyncpg.Connection, org_id: str, schedule_id: UUID, reason: str
) -> ScheduleRecord | None:
    """Keep a schedule from firing; of a paused one the reason is replaced. None when there is no such schedule."""
    return _one(await conn.fetchrow(statements.PAUSE, schedule_id, org_id, reason))


async def resume_schedule(
    conn: asyncpg.Connection,
    org_id: str,
    schedule_id: UUID,
    next_run_at: datetime,
    next_scheduled_time: datetime | None = None,
) -> ScheduleRecord | None:
    """Let a paused schedule fire again, next at `next_run_at`, and forget its failures.

    A schedule that is not paused is returned unchanged. None when there is no such schedule.
    """
    row = await conn.fetchrow(statements.RESUME, schedule_id, org_id, next_run_at, next_scheduled_time)
    return _one(row) or await get_schedule(conn, org_id, schedule_id)


def _like(text: str) -> str:
    """Return a text as LIKE has it, where it stands for nothing but itself."""
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _one(row: asyncpg.Record | None) -> ScheduleRecord | None:
    return None if row is None else ScheduleRecord(**row)


def _all(rows: Sequence[asyncpg.Record]) -> list[ScheduleRecord]:
    return [ScheduleRecord(**row) for row in rows]

"""The schedules of organisations: kept, paused, resumed, and fired exactly once for each of their times.

A firing takes two transactions with the creation of the job between them. `reserve_due` gives a due schedule to one
scheduler for a while; `record_fired` moves the schedule on, unless somebody else has done so. A scheduler that dies
in between loses its reservation with time, and the next one creates the same job again under the same request id,
which is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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
    read_at: datetime


@dataclass(frozen=True, slots=True)
class FailureOutcome:
    """What a failed firing led to: failures in a row, and whether the schedule has paused itself."""

    consecutive_failures: int
    paused: bool


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


async def list_schedules(
    conn: asyncpg.Connection, org_id: str | None, after: UUID | None, limit: int
) -> list[ScheduleRecord]:
    """Return schedules by descending id, newest first: of one organisation, or of all when `org_id` is None.

    `after` is the last id of the page before; None: from the newest.
    """
    if org_id is None:
        return _all(await conn.fetch(statements.LIST_ALL, after, limit))
    return _all(await conn.fetch(statements.LIST_OF_ORG, org_id, after, limit))


async def delete_schedule(conn: asyncpg.Connection, org_id: str, schedule_id: UUID) -> bool:
    """Delete a schedule; False when there is no such schedule. The jobs it made stay."""
    return await conn.fetchrow(statements.DELETE, schedule_id, org_id) is not None


async def pause_schedule(
    conn: asyncpg.Connection, org_id: str, schedule_id: UUID, reason: str
) -> ScheduleRecord | None:
    """Keep a schedule from firing; of a paused one the reason is replaced. None when there is no such schedule."""
    return _one(await conn.fetchrow(statements.PAUSE, schedule_id, org_id, reason))


async def resume_schedule(
    conn: asyncpg.Connection, org_id: str, schedule_id: UUID, next_run_at: datetime
) -> ScheduleRecord | None:
    """Let a paused schedule fire again, next at `next_run_at`, and forget its failures.

    A schedule that is not paused is returned unchanged. None when there is no such schedule.
    """
    row = await conn.fetchrow(statements.RESUME, schedule_id, org_id, next_run_at)
    return _one(row) or await get_schedule(conn, org_id, schedule_id)


async def reserve_due(conn: asyncpg.Connection, *, lease: timedelta, limit: int) -> list[ScheduleRecord]:
    """Reserve schedules whose time has come, the longest due first, for as long as `lease`.

    Nobody else is given them before the lease is over. Several schedulers may call this at the same time; none
    waits for another.
    """
    return _all(await conn.fetch(statements.RESERVE_DUE, lease, limit))


async def record_fired(
    conn: asyncpg.Connection,
    schedule_id: UUID,
    *,
    fired_for: datetime,
    next_run_at: datetime | None,
    job_id: UUID,
) -> bool:
    """Record that the job of the time `fired_for` exists, and move the schedule on to `next_run_at`.

    `next_run_at` None: it has fired for the last time. False, and nothing changes, when the schedule is gone or is
    no longer at `fired_for`: then somebody else has moved it on.
    """
    row = await conn.fetchrow(statements.RECORD_FIRED, schedule_id, fired_for, next_run_at, job_id)
    return row is not None


async def record_failure(
    conn: asyncpg.Connection,
    schedule_id: UUID,
    *,
    failed_for: datetime,
    retry_delay: timedelta,
    pause_after: int,
    reason: str,
) -> FailureOutcome | None:
    """Record that the job of the time `failed_for` could not be created.

    The schedule is tried again after `retry_delay`; with the failure number `pause_after` in a row it is paused,
    for `reason`. None, and nothing changes, when the schedule is gone or no longer at `failed_for`.
    """
    row = await conn.fetchrow(
        statements.RECORD_FAILURE, schedule_id, failed_for, retry_delay, pause_after, reason
    )
    return None if row is None else FailureOutcome(**row)


async def seconds_until_due(conn: asyncpg.Connection) -> float | None:
    """Return how long it is until `reserve_due` finds something: 0 when it would now, None when nothing is planned."""
    seconds: float | None = await conn.fetchval(statements.SECONDS_UNTIL_DUE)
    return seconds


def _one(row: asyncpg.Record | None) -> ScheduleRecord | None:
    return None if row is None else ScheduleRecord(**row)


def _all(rows: Sequence[asyncpg.Record]) -> list[ScheduleRecord]:
    return [ScheduleRecord(**row) for row in rows]

"""Firing: each time of a schedule is fired once, whoever dies in between.

A firing takes two transactions with the creation of the job between them. `reserve_due` gives a due schedule to one
scheduler for a while; `record_outcomes` moves the schedule on, unless somebody else has done so. A scheduler that
dies in between loses its reservation with time, and the next one creates the same job again under the same request
id, which is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg

from millrace_database import firing_statements as statements
from millrace_database.schedules_repository import ScheduleRecord

# Of so many due schedules, the longest due, each organisation gets its share. To look at them takes about 40 ms.
_LOOKED_AT = 20_000
_FIRST_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Reserved:
    """A schedule that is the caller's to fire."""

    schedule: ScheduleRecord
    tried_before: bool
    """Its time was reserved before, and nothing was recorded but perhaps failures: its job may exist."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the time that a schedule was at.

    Attributes:
        schedule_id: which schedule.
        due_at: its `next_run_at`. Nothing but a run of "fired" is recorded when it is no longer there.
        scheduled_time: the time that the recurrence names for it.
        outcome: "missed" moves the schedule on and records `missed_times` alone.
        job_id: the job, with "fired".
        reason: why there is no job, with "skipped" and "failed".
        pause_reason: what to say of this schedule if this failure pauses it.
        upcoming_at: when it fires next; None: never. Without meaning with "failed".
        upcoming_scheduled: the time that the recurrence names for that.
        missed_count: how many times are passed over.
        missed_times: those of them that are recorded.
        retry_delay: when it is tried again, with "failed".

    """

    schedule_id: UUID
    due_at: datetime
    scheduled_time: datetime
    outcome: Literal["fired", "skipped", "missed", "failed"]
    job_id: UUID | None = None
    reason: str = ""
    pause_reason: str = ""
    upcoming_at: datetime | None = None
    upcoming_scheduled: datetime | None = None
    missed_count: int = 0
    missed_times: Sequence[datetime] = ()
    retry_delay: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a schedule is after its outcome: failures in a row, and whether it is paused."""

    consecutive_failures: int
    paused: bool


async def reserve_due(
    conn: asyncpg.Connection, *, lease: timedelta, limit: int, under_way: Sequence[str] = ()
) -> list[Reserved]:
    """Reserve up to `limit` schedules whose time has come, for as long as `lease`; those of all organisations in turn.

    `under_way` names the organisation of each firing that the caller has in hand: these had their turns already.
    Nobody else is given them before the lease is over. Several schedulers may call this at the same time; none
    waits for another. Of one organisation the longest due come first, and last those that make up for times more
    than a minute ago one by one.
    """
    rows = await conn.fetch(statements.RESERVE_DUE, lease, limit, max(_LOOKED_AT, limit), under_way)
    return [_reserved(row) for row in rows]


async def record_outcomes(
    conn: asyncpg.Connection, outcomes: Sequence[Outcome], *, pause_after: int
) -> dict[UUID, Recorded]:
    """Record what became of the times of schedules, each of them named once, in one statement.

    Returns what has been moved on, or has failed. Left out is a schedule that is gone or no longer at its `due_at`:
    then somebody else has moved it, and only that a job was created is recorded. A failure is the schedule's
    number `pause_after` in a row: it pauses.
    """
    missed = [(one.schedule_id, time) for one in outcomes for time in one.missed_times]
    rows = await conn.fetch(
        statements.RECORD,
        [one.schedule_id for one in outcomes],
        [one.due_at for one in outcomes],
        [one.scheduled_time for one in outcomes],
        [one.outcome for one in outcomes],
        [one.job_id for one in outcomes],
        [one.reason for one in outcomes],
        [one.pause_reason for one in outcomes],
        [one.upcoming_at for one in outcomes],
        [one.upcoming_scheduled for one in outcomes],
        [one.missed_count for one in outcomes],
        [one.retry_delay for one in outcomes],
        pause_after,
        [schedule_id for schedule_id, _ in missed],
        [time for _, time in missed],
    )
    return {row["moved_id"]: Recorded(row["consecutive_failures"], row["paused"]) for row in rows}


async def pause_failed(conn: asyncpg.Connection, schedule_ids: Sequence[UUID]) -> set[UUID]:
    """Pause those of the schedules whose last `pause_after_failed_runs` jobs all failed.

    Returns these, and all that are paused already, whoever did it.
    Only jobs that their times made count, and only those that were recorded after `watched_since`.
    """
    rows = await conn.fetch(statements.PAUSE_FAILED_OF, schedule_ids)
    return {row["failing_id"] for row in rows}


async def pause_failed_page(
    conn: asyncpg.Connection, after: UUID | None, limit: int
) -> tuple[list[UUID], UUID | None]:
    """Do the same with the next `limit` schedules by their id, from the first one when `after` is None.

    Returns the paused ones, and the last one looked at: what `after` is for the next page. None: there is none.
    """
    (row,) = await conn.fetch(statements.PAUSE_FAILED_PAGE, after or _FIRST_ID, limit)
    return row["stopped"], row["last_id"]


async def seconds_until_due(conn: asyncpg.Connection) -> float | None:
    """Return how long it is until `reserve_due` finds something: 0 when it would now, None when nothing is planned."""
    seconds: float | None = await conn.fetchval(statements.SECONDS_UNTIL_DUE)
    return seconds


def _reserved(row: asyncpg.Record) -> Reserved:
    values = dict(row)
    del values["rank"]
    tried_before = values.pop("tried_before")
    return Reserved(ScheduleRecord(**values), tried_before)

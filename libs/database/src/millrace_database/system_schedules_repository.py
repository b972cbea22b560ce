"""System schedules: declared in the code of workers, published by them, fired once for each of their times.

A run has no row of its own, only an entry in the queue, whose id is the run's, and what the schedule says of its last run.
"""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import system_schedule_statements as statements
from millrace_database.ids import format_id, new_id
from millrace_database.storable_text import storable
from millrace_queue import CHANNEL_READY, NewEntry

SYSTEM_TENANT: Final = ":system"
"""To whom the entries of system runs belong."""

SYSTEM_SCHEDULES_CHANGED_CHANNEL: Final = "millrace_system_schedules_changed"
"""Where workers tell schedulers that they list system schedules."""

MAX_ATTEMPTS: Final = 3
"""How many workers a run may be lost with."""

_QUEUE_TYPE_PREFIX = "system/"
_LOST = "The workers that ran it were lost."
_FAULT = "It cannot be scheduled: "


def queue_type(type_name: str) -> str:
    """Return the type of the queue entries of a system type: one that no job can have."""
    return _QUEUE_TYPE_PREFIX + type_name


def system_type(entry_type: str) -> str:
    """Return the system type whose entries have this type in the queue."""
    return entry_type.removeprefix(_QUEUE_TYPE_PREFIX)


def entry_name(entry_type: str, id_: UUID) -> str:
    """Return how a queue entry is named to people: "job_…", or "system_…" when it is a run of a system schedule."""
    return format_id("system" if entry_type.startswith(_QUEUE_TYPE_PREFIX) else "job", id_)


@dataclass(frozen=True, slots=True)
class PublishedSchedule:
    """What the code of a worker says of a system schedule."""

    type: str
    cron: str
    time_zone: str
    description: str


@dataclass(frozen=True, slots=True)
class SystemScheduleRecord:
    """A system schedule as it was at `read_at`; times are the database's. `is_live`: a worker that takes work lists it.

    `next_run_at` is None until a scheduler has worked it out. `last_outcome` is "running", "completed", "failed" or, when
    it has never run, "".
    """

    type: str
    cron: str
    time_zone: str
    description: str
    next_run_at: datetime | None
    published_at: datetime
    last_run_at: datetime | None
    last_run_id: UUID | None
    last_outcome: str
    last_error: str
    last_ended_at: datetime | None
    is_live: bool
    read_at: datetime


class NotStarted(enum.Enum):
    """Why a run was not started."""

    NOT_FOUND = "not found"
    """There is no such schedule."""
    NOT_LIVE = "not live"
    """No worker that takes work lists it."""
    BUSY = "busy"
    """Its last run waits or runs."""
    MOVED_ON = "moved on"
    """It is not at that time any more: somebody else has fired it, or its times are others."""


class _NotStaleError(Exception):
    """The schedule has been published or fired meanwhile, and its run stays."""


async def publish_system_schedules(conn: asyncpg.Connection, schedules: Sequence[PublishedSchedule]) -> None:
    """Make schedules known; what was known of them is replaced. To be called in a transaction."""
    if schedules:
        await millrace_queue.add_lines(conn, [queue_type(schedule.type) for schedule in schedules])
        await conn.execute(statements.PUBLISH, *_columns(schedules))


async def announce_system_schedules(conn: asyncpg.Connection, schedules: Sequence[PublishedSchedule]) -> None:
    """Tell the schedulers that a worker lists these schedules; those that nobody knows any more are made known again."""
    if schedules:
        await conn.execute(statements.PUBLISH_MISSING, *_columns(schedules))
        await conn.execute("SELECT pg_notify($1, '')", SYSTEM_SCHEDULES_CHANGED_CHANNEL)


async def list_system_schedules(conn: asyncpg.Connection) -> list[SystemScheduleRecord]:
    """Return all schedules, by type."""
    return _all(await conn.fetch(statements.LIST))


async def unplanned_system_schedules(conn: asyncpg.Connection) -> list[SystemScheduleRecord]:
    """Return the schedules whose next time nobody has worked out yet, by type."""
    return _all(await conn.fetch(statements.UNPLANNED))


async def due_system_schedules(conn: asyncpg.Connection) -> list[SystemScheduleRecord]:
    """Return the live schedules whose time has come, the longest due first."""
    return _all(await conn.fetch(statements.DUE))


async def plan_system_schedule(
    conn: asyncpg.Connection, schedule: SystemScheduleRecord, next_run_at: datetime
) -> None:
    """Set when a schedule runs next, which no fault hinders any more.

    Nothing changes when somebody has done so, or its times are others.
    """
    await conn.execute(statements.PLAN, schedule.type, schedule.cron, schedule.time_zone, next_run_at, _FAULT)


async def record_fault(conn: asyncpg.Connection, schedule: SystemScheduleRecord, said: str) -> bool:
    """Say why a schedule has no next time; False when that is said already, or its times are others."""
    fault = storable(f"{_FAULT}{said}.")
    row = await conn.fetchrow(
        statements.RECORD_FAULT, schedule.type, schedule.cron, schedule.time_zone, fault
    )
    return row is not None


async def seconds_until_due(conn: asyncpg.Connection, but: Collection[str] = ()) -> float | None:
    """Return how long it is until a live schedule is due, 0 when one is; None: there is none `but` these types."""
    seconds: float | None = await conn.fetchval(statements.SECONDS_UNTIL_DUE, list(but))
    return seconds


async def fire_system_schedule(
    conn: asyncpg.Connection, schedule: SystemScheduleRecord, next_run_at: datetime
) -> UUID | NotStarted:
    """Start the run of a due schedule and move it on to `next_run_at`, in the caller's transaction.

    When its last run waits or runs it is only moved on. Of several schedulers that call this for the same time, one starts
    the run. Returns the run's id, or why there is none.
    """
    found = await conn.fetchrow(statements.LOCK, schedule.type)
    if found is None or not _is_at_same_time(SystemScheduleRecord(**found), schedule):
        return NotStarted.MOVED_ON
    if await conn.fetchval(statements.IS_BUSY, schedule.type):
        await conn.execute(statements.SKIP, schedule.type, next_run_at)
        return NotStarted.BUSY
    return await _start(conn, schedule.type, next_run_at, schedule.next_run_at)


async def run_system_schedule(conn: asyncpg.Connection, type_name: str) -> UUID | NotStarted:
    """Start a run now, besides the schedule's times, in the caller's transaction; return its id, or why there is none."""
    found = await conn.fetchrow(statements.LOCK, type_name)
    if found is None:
        return NotStarted.NOT_FOUND
    schedule = SystemScheduleRecord(**found)
    if not schedule.is_live:
        return NotStarted.NOT_LIVE
    if await conn.fetchval(statements.IS_BUSY, type_name):
        return NotStarted.BUSY
    return await _start(conn, type_name, schedule.next_run_at, None)


async def hint_at_run(conn: asyncpg.Connection, type_name: str) -> None:
    """Tell the workers that a run of this type waits; to be called after the commit, outside of any transaction."""
    await conn.execute("SELECT pg_notify($1, $2)", CHANNEL_READY, queue_type(type_name))


async def find_runs(conn: asyncpg.Connection, run_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Return for what times those of the runs run that are the last ones of their schedules."""
    return {row["last_run_id"]: row["last_run_at"] for row in await conn.fetch(statements.FIND_RUNS, run_ids)}


async def record_end(conn: asyncpg.Connection, run_id: UUID, error: str | None) -> None:
    """Say how a run has ended, in the transaction that ends its entry. `error` None: it is completed."""
    outcome = "completed" if error is None else "failed"
    await conn.execute(statements.END, run_id, outcome, storable(error or ""))


async def end_lost_runs(conn: asyncpg.Connection) -> dict[str, UUID]:
    """Say that runs have failed whose entries are gone because their workers were lost; return them by type.

    The connection is in autocommit mode, here and below: each row is changed in a transaction of its own.
    """
    lost = {row["type"]: row["last_run_id"] for row in await conn.fetch(statements.FIND_LOST_RUNS)}
    return {
        type_name: run_id
        for type_name, run_id in lost.items()
        if await conn.fetchrow(statements.END_LOST_RUN, run_id, _LOST) is not None
    }


async def stale_system_schedules(conn: asyncpg.Connection, unlisted_for: timedelta) -> list[str]:
    """Return the types of the schedules that no live worker has listed for so long, give or take an hour.

    To be called at least once an hour, which keeps in mind what is listed.
    """
    await conn.execute(statements.KEEP_LISTED)
    return [row["type"] for row in await conn.fetch(statements.FIND_STALE, unlisted_for)]


async def remove_stale_system_schedules(
    conn: asyncpg.Connection, types: Sequence[str], unlisted_for: timedelta
) -> list[str]:
    """Remove those of the schedules that are stale now, each with a run that waits; return their types."""
    return [type_name for type_name in types if await _remove(conn, type_name, unlisted_for)]


async def _remove(conn: asyncpg.Connection, type_name: str, unlisted_for: timedelta) -> bool:
    try:
        async with conn.transaction():
            run_id = await conn.fetchval(statements.FIND_LAST_RUN, type_name)
            # The entry first, as whoever writes both locks it first.
            await millrace_queue.cancel(conn, [] if run_id is None else [run_id])
            await _delete_stale(conn, type_name, run_id, unlisted_for)
    except _NotStaleError:
        return False
    return True


async def _delete_stale(
    conn: asyncpg.Connection, type_name: str, run_id: UUID | None, unlisted_for: timedelta
) -> None:
    if await conn.fetchrow(statements.DELETE_STALE, unlisted_for, type_name, run_id) is None:
        raise _NotStaleError


async def _start(
    conn: asyncpg.Connection, type_name: str, next_run_at: datetime | None, run_at: datetime | None
) -> UUID:
    run_id = new_id()
    await conn.execute(statements.START, type_name, next_run_at, run_at, run_id)
    entry = NewEntry(run_id, queue_type(type_name), SYSTEM_TENANT, max_attempts=MAX_ATTEMPTS)
    await millrace_queue.enqueue(conn, [entry])
    return run_id


def _is_at_same_time(found: SystemScheduleRecord, wanted: SystemScheduleRecord) -> bool:
    return (found.cron, found.time_zone, found.next_run_at) == (
        wanted.cron,
        wanted.time_zone,
        wanted.next_run_at,
    )


def _columns(
    schedules: Sequence[PublishedSchedule],
) -> tuple[list[str], list[str], list[str], list[str]]:
    return (
        [schedule.type for schedule in schedules],
        [schedule.cron for schedule in schedules],
        [schedule.time_zone for schedule in schedules],
        [schedule.description for schedule in schedules],
    )


def _all(rows: Sequence[asyncpg.Record]) -> list[SystemScheduleRecord]:
    return [SystemScheduleRecord(**row) for row in rows]

"""How long many schedules that are due at once take to be fired, and how late one is on an idle system."""

import asyncio
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import orjson

from bench.line import Line, at_most, quantile
from bench.rounds import Bench
from bench.samples import NOOP, small_input
from millrace.scheduler.v1 import schedule_pb2
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_scheduler.recurrence_messages import recurrence_to_json
from millrace_worker.publication import publish
from millrace_worker.registry import load_handlers

_ORGANISATIONS = 10
_AHEAD = timedelta(seconds=3)
_APART = timedelta(milliseconds=47)
_POLL_SECONDS = 0.02

_STORE = """
INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, next_run_at, input)
SELECT id, org_id, 'bench', $3, recurrence::jsonb, 'UTC', next_run_at, $6::text::jsonb
FROM unnest($1::uuid[], $2::text[], $4::text[], $5::timestamptz[]) AS given (id, org_id, recurrence, next_run_at)
"""


async def measure(bench: Bench) -> list[Line]:
    due, timed = bench.scale.schedules, bench.scale.pick_ups
    seconds, late = [], []
    for _ in range(bench.scale.rounds):
        async with bench.surroundings.database() as database:
            await publish(database, load_handlers(["bench.handlers"]))
            async with bench.surroundings.services(database, "jobs", "scheduler"):
                seconds.append(await _seconds_for(database, due))
                late.extend(await _milliseconds_late(database, timed // bench.scale.rounds))
    return [
        Line(f"{due:,} schedules due at once, fired by one scheduler", "s", seconds, goal=at_most(20)),
        Line("scheduled time → job created, idle, p50", "ms", [quantile(late, 0.5)]),
        Line("scheduled time → job created, idle, p99", "ms", [quantile(late, 0.99)], goal=at_most(250)),
    ]


async def _seconds_for(database: Database, schedules: int) -> float:
    """From the time of all of them until the last job was created."""
    at = await _soon(database)
    await _store(database, itertools.repeat(at, schedules))
    await _until_fired(database)
    async with database.connection() as connection:
        last: datetime = await connection.fetchval("SELECT max(created_at) FROM jobs")
    return (last - at).total_seconds()


async def _milliseconds_late(database: Database, schedules: int) -> list[float]:
    """How much later than its time each job was created; the times are a little apart."""
    at = await _soon(database)
    await _store(database, (at + _APART * number for number in range(schedules)))
    await _until_fired(database)
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT created_at, metadata ->> 'scheduled_time' AS due FROM jobs WHERE created_at >= $1", at
        )
    return [
        (row["created_at"] - datetime.fromisoformat(row["due"])) / timedelta(milliseconds=1) for row in rows
    ]


async def _soon(database: Database) -> datetime:
    async with database.connection() as connection:
        now: datetime = await connection.fetchval("SELECT now()")
    return now.astimezone(UTC) + _AHEAD


async def _store(database: Database, times: Iterable[datetime]) -> None:
    moments = list(times)
    recurrences = []
    for moment in moments:
        recurrence = schedule_pb2.Recurrence()
        recurrence.once.at.FromDatetime(moment)
        recurrences.append(recurrence_to_json(recurrence))
    organisations = [f"org-{number % _ORGANISATIONS}" for number in range(len(moments))]
    async with database.connection() as connection:
        await connection.execute(
            _STORE,
            [new_id() for _ in moments],
            organisations,
            NOOP,
            recurrences,
            moments,
            orjson.dumps(small_input(1)).decode(),
        )
        await connection.execute("NOTIFY millrace_schedules_changed")


async def _until_fired(database: Database) -> None:
    async with database.connection() as connection:
        while await connection.fetchval(
            "SELECT EXISTS (SELECT FROM scheduled_jobs WHERE next_run_at IS NOT NULL)"
        ):
            await asyncio.sleep(_POLL_SECONDS)

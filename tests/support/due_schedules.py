"""Schedules whose time has come, the loop that fires them, and what became of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.schedules_repository import NewSchedule, create_schedule
from millrace_scheduler.firing import Firing
from millrace_scheduler.jobs_client import open_jobs_client
from millrace_scheduler.recurrence_messages import recurrence_to_json
from support.jobs_api import ANY_TYPE
from support.scheduler_api import every

Condition = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def firing_alone(database: Database, jobs_address: str) -> AsyncIterator[Firing]:
    """Run the firing loop, without the service around it and quick to try again."""
    async with open_jobs_client(jobs_address, max_message_bytes=2**20) as jobs, asyncio.TaskGroup() as loops:
        firing = Firing(database, jobs, first_retry=timedelta(milliseconds=10))
        task = loops.create_task(firing.run())
        yield firing
        task.cancel()


async def store_due(
    database: Database,
    *,
    ago: timedelta = timedelta(0),
    recurrence: schedule_pb2.Recurrence | None = None,
    org_id: str = "acme",
    **fields: Any,
) -> UUID:
    """Store a schedule of an organisation whose time came so long ago, and nobody fired it since; every minute."""
    async with database.transaction() as connection:
        due_at = await connection.fetchval("SELECT date_trunc('second', now()) - $1::interval", ago)
        schedule = NewSchedule(
            schedule_id=new_id(),
            org_id=org_id,
            name="A schedule",
            type=ANY_TYPE,
            input_json="{}",
            metadata_json="{}",
            recurrence_json=recurrence_to_json(recurrence or every(60)),
            time_zone="UTC",
            **{"start_at": due_at, "end_at": None, **fields},
            next_run_at=due_at,
            created_by="user_7",
        )
        await create_schedule(connection, schedule)
    return schedule.schedule_id


async def stored(database: Database, schedule_id: UUID) -> dict[str, Any]:
    """Return the row of a schedule."""
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM scheduled_jobs WHERE schedule_id = $1", schedule_id)
    assert row is not None
    return dict(row)


async def runs_of(database: Database, schedule_id: UUID) -> list[dict[str, Any]]:
    """Return what became of a schedule's times, in their order."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT * FROM schedule_runs WHERE schedule_id = $1 ORDER BY scheduled_time", schedule_id
        )
    return [dict(row) for row in rows]


async def execute(database: Database, statement: str, *values: object) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, *values)


def at_rest(database: Database, schedule_id: UUID) -> Condition:
    """Whether nothing is to be done for a schedule now: it is ahead of now, has ended or is paused."""

    async def condition() -> bool:
        async with database.connection() as connection:
            return bool(
                await connection.fetchval(
                    "SELECT reserved_until IS NULL AND (paused OR next_run_at IS NULL OR next_run_at > now()) "
                    "FROM scheduled_jobs WHERE schedule_id = $1",
                    schedule_id,
                )
            )

    return condition

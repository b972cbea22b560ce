"""System schedules of tests, and what became of them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest

from millrace.scheduler.v1 import scheduler_service_pb2, system_schedule_pb2
from millrace_database.database import Database
from millrace_database.system_schedules_repository import SYSTEM_SCHEDULES_CHANGED_CHANNEL
from millrace_worker import Registry, SystemContext
from support.scheduler_api import SchedulerApi
from support.worker_runs import fetched

TYPE = "test:cleanup"

NEVER_IN_TESTS = "0 0 1 1 *"
"""Once a year: what a test wants to be fired it makes due."""


class Runs:
    """A system schedule that notes its runs, and ends when it is let."""

    def __init__(self, cron: str = NEVER_IN_TESTS, *, held: bool = False) -> None:
        self.seen: list[SystemContext] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        if not held:
            self.may_end.set()
        self.registry = Registry()

        @self.registry.system_schedule(TYPE, cron)
        async def clean_up(context: SystemContext) -> None:
            """Remove what nobody needs.

            More of it.
            """
            self.seen.append(context)
            self.begun.set()
            await self.may_end.wait()


async def make_due(database: Database, type_: str, *, ago: timedelta = timedelta(0)) -> None:
    """Let a schedule that has a next time have been due for so long, and tell the schedulers to look."""
    await schedule(database, type_, lambda row: row["next_run_at"] is not None)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE system_schedules SET next_run_at = date_trunc('second', now()) - $2::interval WHERE type = $1",
            type_,
            ago,
        )
    await tell_schedulers(database)


async def tell_schedulers(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT pg_notify($1, '')", SYSTEM_SCHEDULES_CHANGED_CHANNEL)


async def schedule(
    database: Database, type_: str, wanted: Callable[[Any], object] = lambda _: True, *, within: float = 20
) -> Any:
    """The row of a schedule once the condition holds of it."""
    rows = await fetched(
        database,
        f"SELECT * FROM system_schedules WHERE type = '{type_}'",  # noqa: S608 - a type of the test
        lambda rows: rows and wanted(rows[0]),
        within=within,
    )
    return rows[0]


async def ended(database: Database, type_: str, *, within: float = 20) -> Any:
    """The row of a schedule once its last run has ended."""
    return await schedule(
        database, type_, lambda row: row["last_outcome"] in ("completed", "failed"), within=within
    )


async def list_system_schedules(api: SchedulerApi) -> list[system_schedule_pb2.SystemSchedule]:
    answer = await api.schedules.ListSystemSchedules(scheduler_service_pb2.ListSystemSchedulesRequest())
    return list(answer.system_schedules)


async def run_system_schedule(api: SchedulerApi, type_: str = TYPE) -> str:
    """Ask for a run, and return its id."""
    answer = await api.schedules.RunSystemSchedule(scheduler_service_pb2.RunSystemScheduleRequest(type=type_))
    return answer.run_id


async def run_refused(api: SchedulerApi, type_: str = TYPE) -> grpc.StatusCode:
    """Ask for a run that is refused, and return with what status it is."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await run_system_schedule(api, type_)
    return raised.value.code()


async def no_entries(database: Database) -> None:
    """Wait until the queue is empty."""
    await fetched(database, "SELECT FROM queue", lambda rows: not rows)

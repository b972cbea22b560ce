"""System schedules of tests, and what became of them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from millrace_database.database import Database
from millrace_database.system_schedules_repository import SYSTEM_SCHEDULES_CHANGED_CHANNEL
from support.worker_runs import fetched

NEVER_IN_TESTS = "0 0 1 1 *"
"""Once a year: what a test wants to be fired it makes due."""


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

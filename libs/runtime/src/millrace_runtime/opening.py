import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import structlog

from millrace_database.availability import UnsupportedServerError, is_unavailable
from millrace_database.database import Database
from millrace_database.schema_version import schema_is_current
from millrace_runtime.settings import StartupError

_RETRY_SECONDS = 0.5

_T = TypeVar("_T")

_log = structlog.get_logger()


async def retried_while_away(attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Return what `attempt` returns; repeat it for as long as it finds the database away."""
    is_first = True
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not is_unavailable(error):
                raise
            if is_first:
                _log.warning("waiting for the database", error=str(error))
            is_first = False
        await asyncio.sleep(_RETRY_SECONDS)


async def wait_for_schema(database: Database) -> None:
    """Wait until the database answers and its schema is the one this version needs, or a later one.

    Raises StartupError when the database refuses us: a wrong password, a database that does not exist.
    """

    async def is_current() -> bool:
        try:
            await database.ping()
            return await schema_is_current(database.url)
        except (asyncpg.PostgresError, UnsupportedServerError) as error:
            if is_unavailable(error):
                raise
            raise StartupError(f"the database cannot be used: {error}") from error

    is_first = True
    while not await retried_while_away(is_current):
        if is_first:
            _log.warning("waiting for the schema: run `millrace migrate`")
        is_first = False
        await asyncio.sleep(_RETRY_SECONDS)

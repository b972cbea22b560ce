"""Telling "the database cannot be reached" apart from every other error."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import asyncpg
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

OLDEST_SERVER = 15
"""The oldest major version of Postgres that Millrace runs on."""

# The server speaks, and says that it cannot serve now: it starts, stops, fails over or has no room.
_SERVER_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    # asyncpg was to use a connection that has got the server's last words, and not yet its end.
    asyncpg.InternalClientError,
)
_CLOSED_WORDS = ("connection is closed", "connection was closed", "connection has been released")


class DatabaseUnavailableError(Exception):
    """No connection to the database can be had now; trying again later may help."""


class UnsupportedServerError(Exception):
    """The server is older than Millrace supports."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the server is PostgreSQL {version}; Millrace needs {OLDEST_SERVER} or newer")


def is_unavailable(error: BaseException) -> bool:
    """Tell whether `error` means that the database cannot be reached now.

    True when it refuses, resets, shuts down, has no connection left, or did not answer a statement in time; then
    the same call may succeed later. Looks through SQLAlchemy's wrappers.
    """
    if isinstance(error, (DatabaseUnavailableError, exc.TimeoutError, *_SERVER_AWAY)):
        return True
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, asyncpg.InterfaceError):
        return any(words in str(error) for words in _CLOSED_WORDS)
    if isinstance(error, exc.DBAPIError):
        cause = _driver_error(error)
        return error.connection_invalidated or (cause is not None and is_unavailable(cause))
    return False


@asynccontextmanager
async def acquired(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection of the engine.

    Raises DatabaseUnavailableError when the server cannot be reached, and asyncpg's error when it refuses for a reason
    that waiting does not mend, such as a wrong password.
    """
    with _told_apart():
        connection = await engine.connect()
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def acquired_driver(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection of the engine's pool as the driver's own, at half the cost; raises what `acquired` raises."""
    with _told_apart():
        pooled = await engine.raw_connection()
    try:
        yield cast("asyncpg.Connection", pooled.driver_connection)
    finally:
        await greenlet_spawn(pooled.close)


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatabaseUnavailableError(f"no connection to the database: {error}") from error
    except (exc.DBAPIError, AsyncAdapt_asyncpg_dbapi.Error) as error:
        # The driver's own error is the cause of the dialect's, which `engine.connect` wraps once more.
        dialect_error = error.orig if isinstance(error, exc.DBAPIError) else error
        cause = dialect_error and dialect_error.__cause__
        if cause is None or is_unavailable(error) or is_unavailable(cause):
            raise DatabaseUnavailableError(f"no connection to the database: {dialect_error}") from error
        raise cause from None


def _driver_error(error: exc.DBAPIError) -> BaseException | None:
    return None if error.orig is None else error.orig.__cause__

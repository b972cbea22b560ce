"""A pool of database connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from millrace_database.availability import (
    OLDEST_SERVER,
    DatabaseUnavailableError,
    UnsupportedServerError,
    acquired,
    acquired_driver,
)
from millrace_database.connection_url import asyncpg_dsn, normalise_url

# A plan made while the tables were small reads them whole later. And what is worked on is in memory: at Postgres's own
# ratio, that of a spinning disk, a batch of 500 among some ten thousand jobs reads all of them instead of 500 by their ids.
_PLANS_ANEW = "SET plan_cache_mode = force_custom_plan; SET random_page_cost = 1.1; SET client_connection_check_interval = 500"
# Planning a hot statement takes longer than executing it for one job. Each has one good plan, whatever the size of the
# tables: by the indexes, row by row. Where nothing else may be chosen that plan can be kept.
#
# A statement whose caller has gone must not wait for a lock, get it, and commit. Through a pooler only its own end helps: a
# little before the caller gives up.
_PLANS_KEPT = """
SET client_connection_check_interval = 500; SET statement_timeout = 9500;
SET plan_cache_mode = force_generic_plan; SET random_page_cost = 1.1;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off
"""
# Through a pooler the connection may have been one that keeps plans.
_QUERY = text("""
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'on', true),
    set_config('enable_bitmapscan', 'on', true), set_config('enable_hashjoin', 'on', true),
    set_config('enable_mergejoin', 'on', true)
""")
_CONNECT_TIMEOUT_SECONDS = 5
_COMMAND_TIMEOUT_SECONDS = 10
_ROLLBACK_TIMEOUT_SECONDS = 2
_PING_TIMEOUT_SECONDS = 3
# Statements are few and fixed, and inputs are sent as arrays: this holds them all.
_STATEMENT_CACHE_SIZE = 200


class Database:
    """A pool of connections to one Postgres.

    Short statements use `transaction` or `connection`, which give the asyncpg connection. Queries put together at
    run time use `session`, which gives SQLAlchemy Core. Both take from the same pool; json and jsonb come as text. A
    connection that broke is replaced when it is next taken, so that nothing has to be done after the server was
    away. Every statement ends within 10 seconds, by an error if need be; `is_unavailable` recognises the errors of a
    server that is away.
    """

    def __init__(self, url: str, *, application_name: str, pool_size: int, keep_plans: bool) -> None:
        self.url = normalise_url(url)
        self._dsn = asyncpg_dsn(url)
        self._application_name = application_name
        self._settings = _PLANS_KEPT if keep_plans else _PLANS_ANEW
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            async_creator=self.direct_connection,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_COMMAND_TIMEOUT_SECONDS,
            pool_use_lifo=True,
            # As text, to lose no digit of a number; callers decode what they need.
            json_deserializer=str,
            hide_parameters=True,
        )
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)

    @classmethod
    async def open(
        cls, url: str, *, application_name: str, pool_size: int = 5, keep_plans: bool = False
    ) -> "Database":
        """Make the pool. Connections are made when they are first needed: `ping` tells whether any can be.

        `application_name` is what `pg_stat_activity` shows. With `keep_plans` a statement is planned once for each connection, and
        by indexes only: for hot statements, those of job_lifecycle, and no others. Raises ValueError when `url` is no Postgres URL.
        """
        return cls(url, application_name=application_name, pool_size=pool_size, keep_plans=keep_plans)

    async def close(self) -> None:
        """Close all connections that are not in use."""
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Give an asyncpg connection inside a transaction, committed at the end, rolled back on an exception."""
        async with self._driver_connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            except BaseException as error:
                await _roll_back(connection, transaction, error)
                raise
            else:
                await transaction.commit()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Give an asyncpg connection outside of any transaction: each statement commits by itself."""
        async with self._driver_connection() as connection:
            yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """Give a SQLAlchemy Core connection inside a transaction, for queries put together at run time."""
        async with acquired(self.engine) as connection, connection.begin():
            try:
                await connection.execute(_QUERY)
                yield connection
            except TimeoutError:
                _driver_connection(await connection.get_raw_connection()).terminate()
                await connection.invalidate()
                raise

    async def ping(self) -> None:
        """Ask the server for a sign of life. Raises an error that `is_unavailable` recognises if there is none."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1", timeout=_PING_TIMEOUT_SECONDS)

    async def direct_connection(self) -> asyncpg.Connection:
        """Open a connection outside of the pool, for LISTEN; the caller closes it.

        Raises DatabaseUnavailableError when the server cannot be reached, UnsupportedServerError when it is too old.
        """
        try:
            connection = await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_TIMEOUT_SECONDS,
                command_timeout=_COMMAND_TIMEOUT_SECONDS,
                statement_cache_size=_STATEMENT_CACHE_SIZE,
                server_settings={"application_name": self._application_name},
            )
        except OSError as error:
            # Of a Unix socket that is gone it is a FileNotFoundError.
            raise DatabaseUnavailableError(f"no connection to the database: {error}") from error
        version = connection.get_server_version()
        if version.major < OLDEST_SERVER:
            connection.terminate()
            raise UnsupportedServerError(version.major)
        try:
            # Not startup parameters: poolers refuse those.
            await connection.execute(self._settings)
        except BaseException:
            # Also when the caller is cancelled meanwhile: nobody else has it.
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def _driver_connection(self) -> AsyncIterator[asyncpg.Connection]:
        async with acquired_driver(self.engine) as connection:
            try:
                yield connection
            except (TimeoutError, asyncpg.InternalClientError):
                # What the server does with the statement is unknown: the connection is of no further use. To end
                # the statement first would only mean to wait once more.
                connection.terminate()
                raise
            finally:
                if not connection.is_closed() and _may_be_in_transaction(connection):
                    connection.terminate()


async def asyncpg_connection(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the asyncpg connection under a caller's own SQLAlchemy connection, inside his transaction.

    What is done on it, such as enqueueing a job, commits or rolls back together with what the caller does. The
    transaction is begun if it has not been. Raises ValueError when the driver is not asyncpg, or the connection
    commits each statement by itself.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise ValueError("the engine must use asyncpg: postgresql+asyncpg://")  # noqa: TRY004 - a wrong value
    if not driver.is_in_transaction():
        # SQLAlchemy puts BEGIN off until the first statement.
        await connection.execute(text("SELECT 1"))
    if not driver.is_in_transaction():
        raise ValueError("the connection is in autocommit mode; a transaction is needed")
    return driver


def _may_be_in_transaction(connection: asyncpg.Connection) -> bool:
    # The latter when a task was cancelled while BEGIN was on its way: asyncpg would take the next transaction for a part of
    # that one, which nobody commits.
    return connection.is_in_transaction() or cast("Any", connection)._top_xact is not None  # noqa: SLF001


def _driver_connection(raw: Any) -> asyncpg.Connection:
    return cast("asyncpg.Connection", raw.driver_connection)


def _refuse_closed(adapted: Any, _record: Any, _proxy: Any) -> None:
    # The pool then replaces this connection and all that are as old: after a restart none of them lives.
    if _driver_connection(adapted).is_closed():
        raise exc.InvalidatePoolError


async def _roll_back(connection: asyncpg.Connection, transaction: Any, error: BaseException) -> None:
    if connection.is_closed():
        return
    if isinstance(error, TimeoutError):
        connection.terminate()
        return
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT_SECONDS):
            await transaction.rollback()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        # A connection that is gone is as good as rolled back; the error that led here is the one to report.
        connection.terminate()

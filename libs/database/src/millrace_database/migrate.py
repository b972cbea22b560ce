"""Bringing a database's schema up to date."""

from pathlib import Path
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from millrace_database.availability import OLDEST_SERVER, UnsupportedServerError, acquired
from millrace_database.connection_url import normalise_url

VERSION_TABLE = "millrace_schema_version"
"""Where the applied version is kept; a name of our own, as the database may hold other Alembic histories."""

_SERVER_VERSION = text("SELECT current_setting('server_version_num')::integer")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('millrace.migrate', 0))")


async def migrate(url: str) -> None:
    """Bring the schema of the database up to date; nothing is changed when it is already.

    All migrations run in one transaction: they apply together or not at all. Of several processes that call this
    at the same time one migrates while the others wait. Works through a connection pooler, too. Raises
    UnsupportedServerError when the server is too old, and an error that `is_unavailable` knows when it is away.
    """
    engine = _engine(url)
    try:
        async with acquired(engine) as connection, connection.begin():
            await connection.execute(_LOCK)
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def schema_is_current(url: str) -> bool:
    """Tell whether the schema is the one that this version of Millrace needs, or a later one.

    A later one is fine: migrations first only add, and remove what a release has stopped using one release later.
    """
    engine = _engine(url)
    try:
        async with acquired(engine) as connection:
            applied = await connection.run_sync(_applied_version)
    finally:
        await engine.dispose()
    return applied is not None and applied >= latest_version()


def latest_version() -> str:
    """Return the version of the schema that this version of Millrace needs; versions sort as text."""
    version = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if version is None:
        raise RuntimeError("the migrations are missing from the installation")
    return version


def alembic_config() -> Config:
    """Return Alembic's configuration; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _engine(url: str) -> AsyncEngine:
    # A name of its own for each prepared statement: behind a pooler the session may know the common ones.
    return create_async_engine(
        normalise_url(url),
        poolclass=NullPool,
        connect_args={
            "server_settings": {"application_name": "millrace migrate"},
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"millrace_{uuid4().hex}",
        },
    )


def _upgrade(connection: Connection) -> None:
    server: int = connection.execute(_SERVER_VERSION).scalar_one() // 10_000
    if server < OLDEST_SERVER:
        raise UnsupportedServerError(server)
    if (applied := _applied_version(connection)) is not None and applied >= latest_version():
        return
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _applied_version(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()

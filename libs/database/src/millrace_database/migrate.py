"""Bringing a database's schema up to date."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from millrace_database.availability import OLDEST_SERVER, UnsupportedServerError, acquired
from millrace_database.schema_version import VERSION_TABLE, latest_version, schema_engine

_SERVER_VERSION = text("SELECT current_setting('server_version_num')::integer")
# Through a pooler the connection may have been one whose statements end early.
_NO_LIMIT = text("SET LOCAL statement_timeout = 0")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('millrace.migrate', 0))")


async def migrate(url: str) -> None:
    """Bring the schema of the database up to date; nothing is changed when it is already.

    All migrations run in one transaction: they apply together or not at all. Of several processes that call this
    at the same time one migrates while the others wait. Works through a connection pooler, too. Raises
    UnsupportedServerError when the server is too old, and an error that `is_unavailable` knows when it is away.
    """
    engine = schema_engine(url)
    try:
        async with acquired(engine) as connection, connection.begin():
            await connection.execute(_NO_LIMIT)
            await connection.execute(_LOCK)
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def alembic_config() -> Config:
    """Return Alembic's configuration; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


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

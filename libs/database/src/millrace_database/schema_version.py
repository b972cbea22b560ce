"""Which version the schema of a database has; known without Alembic, which every start of a service would pay for."""

from pathlib import Path
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from millrace_database.availability import acquired
from millrace_database.connection_url import normalise_url

VERSION_TABLE = "millrace_schema_version"
"""Where the applied version is kept; a name of our own, as the database may hold other Alembic histories."""

_HAS_TABLE = text("SELECT to_regclass('millrace_schema_version') IS NOT NULL")
_APPLIED = text("SELECT max(version_num) FROM millrace_schema_version")


async def schema_is_current(url: str) -> bool:
    """Tell whether the schema is the one that this version of Millrace needs, or a later one.

    A later one is fine: migrations first only add, and remove what a release has stopped using one release later.
    """
    engine = schema_engine(url)
    try:
        async with acquired(engine) as connection:
            applied = await _applied_version(connection)
    finally:
        await engine.dispose()
    return applied is not None and applied >= latest_version()


def latest_version() -> str:
    """Return the version of the schema that this version of Millrace needs; versions sort as text.

    Raises RuntimeError when the migrations, whose files are named after their versions, are missing.
    """
    files = (Path(__file__).parent / "migrations" / "versions").glob("v*_*.py")
    try:
        return max(file.name.removeprefix("v").partition("_")[0] for file in files)
    except ValueError:
        raise RuntimeError("the migrations are missing from the installation") from None


def schema_engine(url: str) -> AsyncEngine:
    """Return an engine for looking at the schema, or changing it; it works through a pooler."""
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


async def _applied_version(connection: AsyncConnection) -> str | None:
    if not (await connection.execute(_HAS_TABLE)).scalar_one():
        return None
    version: str | None = (await connection.execute(_APPLIED)).scalar_one()
    return version

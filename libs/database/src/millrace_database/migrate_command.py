"""The command `millrace migrate`."""

import asyncio
from pathlib import Path
from typing import Annotated

import asyncpg
import typer

from millrace_database.availability import DatabaseUnavailableError, UnsupportedServerError
from millrace_database.embedded import EmbeddedPostgresError, resolve_database
from millrace_database.migrate import migrate as migrate_database
from millrace_database.schema_version import latest_version, schema_is_current

# What a person can do something about; anything else is a fault, and shows where it happened.
_EXPECTED = (
    DatabaseUnavailableError,
    EmbeddedPostgresError,
    UnsupportedServerError,
    ValueError,
    asyncpg.PostgresError,
)


def migrate(
    *,
    database_url: Annotated[
        str,
        typer.Option(
            envvar="MILLRACE_DATABASE_URL",
            help="The Postgres to migrate. Empty: the embedded one.",
            show_default=False,
        ),
    ] = "",
    data_dir: Annotated[
        Path, typer.Option(envvar="MILLRACE_DATA_DIR", help="The folder of the embedded Postgres.")
    ] = Path(".millrace"),
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 when the schema is out of date.")
    ] = False,
) -> None:
    """Bring the database's schema up to date. Safe to run again, and by several at the same time."""
    try:
        is_current = asyncio.run(_bring_up_to_date(database_url or None, data_dir, check=check))
    except _EXPECTED as error:
        typer.echo(f"millrace migrate: {error}", err=True)
        raise typer.Exit(1) from error
    if not is_current:
        typer.echo(f"the schema is older than version {latest_version()}; run: millrace migrate", err=True)
        raise typer.Exit(1)
    typer.echo(f"the schema is at version {latest_version()}")


async def _bring_up_to_date(database_url: str | None, data_dir: Path, *, check: bool) -> bool:
    async with resolve_database(database_url, data_dir) as url:
        if not check:
            await migrate_database(url)
        return await schema_is_current(url)

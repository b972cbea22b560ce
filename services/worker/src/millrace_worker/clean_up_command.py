"""The command `millrace clean-up`."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Annotated

import asyncpg
import typer

from millrace_database import Database
from millrace_database.availability import DatabaseUnavailableError, UnsupportedServerError
from millrace_database.embedded import EmbeddedPostgresError, EmbeddedPostgresMissingError, resolve_database
from millrace_database.schema_version import latest_version, schema_is_current
from millrace_runtime import exit_codes
from millrace_runtime.settings import Settings, StartupError, read_settings
from millrace_storage.cleanup_report import CleanupReport
from millrace_storage.file_errors import StoreNotConfigured
from millrace_storage.object_store import StoreUnusableError
from millrace_storage.object_stores import open_object_stores
from millrace_storage.storage_cleanup import clean_up_storage

# What the settings say cannot be used.
_SETTINGS = (StartupError, EmbeddedPostgresMissingError, StoreNotConfigured, StoreUnusableError)

# What a person can do something about; anything else is a fault, and shows where it happened.
_EXPECTED = (
    *_SETTINGS,
    DatabaseUnavailableError,
    EmbeddedPostgresError,
    UnsupportedServerError,
    asyncpg.PostgresError,
)


def clean_up(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
) -> None:
    """Remove expired files and uploads, and what crashes left in the object stores, now.

    Workers do the same every hour. It is set up by the MILLRACE_* variables of the services, and may run beside them. Exits
    with 1 when something could not be removed, with 2 when its settings cannot be used.
    """
    try:
        report = asyncio.run(_clean_up(read_settings(), dry_run=dry_run))
    except _EXPECTED as error:
        typer.echo(f"millrace clean-up: {error}", err=True)
        raise typer.Exit(
            exit_codes.CANNOT_START if isinstance(error, _SETTINGS) else exit_codes.FAILED
        ) from error
    typer.echo(json.dumps(asdict(report)) if as_json else _table(report))
    for said in [*report.left_alone, *report.problems]:
        typer.echo(f"millrace clean-up: {said}", err=True)
    if report.problems:
        raise typer.Exit(exit_codes.FAILED)


async def _clean_up(settings: Settings, *, dry_run: bool) -> CleanupReport:
    async with AsyncExitStack() as closing:
        try:
            url = await closing.enter_async_context(
                resolve_database(settings.database_url, settings.data_dir, make=False)
            )
        except ValueError as error:
            raise StartupError(f"MILLRACE_DATABASE_URL: {error}") from None
        stores = await closing.enter_async_context(open_object_stores(settings))
        if not await schema_is_current(url):
            raise StartupError(f"the schema is older than version {latest_version()}; run: millrace migrate")
        database = await Database.open(url, application_name="millrace clean-up")
        try:
            return await clean_up_storage(
                database, stores, dry_run=dry_run or settings.storage_cleanup_dry_run
            )
        finally:
            await database.close()


def _table(report: CleanupReport) -> str:
    steps = report.steps()
    width = max(len(name) for name, _ in steps)
    lines = [f"{name:<{width}}  {amount.count:>9,}  {amount.bytes:>15,} bytes" for name, amount in steps]
    if report.dry_run:
        lines.insert(0, "a dry run: nothing was changed")
    return "\n".join(lines)

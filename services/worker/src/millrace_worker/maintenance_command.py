"""The command `millrace maintenance`."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Annotated

import asyncpg
import orjson
import typer

from millrace_database import Database
from millrace_database.availability import DatabaseUnavailableError, UnsupportedServerError
from millrace_database.database_maintenance import maintain
from millrace_database.embedded import EmbeddedPostgresError, EmbeddedPostgresMissingError, resolve_database
from millrace_database.maintenance_report import MaintenanceReport
from millrace_database.schema_version import schema_is_current
from millrace_runtime import exit_codes
from millrace_runtime.settings import Settings, StartupError, read_settings
from millrace_worker.retention_settings import retention_of

# What the settings say cannot be used.
_SETTINGS = (StartupError, EmbeddedPostgresMissingError, ValueError)

# What a person can do something about; anything else is a fault, and shows where it happened.
_EXPECTED = (
    *_SETTINGS,
    DatabaseUnavailableError,
    EmbeddedPostgresError,
    UnsupportedServerError,
    asyncpg.PostgresError,
)

_POOL_SIZE = 2


def maintenance(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and count; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
) -> None:
    """Do now what database:maintenance does every day, and print the report. For operators.

    It is set up by the MILLRACE_* environment variables of a worker. Ends with 1 when a step has failed.
    """
    try:
        report = asyncio.run(_maintained(read_settings(), dry_run=dry_run))
    except _EXPECTED as error:
        sys.stderr.write(f"millrace maintenance: {error}\n")
        raise typer.Exit(
            exit_codes.CANNOT_START if isinstance(error, _SETTINGS) else exit_codes.FAILED
        ) from error
    if as_json:
        typer.echo(orjson.dumps(report.as_json()).decode())
    else:
        for line in _lines(report):
            typer.echo(line)
    if (failure := report.failure()) is not None:
        sys.stderr.write(f"millrace maintenance: {failure}\n")
        raise typer.Exit(exit_codes.FAILED)


async def _maintained(settings: Settings, *, dry_run: bool) -> MaintenanceReport:
    async with resolve_database(settings.database_url, settings.data_dir, make=False) as url:
        if not await schema_is_current(url):
            raise StartupError("the schema is out of date; run: millrace migrate")
        database = await Database.open(url, application_name="millrace maintenance", pool_size=_POOL_SIZE)
        try:
            return await maintain(database, retention_of(settings), dry_run=dry_run)
        finally:
            await database.close()


def _lines(report: MaintenanceReport) -> Iterator[str]:
    for step in report.steps:
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in step.counts.items())
        yield f"{step.name:<22}{counts or '-'}{'' if step.error is None else '  FAILED'}"
    if report.dry_run:
        yield "nothing was changed (dry run)"
    for hint in report.hints:
        yield f"hint: {hint.name}: {hint.found}"
        yield f"      {hint.command}"
    if not report.hints:
        yield "no hints"

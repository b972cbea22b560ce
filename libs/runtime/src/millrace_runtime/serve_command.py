"""The command `millrace serve`, and the program that `millrace up` starts for each service."""

import asyncio
import gc
import os
import sys
from functools import partial
from importlib.metadata import entry_points
from typing import Annotated

import structlog
import typer
import uvloop

from millrace_database.embedded import EmbeddedPostgresError, resolve_database
from millrace_runtime import exit_codes
from millrace_runtime.allocator import return_free_memory
from millrace_runtime.logging import configure_logging
from millrace_runtime.service import ServiceDefinition, run_service
from millrace_runtime.settings import Settings, StartupError, read_settings, unknown_variables
from millrace_runtime.supervised import SupervisorLink

_SERVICES = "millrace.services"

_GARBAGE_THRESHOLDS = (20_000, 20, 100)

_log = structlog.get_logger()


def serve(
    name: Annotated[str, typer.Argument(help="The service: jobs, scheduler or worker.")],
    *,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run one service until SIGTERM or SIGINT.

    It is set up by MILLRACE_* environment variables. Without MILLRACE_DATABASE_URL it uses, and migrates, the
    embedded PostgreSQL of MILLRACE_DATA_DIR; a database that is named is not migrated.
    """
    try:
        settings = read_settings()
        definition = _load(name)
    except StartupError as error:
        _say(f"serve {name}", error)
        raise typer.Exit(exit_codes.CANNOT_START) from None
    raise typer.Exit(run_process(definition, settings, SupervisorLink() if supervised else None))


def run_process(
    definition: ServiceDefinition,
    settings: Settings,
    supervisor: SupervisorLink | None = None,
    *,
    command: str = "",
) -> int:
    """Run a service as this process and return the exit code.

    0 after a stop that was asked for, 1 after a failure, which is logged, 2 when it could not start, which is said on
    standard error in one line. `command` is what people call it by; empty: `serve`, and the name of the service.
    """
    configure_logging(settings, service=definition.name)
    for variable in unknown_variables(os.environ):
        _log.warning("no such setting", variable=variable)
    _collect_garbage_rarely()
    return_free_memory()
    if supervisor is not None:
        supervisor.stop_when_lost(settings.shutdown_grace_seconds)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(definition, settings, supervisor))
    except (StartupError, EmbeddedPostgresError) as error:
        _say(command or f"serve {definition.name}", error)
        return exit_codes.CANNOT_START
    except Exception:  # noqa: BLE001 - whatever it was ends the process, and is logged with its traceback
        _log.exception("service failed")
        return exit_codes.FAILED
    return 0


def _collect_garbage_rarely() -> None:
    """Keep the garbage collector from walking the loaded modules: that took half of a busy worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


async def _serve(
    definition: ServiceDefinition, settings: Settings, supervisor: SupervisorLink | None
) -> None:
    run = run_service
    if supervisor is not None:
        run = partial(run_service, on_listening=supervisor.report, on_open=supervisor.report_urls)
    if settings.database_url is not None:
        await run(definition, settings)
        return
    async with resolve_database(None, settings.data_dir) as url:
        _log.info("database", embedded_in=str(settings.data_dir.absolute()))
        # Only here: it brings Alembic along.
        from millrace_database.migrate import migrate  # noqa: PLC0415

        await migrate(url)
        embedded = settings.model_copy(update={"database_url": url})
        await run(definition, embedded)


def _load(name: str) -> ServiceDefinition:
    installed = entry_points(group=_SERVICES)
    if name not in installed.names:
        raise StartupError(f"no such service; there are: {', '.join(sorted(installed.names))}")
    definition = installed[name].load()
    if not isinstance(definition, ServiceDefinition):
        raise StartupError(f"{installed[name].value} is no ServiceDefinition")
    return definition


def _say(command: str, error: Exception) -> None:
    sys.stderr.write(f"millrace {command}: {error}\n")


if __name__ == "__main__":
    typer.run(serve)

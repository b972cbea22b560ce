"""The command `millrace up`."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

import asyncpg
import typer

from millrace_database.availability import DatabaseUnavailableError, UnsupportedServerError
from millrace_database.embedded import EmbeddedPostgresError, resolve_database
from millrace_runtime import exit_codes
from millrace_runtime.addresses import join_host_port, local_host
from millrace_runtime.errors import sole_error
from millrace_runtime.logging import configure_logging
from millrace_runtime.settings import PREFIX, Settings, StartupError, read_settings
from millrace_runtime.signals import stop_on_signal
from millrace_runtime.supervisor import SupervisedProcess, SupervisionError

_JOBS = "jobs"
_OTHERS = ("scheduler", "worker")
# Services end by themselves within their grace period and a second.
_SPARE_SECONDS = 1.3

# What a person can do something about; anything else is a fault, and shows where it happened.
_EXPECTED = (
    StartupError,
    SupervisionError,
    EmbeddedPostgresError,
    DatabaseUnavailableError,
    UnsupportedServerError,
    asyncpg.PostgresError,
    OSError,
    ValueError,
)


def up() -> None:
    """Start the whole system on this machine: the three services, and a PostgreSQL unless one is named.

    It is set up by MILLRACE_* environment variables. The database is migrated first. SIGTERM or Ctrl-C stops
    everything within 10 seconds; a service that dies is started again.
    """
    try:
        settings = read_settings()
        configure_logging(settings, service="up")
        asyncio.run(_until_stopped(settings))
    except Exception as raised:
        error = _first_error(raised)
        if not isinstance(error, _EXPECTED):
            raise
        sys.stderr.write(f"millrace up: {error}\n")
        raise typer.Exit(_exit_code(error)) from None


def _first_error(raised: Exception) -> BaseException:
    error = sole_error(raised)
    if isinstance(error, ExceptionGroup) and error.split(SupervisionError)[1] is None:
        # What keeps one service from starting may keep another one.
        return sole_error(error.exceptions[0])
    return error


def _exit_code(error: BaseException) -> int:
    if isinstance(error, StartupError):
        return exit_codes.CANNOT_START
    is_of_service = isinstance(error, SupervisionError) and error.exit_code == exit_codes.CANNOT_START
    return exit_codes.CANNOT_START if is_of_service else exit_codes.FAILED


async def _until_stopped(settings: Settings) -> None:
    system = asyncio.create_task(_run(settings))

    def stop() -> None:
        system.cancel()

    with stop_on_signal(stop, settings.shutdown_grace_seconds + _SPARE_SECONDS):
        await asyncio.wait([system])
    if not system.cancelled():
        system.result()


async def _run(settings: Settings) -> None:
    async with resolve_database(settings.database_url, settings.data_dir) as url:
        # Only here: it brings Alembic along.
        from millrace_database.migrate import migrate  # noqa: PLC0415

        await migrate(url)
        processes: list[SupervisedProcess] = []
        try:
            await _start(settings, processes, {**os.environ, f"{PREFIX}DATABASE_URL": url})
            _announce(settings, processes)
            async with asyncio.TaskGroup() as keepers:
                for process in processes:
                    keepers.create_task(process.keep_alive())
        finally:
            await asyncio.gather(
                *(process.stop(settings.shutdown_grace_seconds + _SPARE_SECONDS) for process in processes)
            )


async def _start(settings: Settings, processes: list[SupervisedProcess], environment: dict[str, str]) -> None:
    # A URL that somebody else serves says nothing of the port here.
    own_urls = {"files": f"{PREFIX}FILES_PORT"} if settings.files_url is None else {}
    jobs = _process(_JOBS, environment, own_urls)
    processes.append(jobs)
    address = join_host_port(local_host(settings.host), settings.jobs_port)
    if settings.jobs_port == 0:
        # The others must be told which port it chose.
        await jobs.start()
        address = jobs.address
    others = [_process(name, {**environment, f"{PREFIX}JOBS_ADDRESS": address}) for name in _OTHERS]
    processes.extend(others)
    async with asyncio.TaskGroup() as starting:
        for process in processes:
            if not process.address:
                starting.create_task(process.start())
    async with asyncio.TaskGroup() as getting_ready:
        for process in processes:
            getting_ready.create_task(process.wait_until_serving())


def _process(
    name: str, environment: Mapping[str, str], url_port_variables: Mapping[str, str] | None = None
) -> SupervisedProcess:
    return SupervisedProcess(
        name,
        [sys.executable, "-m", "millrace_runtime.serve_command", name, "--supervised"],
        environment,
        port_variable=f"{PREFIX}{name.upper()}_PORT",
        url_port_variables=url_port_variables,
    )


def _announce(settings: Settings, processes: Sequence[SupervisedProcess]) -> None:
    embedded = f"embedded, in {settings.data_dir / 'postgres'}"
    typer.echo(f"{'database':<10} {embedded if settings.database_url is None else 'as configured'}")
    for process in processes:
        typer.echo(f"{process.name:<10} {process.address}")
        for name, url in process.urls.items():
            typer.echo(f"{name:<10} {url}")
    typer.echo("millrace is ready; Ctrl-C stops it")
    sys.stdout.flush()

"""The command `millrace worker`: a worker with a team's own handlers."""

import os
import sys
from typing import Annotated

import typer

from millrace_runtime import exit_codes
from millrace_runtime.serve_command import run_process
from millrace_runtime.settings import PREFIX, StartupError, read_settings
from millrace_worker.service import definition, worker_service


def worker(
    handlers: Annotated[
        str | None,
        typer.Option(
            help="The modules whose handlers it runs, separated by commas, instead of MILLRACE_HANDLERS."
        ),
    ] = None,
) -> None:
    """Run a worker until SIGTERM or SIGINT.

    The same as `millrace serve worker`. Modules are also looked for in the working directory.
    """
    if handlers is not None:
        os.environ[f"{PREFIX}HANDLERS"] = handlers
    service = definition if handlers is None else worker_service(named_by="--handlers ")
    try:
        settings = read_settings()
    except StartupError as error:
        sys.stderr.write(f"millrace worker: {error}\n")
        raise typer.Exit(exit_codes.CANNOT_START) from None
    raise typer.Exit(run_process(service, settings, command="worker"))

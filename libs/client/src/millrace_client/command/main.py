"""The `millrace` command."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import typer

from millrace_client.command.global_options import accept_global_options
from millrace_client.command.lazy_group import LazyCommand, lazy_group

_SERVER_COMMANDS = "millrace.commands"
# Said here since asking the packages themselves would load a whole server for each --help.
_SERVER_SUMMARIES = {
    "clean-up": "Remove files and objects that nobody needs any more.",
    "maintenance": "Remove what nobody needs any more of the database, and say where it is bloated.",
    "migrate": "Bring the tables of the database up to date.",
    "serve": "Run one service.",
    "up": "Start the whole system on this machine.",
    "worker": "Run a worker with handlers of your own.",
}


def main() -> None:
    """Run the command line that this process was started with."""
    build_app()(prog_name="millrace")


def build_app() -> typer.Typer:
    """Put the command together: its own groups, and what installed server packages add."""
    app = typer.Typer(
        name="millrace",
        help="Background jobs and scheduling.",
        cls=lazy_group(_own_commands() | _server_commands()),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    accept_global_options(app, with_version=True)
    return app


def _own_commands() -> dict[str, LazyCommand]:
    return {
        "jobs": LazyCommand("Hand work over, watch it, stop it, try it again.", _app("jobs")),
        "types": LazyCommand("The types of job there are: show them, hold them back.", _app("job_types")),
        "job-types": LazyCommand("The same as types list.", _app("job_types", "job_types_app")),
        "files": LazyCommand("What jobs read and what they make.", _app("files")),
        "schedules": LazyCommand("Create jobs at set times.", _app("schedules")),
        "subscriptions": LazyCommand("Have the events of jobs posted to a URL.", _app("subscriptions")),
        "system-schedules": LazyCommand(
            "What workers do by themselves at set times.", _app("system_schedules")
        ),
        "workers": LazyCommand("The workers of this installation.", _app("workers")),
        "orgs": LazyCommand("The share and the limits of organisations.", _app("organisations")),
        "queue": LazyCommand("How the queue is.", _app("queue_health")),
    }


def _app(module: str, name: str = "app") -> Callable[[], Any]:
    return lambda: getattr(import_module(f"millrace_client.command.{module}"), name)


def _server_commands() -> dict[str, LazyCommand]:
    """Find the commands that installed server packages add; without any there are none."""
    return {
        entry.name: LazyCommand(
            _SERVER_SUMMARIES.get(entry.name, f"From {entry.module}."), entry.load, "Server"
        )
        for entry in sorted(entry_points(group=_SERVER_COMMANDS), key=lambda entry: entry.name)
    }

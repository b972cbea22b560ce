"""What every command accepts, before its name or after it."""

import inspect
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Annotated, Any

import typer

_PANEL = "Global options"


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """The global options; None or False where one is not given."""

    org: Annotated[
        str | None,
        typer.Option("--org", help="The organisation [MILLRACE_ORG_ID].", rich_help_panel=_PANEL),
    ] = None
    jobs_address: Annotated[
        str | None,
        typer.Option(
            "--jobs-address",
            "--address",
            help="The Jobs service [MILLRACE_JOBS_ADDRESS, else 127.0.0.1 and MILLRACE_JOBS_PORT].",
            rich_help_panel=_PANEL,
        ),
    ] = None
    scheduler_address: Annotated[
        str | None,
        typer.Option(
            "--scheduler-address",
            help="The Scheduler service [MILLRACE_SCHEDULER_ADDRESS, MILLRACE_SCHEDULER_PORT].",
            rich_help_panel=_PANEL,
        ),
    ] = None
    worker_address: Annotated[
        str | None,
        typer.Option(
            "--worker-address",
            help="A worker [MILLRACE_WORKER_ADDRESS, MILLRACE_WORKER_PORT].",
            rich_help_panel=_PANEL,
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON, one object a line.", rich_help_panel=_PANEL),
    ] = False

    def merged_with(self, after: "GlobalOptions") -> "GlobalOptions":
        """Combine these, given before a command's name, with those after it, which win."""
        return GlobalOptions(
            **{name.name: getattr(after, name.name) or getattr(self, name.name) for name in fields(self)}
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"millrace {version('millrace-client')}")
        raise typer.Exit


CONTEXT = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
"""The parameter by which a command gets its context."""

GLOBAL_PARAMETERS = tuple(
    option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for option in inspect.signature(GlobalOptions).parameters.values()
)
"""The parameters by which a command gets the global options."""

_VERSION = inspect.Parameter(
    "version",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ],
)


def accept_global_options(
    app: typer.Typer, *, with_version: bool = False, default: str | None = None
) -> None:
    """Let an app, or a group of commands, take the global options before the name of a command.

    `default` is the command that is meant when none is named; None: one has to be.
    """

    def remember(ctx: typer.Context, **values: Any) -> None:
        values.pop("version", None)  # its callback has ended the process if it was wanted
        given = GlobalOptions(**values)
        ctx.obj = given if ctx.obj is None else ctx.obj.merged_with(given)
        if default is not None and ctx.invoked_subcommand is None:
            _invoke(ctx, default)

    parameters = [CONTEXT, *([_VERSION] if with_version else []), *GLOBAL_PARAMETERS]
    remember.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    app.callback(invoke_without_command=default is not None)(remember)


def _invoke(ctx: typer.Context, name: str) -> None:
    command = ctx.command.commands[name]  # type: ignore[attr-defined]  # it is that of a group
    with command.make_context(name, [], parent=ctx) as of_command:
        command.invoke(of_command)

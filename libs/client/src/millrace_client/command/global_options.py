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


def accept_global_options(app: typer.Typer) -> None:
    """Let an app take the global options, and --version, before the name of a command."""

    def remember(ctx: typer.Context, *, version: bool, **values: Any) -> None:  # noqa: ARG001 - its callback exits
        ctx.obj = GlobalOptions(**values)

    parameters = [CONTEXT, _VERSION, *GLOBAL_PARAMETERS]
    remember.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    app.callback()(remember)

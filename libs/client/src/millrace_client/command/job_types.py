"""`millrace types` and `millrace job-types`."""

from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.limit_text import limit_text
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.job_type import JobType
from millrace_client.limits import JobTypeLimits, RateLimit

app = typer.Typer(
    help="The types of job there are: show them, hold them back.", no_args_is_help=True, add_completion=False
)
accept_global_options(app)
job_types_app = typer.Typer(add_completion=False)

JobTypeName = Annotated[str, typer.Argument(metavar="TYPE", help='Such as "reports:generate".')]

_COLUMNS: Columns[JobType] = {
    "TYPE": lambda job_type: job_type.type,
    "LABEL": lambda job_type: job_type.label,
    "ATTEMPTS": lambda job_type: job_type.max_attempts,
    "TIMEOUT": lambda job_type: job_type.timeout,
    "WORKERS": lambda job_type: job_type.active_workers,
    "LIMITS": lambda job_type: ", ".join(_holding_back(job_type)),
    "DESCRIPTION": lambda job_type: job_type.description,
}


@command(app, "list", of_organisation=False)
@command(job_types_app, "job-types", of_organisation=False)
async def list_job_types(client: Millrace, output: Output) -> None:
    """List the types of job that workers have published; with --json also the schema of their input, and the rest."""
    await output.table(_COLUMNS, client.job_types.list())


@command(app, "show", of_organisation=False)
async def show(client: Millrace, output: Output, job_type: JobTypeName) -> None:
    """Show a type: what its handler says of it, whether it is paused, and the limits that hold."""
    found = await client.job_types.get(job_type)
    output.show(found, for_people={"limits": limit_text(found.limits)})


@command(app, "pause", of_organisation=False)
async def pause(client: Millrace, output: Output, job_type: JobTypeName) -> None:
    """Start no more jobs of a type, on any worker; those that run go on."""
    _show(output, await client.job_types.pause(job_type), _pause_text)


@command(app, "resume", of_organisation=False)
async def resume(client: Millrace, output: Output, job_type: JobTypeName) -> None:
    """Start jobs of a type again."""
    _show(output, await client.job_types.resume(job_type), _pause_text)


@command(app, "limits", of_organisation=False)
async def set_limits(
    client: Millrace,
    output: Output,
    *,
    job_type: JobTypeName,
    max_running: Annotated[
        int | None, typer.Option(min=0, help="How many run at once; 0: any number.")
    ] = None,
    max_running_per_org: Annotated[
        int | None, typer.Option(min=0, help="How many of one organisation run at once; 0: any number.")
    ] = None,
    rate: Annotated[
        RateLimit | None,
        typer.Option(
            parser=parse.rate, metavar="RATE", help='How many start, such as "100/1m"; 0: any number.'
        ),
    ] = None,
    rate_per_org: Annotated[
        RateLimit | None,
        typer.Option(
            parser=parse.rate,
            metavar="RATE",
            help='How many of one organisation start, such as "5/s,smooth"; 0: any number.',
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Let all limits be as the handler says.")] = False,
) -> None:
    """Set the limits of a type over all workers: those not given are as the handler says. Without any, show them."""
    limits = JobTypeLimits(max_running, max_running_per_org, rate, rate_per_org)
    given = limits != JobTypeLimits()
    if given and reset:
        raise typer.BadParameter("--reset sets all limits back: give it, or limits, and not both")
    if given:
        _show(output, await client.job_types.set_limits(job_type, limits), _set_limits_text)
    elif reset:
        _show(output, await client.job_types.set_limits(job_type, limits), _reset_limits_text)
    else:
        _show(output, await client.job_types.get(job_type), _limits_text)


def _show(output: Output, job_type: JobType, for_people: Callable[[JobType], str]) -> None:
    if output.as_json:
        output.show(job_type)
    else:
        output.text(for_people(job_type))


def _pause_text(job_type: JobType) -> str:
    return f"{job_type.type} is {'paused' if job_type.paused else 'not paused'}"


def _holding_back(job_type: JobType) -> Iterator[str]:
    if job_type.paused:
        yield "paused"
    if limits := limit_text(job_type.limits):
        yield limits


def _set_limits_text(job_type: JobType) -> str:
    return f"{_limits_text(job_type)}; those not given are as its handler says"


def _reset_limits_text(job_type: JobType) -> str:
    return f"{_limits_text(job_type)}; all are as its handler says"


def _limits_text(job_type: JobType) -> str:
    return f"{job_type.type}: {limit_text(job_type.limits) or 'no limits'}"

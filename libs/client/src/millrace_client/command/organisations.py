"""`millrace orgs`."""

from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.limit_text import limit_text
from millrace_client.command.output import Output
from millrace_client.command.register import command
from millrace_client.limits import OrganisationLimits, OrganisationSettings, RateLimit

app = typer.Typer(
    help="The share and the limits of organisations.", no_args_is_help=True, add_completion=False
)
accept_global_options(app)

OrganisationId = Annotated[str, typer.Argument(metavar="ORG_ID", help="The organisation.")]


@command(app, "show", of_organisation=False)
async def show(client: Millrace, output: Output, org_id: OrganisationId) -> None:
    """Show whether an organisation is paused, its share and its limits."""
    _show(output, await client.organisations.get(org_id))


@command(app, "pause", of_organisation=False)
async def pause(client: Millrace, output: Output, org_id: OrganisationId) -> None:
    """Start no more jobs of an organisation, of any type; those that run go on."""
    _show(output, await client.organisations.pause(org_id))


@command(app, "resume", of_organisation=False)
async def resume(client: Millrace, output: Output, org_id: OrganisationId) -> None:
    """Start jobs of an organisation again."""
    _show(output, await client.organisations.resume(org_id))


@command(app, "limits", of_organisation=False)
async def set_limits(
    client: Millrace,
    output: Output,
    *,
    org_id: OrganisationId,
    weight: Annotated[
        int | None, typer.Option(min=1, help="Its share when others wait, too: 2 is twice that of 1. To 100.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=0, help="How many jobs run at once; 0: any number.")
    ] = None,
    rate: Annotated[
        RateLimit | None,
        typer.Option(
            parser=parse.rate, metavar="RATE", help='How many jobs start, such as "100/1m"; 0: any number.'
        ),
    ] = None,
) -> None:
    """Set the share and the limits of an organisation over all workers. Those that are not given stay."""
    if weight is None and max_running is None and rate is None:
        raise typer.BadParameter("give at least one of --weight, --max-running, --rate")
    limits = (await client.organisations.get(org_id)).limits
    changed = OrganisationLimits(
        weight=limits.weight if weight is None else weight,
        max_running=limits.max_running if max_running is None else max_running,
        rate=rate or limits.rate,
    )
    _show(output, await client.organisations.set_limits(org_id, changed))


def _show(output: Output, organisation: OrganisationSettings) -> None:
    output.show(organisation, for_people={"limits": limit_text(organisation.limits)})

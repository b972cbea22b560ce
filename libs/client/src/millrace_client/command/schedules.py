"""`millrace schedules`."""

from datetime import datetime
from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output, one_more
from millrace_client.command.register import command
from millrace_client.command.schedule_creation import create
from millrace_client.command.schedule_details import has_ended, show_schedule
from millrace_client.command.schedule_id import ScheduleId
from millrace_client.command.schedule_times import backfill, preview, runs
from millrace_client.command.schedule_update import update
from millrace_client.delivery import DeliveryMethod
from millrace_client.recurrence import Frequency
from millrace_client.schedule import Schedule

app = typer.Typer(help="Create jobs at set times.", no_args_is_help=True, add_completion=False)
accept_global_options(app)


def _next_run(schedule: Schedule) -> datetime | str | None:
    if schedule.paused:
        return "paused"
    return "ended" if has_ended(schedule) else schedule.next_run_at


_SCHEDULE_COLUMNS: Columns[Schedule] = {
    "SCHEDULE ID": lambda schedule: schedule.schedule_id,
    "NAME": lambda schedule: schedule.name,
    "TYPE": lambda schedule: schedule.type,
    "NEXT RUN": _next_run,
    "LAST RUN": lambda schedule: schedule.last_run_at,
    "LAST JOB": lambda schedule: schedule.last_job_id,
}

command(app, "create")(create)
command(app, "update")(update)


@command(app, "show")
@command(app, "get")
async def show(client: Millrace, output: Output, schedule_id: ScheduleId) -> None:
    """Show a schedule, its next times and its last runs; show and get are the same."""
    show_schedule(output, await client.schedules.get(schedule_id))


@command(app, "list")
async def list_schedules(
    client: Millrace,
    output: Output,
    *,
    job_type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Those that create jobs of this type.")
    ] = "",
    frequency: Annotated[
        Frequency | None,
        typer.Option(
            parser=parse.member(Frequency),
            metavar="FREQUENCY",
            help="Those of this frequency: once, daily, weekly, monthly, interval or cron.",
        ),
    ] = None,
    active: Annotated[bool, typer.Option("--active", help="Those that will fire.")] = False,
    inactive: Annotated[
        bool, typer.Option("--inactive", help="Those that are paused or have ended.")
    ] = False,
    delivery: Annotated[
        DeliveryMethod | None,
        typer.Option(
            parser=parse.member(DeliveryMethod),
            metavar="METHOD",
            help="Those with this delivery of results: none, download, webhook, email or storage.",
        ),
    ] = None,
    search: Annotated[
        str, typer.Option(metavar="TEXT", help="Those whose name or type contains this, in any case.")
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List schedules, newest first."""
    if active and inactive:
        raise typer.BadParameter("give at most one of --active, --inactive")
    schedules = client.schedules.list(
        job_type=job_type,
        frequency=frequency,
        active=active if active or inactive else None,
        delivery=delivery,
        search=search,
        limit=one_more(limit),
    )
    await output.table(_SCHEDULE_COLUMNS, schedules, limit)


command(app, "runs")(runs)
command(app, "preview")(preview)
command(app, "backfill")(backfill)


@command(app, "delete")
async def delete(client: Millrace, output: Output, schedule_id: ScheduleId) -> None:
    """Delete a schedule; the jobs it made stay."""
    await client.schedules.delete(schedule_id)
    if not output.as_json:
        output.text(f"deleted {schedule_id}")


@command(app, "pause")
async def pause(
    client: Millrace,
    output: Output,
    *,
    schedule_id: ScheduleId,
    reason: Annotated[str, typer.Option(help="Shown beside the schedule.")] = "",
) -> None:
    """Stop a schedule from firing until it is resumed."""
    output.show(await client.schedules.pause(schedule_id, reason))


@command(app, "resume")
async def resume(client: Millrace, output: Output, schedule_id: ScheduleId) -> None:
    """Let a paused schedule fire again; what it missed is not made up for."""
    output.show(await client.schedules.resume(schedule_id))


@command(app, "run")
async def run(
    client: Millrace,
    output: Output,
    *,
    schedule_id: ScheduleId,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeated command return the job of the first one.")
    ] = None,
) -> None:
    """Create a schedule's job now, besides its times."""
    job_id = await client.schedules.run(schedule_id, request_id=request_id)
    if output.as_json:
        output.line({"jobId": job_id})
    else:
        output.text(job_id)

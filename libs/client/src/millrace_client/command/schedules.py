"""`millrace schedules`."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.recurrence import Recurrence
from millrace_client.schedule import Schedule

app = typer.Typer(help="Create jobs at set times.", no_args_is_help=True, add_completion=False)
accept_global_options(app)

ScheduleId = Annotated[
    str,
    typer.Argument(
        metavar="SCHEDULE_ID", help="The schedule, as `millrace schedules list` names it: schedule_…"
    ),
]
JsonOption = dict[str, Any] | None
RecurrenceOption = Any  # Recurrence | None; typer knows no unions of classes

_SCHEDULE_COLUMNS: Columns[Schedule] = {
    "SCHEDULE ID": lambda schedule: schedule.schedule_id,
    "NAME": lambda schedule: schedule.name,
    "TYPE": lambda schedule: schedule.type,
    "NEXT RUN": lambda schedule: "paused" if schedule.paused else schedule.next_run_at,
    "LAST RUN": lambda schedule: schedule.last_run_at,
    "LAST JOB": lambda schedule: schedule.last_job_id,
}


def _recurrence(read: Callable[[str], Recurrence], metavar: str, help_text: str) -> Any:
    return typer.Option(parser=read, metavar=metavar, help=help_text, rich_help_panel="When (exactly one)")


@command(app, "create")
async def create(
    client: Millrace,
    output: Output,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for people.")],
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The type of the jobs to create.")],
    job_input: Annotated[
        JsonOption,
        typer.Option(
            "--input", parser=parse.json_object, metavar="JSON", help="Their input; @FILE or @- reads it."
        ),
    ] = None,
    metadata: Annotated[
        JsonOption,
        typer.Option(parser=parse.json_object, metavar="JSON", help="Their labels; @FILE or @- reads them."),
    ] = None,
    daily: Annotated[RecurrenceOption, _recurrence(parse.daily, "HH:MM", "Every day at this time.")] = None,
    weekly: Annotated[
        RecurrenceOption, _recurrence(parse.weekly, '"DAYS HH:MM"', 'Such as "mon,fri 09:00".')
    ] = None,
    monthly: Annotated[
        RecurrenceOption, _recurrence(parse.monthly, '"DAY HH:MM"', 'Such as "31 09:00".')
    ] = None,
    every: Annotated[
        RecurrenceOption, _recurrence(parse.every, "LENGTH", "Such as 15m or 1h30m, in whole seconds.")
    ] = None,
    once: Annotated[RecurrenceOption, _recurrence(parse.once, "TIME", "At one time (ISO 8601).")] = None,
    cron: Annotated[
        RecurrenceOption, _recurrence(parse.cron, "EXPRESSION", 'Such as "*/5 8-18 * * mon-fri".')
    ] = None,
    time_zone: Annotated[str, typer.Option(help="The IANA zone of local times; UTC when not given.")] = "",
    start_at: Annotated[
        datetime | None, typer.Option(parser=parse.moment, metavar="TIME", help="Does not fire before.")
    ] = None,
    end_at: Annotated[
        datetime | None, typer.Option(parser=parse.moment, metavar="TIME", help="Does not fire after.")
    ] = None,
    created_by: Annotated[str, typer.Option(help="For whom its jobs are created.")] = "",
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeated command return the schedule of the first one.")
    ] = None,
) -> None:
    """Create a schedule."""
    given = [frequency for frequency in (daily, weekly, monthly, every, once, cron) if frequency is not None]
    if len(given) != 1:
        raise typer.BadParameter("give exactly one of --daily, --weekly, --monthly, --every, --once, --cron")
    schedule = await client.schedules.create(
        name,
        job_type,
        given[0],
        job_input,
        metadata=metadata,
        time_zone=time_zone,
        start_at=start_at,
        end_at=end_at,
        created_by=created_by,
        request_id=request_id,
    )
    output.show(schedule)


@command(app, "get")
async def get(client: Millrace, output: Output, schedule_id: ScheduleId) -> None:
    """Show a schedule."""
    output.show(await client.schedules.get(schedule_id))


@command(app, "list")
async def list_schedules(
    client: Millrace,
    output: Output,
    *,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List schedules, newest first."""
    await output.table(_SCHEDULE_COLUMNS, client.schedules.list(limit=limit or None))


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

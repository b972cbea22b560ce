"""`millrace system-schedules`."""

from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.system_schedule import SystemSchedule

app = typer.Typer(
    help="What workers do by themselves at set times. For operators.",
    no_args_is_help=True,
    add_completion=False,
)
accept_global_options(app)

_COLUMNS: Columns[SystemSchedule] = {
    "TYPE": lambda schedule: schedule.type,
    "CRON": lambda schedule: schedule.cron,
    "TIME ZONE": lambda schedule: schedule.time_zone,
    "NEXT RUN": lambda schedule: schedule.next_run_at,
    "LAST RUN": lambda schedule: schedule.last_run_at,
    "OUTCOME": lambda schedule: schedule.last_outcome,
    "ERROR": lambda schedule: schedule.last_error,
    "DESCRIPTION": lambda schedule: schedule.description,
}


@command(app, "list", of_organisation=False)
async def list_system_schedules(client: Millrace, output: Output) -> None:
    """List the schedules that are defined in code; of one without a next run, no live worker knows."""
    await output.table(_COLUMNS, client.system_schedules.list())


@command(app, "run", of_organisation=False)
async def run(
    client: Millrace,
    output: Output,
    *,
    schedule_type: Annotated[str, typer.Argument(metavar="TYPE", help='Such as "storage:cleanup".')],
) -> None:
    """Run a system schedule now, besides its times."""
    run_id = await client.system_schedules.run(schedule_type)
    if output.as_json:
        output.line({"runId": run_id})
    else:
        output.text(run_id)

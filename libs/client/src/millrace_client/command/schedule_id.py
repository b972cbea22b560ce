"""The argument that says which schedule a command is about."""

from typing import Annotated

import typer

ScheduleId = Annotated[
    str,
    typer.Argument(
        metavar="SCHEDULE_ID", help="The schedule, as `millrace schedules list` names it: schedule_…"
    ),
]

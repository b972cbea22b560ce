"""The options that say which jobs a command is about."""

from datetime import datetime
from typing import Annotated, Any

import typer

from millrace_client.command import parse
from millrace_client.job import JobStatus

StatusesOption = Annotated[
    list[JobStatus] | None,
    typer.Option(
        "--status", parser=parse.member(JobStatus), metavar="STATUS", help="Any of these; may be repeated."
    ),
]
TypesOption = Annotated[list[str] | None, typer.Option("--type", help="Any of these; may be repeated.")]
CreatedByOption = Annotated[str, typer.Option("--created-by", help="Who asked for it.")]
CreatedAfterOption = Annotated[
    datetime | None,
    typer.Option("--created-after", parser=parse.moment, metavar="TIME", help="Created then or later."),
]
CreatedBeforeOption = Annotated[
    datetime | None,
    typer.Option("--created-before", parser=parse.moment, metavar="TIME", help="Created before."),
]
ScheduleOption = Annotated[str, typer.Option("--schedule", help="The schedule that made it.")]
MetadataOption = Annotated[
    dict[str, Any] | None,
    typer.Option(
        "--metadata",
        parser=parse.json_object,
        metavar="JSON",
        help="Keys and values its metadata contains.",
    ),
]

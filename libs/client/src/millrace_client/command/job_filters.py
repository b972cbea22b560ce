"""The options that say which jobs a command is about."""

from datetime import datetime
from typing import Annotated, Any

import typer

from millrace_client.command import parse
from millrace_client.job import JobStatus

StatusesOption = Annotated[
    list[JobStatus] | None,
    typer.Option(
        "--status",
        parser=parse.member(JobStatus),
        metavar="STATUS",
        help="Jobs of this status, as `jobs list` shows it; any of them when repeated.",
    ),
]
TypesOption = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Jobs of this type; any of them when repeated."),
]
CreatedByOption = Annotated[str, typer.Option("--created-by", help="Jobs that this one asked for.")]
CreatedAfterOption = Annotated[
    datetime | None,
    typer.Option(
        "--created-after", parser=parse.moment, metavar="TIME", help="Created then or later (ISO 8601)."
    ),
]
CreatedBeforeOption = Annotated[
    datetime | None,
    typer.Option("--created-before", parser=parse.moment, metavar="TIME", help="Created before (ISO 8601)."),
]
ScheduleOption = Annotated[
    str, typer.Option("--schedule", metavar="SCHEDULE_ID", help="Jobs that this schedule made.")
]
ParentJobOption = Annotated[
    str,
    typer.Option(
        "--parent-job", metavar="JOB_ID", help="Jobs made for this job: its deliveries, its dead letter."
    ),
]
MetadataOption = Annotated[
    dict[str, Any] | None,
    typer.Option(
        "--metadata",
        parser=parse.json_object,
        metavar="JSON",
        help="Jobs whose metadata contains these keys and values.",
    ),
]
ErrorCodesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--error-code",
        metavar="CODE",
        help="Jobs whose latest error has this code; any of them when repeated.",
    ),
]

"""`millrace jobs` and `millrace job-types`."""

from datetime import datetime
from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.command.watching import follow
from millrace_client.job import Job, JobStatus, JobType

app = typer.Typer(
    help="Hand work over, watch it, stop it, try it again.", no_args_is_help=True, add_completion=False
)
job_types_app = typer.Typer(add_completion=False)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID")]
JsonOption = dict[str, Any] | None

_JOB_COLUMNS: Columns[Job] = {
    "JOB ID": lambda job: job.job_id,
    "TYPE": lambda job: job.type,
    "STATUS": lambda job: job.status,
    "DONE": lambda job: f"{job.progress}%",
    "CREATED": lambda job: job.created_at,
    "CREATED BY": lambda job: job.created_by,
    "MESSAGE": lambda job: job.error.message if job.error and job.status is JobStatus.FAILED else job.message,
}
_JOB_TYPE_COLUMNS: Columns[JobType] = {
    "TYPE": lambda job_type: job_type.type,
    "LABEL": lambda job_type: job_type.label,
    "ATTEMPTS": lambda job_type: job_type.max_attempts,
    "TIMEOUT": lambda job_type: str(job_type.timeout),
    "WORKERS": lambda job_type: job_type.active_workers,
    "DESCRIPTION": lambda job_type: job_type.description,
}


@command(app, "create")
async def create(
    client: Millrace,
    output: Output,
    *,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help='Such as "reports:generate".')],
    job_input: Annotated[
        JsonOption,
        typer.Option(
            "--input", parser=parse.json_object, metavar="JSON", help="The input; @FILE or @- reads it."
        ),
    ] = None,
    metadata: Annotated[
        JsonOption,
        typer.Option(
            parser=parse.json_object, metavar="JSON", help="Labels of your own; @FILE or @- reads them."
        ),
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeated command return the job of the first one.")
    ] = None,
    run_at: Annotated[
        datetime | None,
        typer.Option(parser=parse.moment, metavar="TIME", help="Not started before (ISO 8601)."),
    ] = None,
    priority: Annotated[int, typer.Option(help="Higher is served first, -100 to 100.")] = 0,
    max_attempts: Annotated[int, typer.Option(help="1 to 100; 0: the type's own number.")] = 0,
    created_by: Annotated[str, typer.Option(help="Who asks for the job.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it is finished.")] = False,
) -> None:
    """Create a job."""
    job = await client.jobs.create(
        job_type,
        job_input,
        metadata=metadata,
        request_id=request_id,
        run_at=run_at,
        priority=priority,
        max_attempts=max_attempts,
        created_by=created_by,
    )
    if watch:
        await follow(client, output, job.job_id)
    else:
        output.show(job)


@command(app, "get")
async def get(client: Millrace, output: Output, job_id: JobId) -> None:
    """Show a job."""
    output.show(await client.jobs.get(job_id))


@command(app, "list")
async def list_jobs(
    client: Millrace,
    output: Output,
    *,
    statuses: Annotated[
        list[JobStatus] | None,
        typer.Option(
            "--status", parser=parse.status, metavar="STATUS", help="Any of these; may be repeated."
        ),
    ] = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="Any of these; may be repeated.")] = None,
    created_by: Annotated[str, typer.Option(help="Who asked for it.")] = "",
    created_after: Annotated[
        datetime | None, typer.Option(parser=parse.moment, metavar="TIME", help="Created then or later.")
    ] = None,
    created_before: Annotated[
        datetime | None, typer.Option(parser=parse.moment, metavar="TIME", help="Created before.")
    ] = None,
    schedule_id: Annotated[str, typer.Option("--schedule", help="The schedule that made it.")] = "",
    metadata: Annotated[
        JsonOption,
        typer.Option(parser=parse.json_object, metavar="JSON", help="Keys and values its metadata contains."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List jobs, newest first."""
    jobs = client.jobs.list(
        statuses=statuses or (),
        types=types or (),
        created_by=created_by,
        created_after=created_after,
        created_before=created_before,
        schedule_id=schedule_id,
        metadata=metadata,
        limit=limit or None,
    )
    await output.table(_JOB_COLUMNS, jobs)


@command(app, "watch")
async def watch_job(client: Millrace, output: Output, job_id: JobId) -> None:
    """Follow a job until it is finished. Exit code 1 when it failed or was cancelled."""
    await follow(client, output, job_id)


@command(app, "cancel")
async def cancel(client: Millrace, output: Output, job_id: JobId) -> None:
    """Cancel a waiting or running job."""
    output.show(await client.jobs.cancel(job_id))


@command(app, "retry")
async def retry(
    client: Millrace,
    output: Output,
    *,
    job_id: JobId,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it is finished.")] = False,
) -> None:
    """Try a failed or cancelled job again."""
    job = await client.jobs.retry(job_id)
    if watch:
        await follow(client, output, job.job_id)
    else:
        output.show(job)


@command(job_types_app, "job-types", of_organisation=False)
async def list_job_types(client: Millrace, output: Output) -> None:
    """List the types of job that workers have published."""
    await output.table(_JOB_TYPE_COLUMNS, client.jobs.types())

"""`millrace jobs`."""

import sys
from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.job_creation import create
from millrace_client.command.job_details import show_job
from millrace_client.command.job_filters import (
    CreatedAfterOption,
    CreatedBeforeOption,
    CreatedByOption,
    ErrorCodesOption,
    MetadataOption,
    ParentJobOption,
    ScheduleOption,
    StatusesOption,
    TypesOption,
)
from millrace_client.command.many_jobs import cancel_many, retry_many
from millrace_client.command.output import Columns, Output, exact_time, one_more
from millrace_client.command.register import command
from millrace_client.command.transfer import (
    ForceOption,
    ResumeOption,
    ToOption,
    explaining_failure,
    show_path,
    show_resumed,
    target_path,
    transfer_bar,
)
from millrace_client.command.watching import follow
from millrace_client.job import Job, JobStatus
from millrace_client.job_attempt import JobAttempt

app = typer.Typer(
    help="Hand work over, watch it, stop it, try it again.", no_args_is_help=True, add_completion=False
)
accept_global_options(app)

JobId = Annotated[
    str, typer.Argument(metavar="JOB_ID", help="The job, as `millrace jobs list` names it: job_…")
]

# A job that waits with an error waits because of it.
_TELLING_ERRORS = frozenset({JobStatus.FAILED, JobStatus.PENDING})
_JOB_COLUMNS: Columns[Job] = {
    "JOB ID": lambda job: job.job_id,
    "TYPE": lambda job: job.type,
    "STATUS": lambda job: job.status,
    "DONE": lambda job: f"{job.progress}%",
    "CREATED": lambda job: job.created_at,
    "CREATED BY": lambda job: job.created_by,
    "MESSAGE": lambda job: job.error.message if job.error and job.status in _TELLING_ERRORS else job.message,
}
_ATTEMPT_COLUMNS: Columns[JobAttempt] = {
    "ATTEMPT": lambda attempt: attempt.attempt,
    "OUTCOME": lambda attempt: attempt.outcome,
    "STARTED": lambda attempt: exact_time(attempt.started_at),
    "ENDED": lambda attempt: exact_time(attempt.ended_at),
    "WORKER": lambda attempt: attempt.worker_name or attempt.worker_id,
    "ERROR": lambda attempt: f"{attempt.error.code}: {attempt.error.message}" if attempt.error else "",
}

command(app, "create")(create)


@command(app, "get")
async def get(client: Millrace, output: Output, job_id: JobId) -> None:
    """Show a job, and why it waits."""
    show_job(output, await client.jobs.get(job_id))


@command(app, "attempts")
async def list_attempts(
    client: Millrace,
    output: Output,
    *,
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List the attempts of a job, the latest first."""
    await output.table(_ATTEMPT_COLUMNS, client.jobs.attempts(job_id, limit=one_more(limit)), limit)


@command(app, "list")
async def list_jobs(
    client: Millrace,
    output: Output,
    *,
    statuses: StatusesOption = None,
    types: TypesOption = None,
    created_by: CreatedByOption = "",
    created_after: CreatedAfterOption = None,
    created_before: CreatedBeforeOption = None,
    schedule_id: ScheduleOption = "",
    metadata: MetadataOption = None,
    error_codes: ErrorCodesOption = None,
    parent_job_id: ParentJobOption = "",
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
        error_codes=error_codes or (),
        parent_job_id=parent_job_id,
        limit=one_more(limit),
    )
    await output.table(_JOB_COLUMNS, jobs, limit)


@command(app, "download")
async def download_output(
    client: Millrace,
    output: Output,
    *,
    job_id: JobId,
    to: ToOption = ".",
    force: ForceOption = False,
    resume: ResumeOption = True,
) -> None:
    """Download what a completed job came to: the file that its output names, or the output itself as JSON."""
    if to == "-":
        await client.jobs.download_output(job_id, sys.stdout.buffer)
        return
    path = await target_path(to, lambda: client.jobs.describe_output(job_id), force=force)
    with transfer_bar() as on_progress, explaining_failure(path, force=force):
        await client.jobs.download_output(
            job_id, path, resume=resume, replace=force, on_progress=on_progress, on_resume=show_resumed
        )
    show_path(output, path)


@command(app, "watch")
async def watch_job(client: Millrace, output: Output, job_id: JobId) -> None:
    """Follow a job until it is finished. Exit code 1 when it failed or was cancelled."""
    await follow(client, output, job_id)


@command(app, "cancel")
async def cancel(client: Millrace, output: Output, job_id: JobId) -> None:
    """Cancel a waiting or running job."""
    show_job(output, await client.jobs.cancel(job_id))


@command(app, "retry")
async def retry(
    client: Millrace,
    output: Output,
    *,
    job_id: JobId,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it is finished.")] = False,
) -> None:
    """Try a failed or cancelled job again, or one at once that waits after a failed attempt."""
    job = await client.jobs.retry(job_id)
    if watch:
        await follow(client, output, job.job_id)
    else:
        show_job(output, job)


command(app, "cancel-many")(cancel_many)
command(app, "retry-many")(retry_many)


@command(app, "unblock-key")
async def unblock_key(
    client: Millrace,
    output: Output,
    *,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The job type.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The concurrency key.")],
) -> None:
    """Let the jobs of a concurrency key go on that a failed job blocks."""
    job_id = await client.jobs.unblock_key(job_type, key)
    if output.as_json:
        output.line({"jobId": job_id})
    else:
        output.text(f"unblocked; {job_id} had failed" if job_id else "nothing blocked this key")

"""`millrace jobs cancel-many` and `millrace jobs retry-many`."""

from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command.job_filters import (
    CreatedAfterOption,
    CreatedBeforeOption,
    CreatedByOption,
    MetadataOption,
    ScheduleOption,
    StatusesOption,
    TypesOption,
)
from millrace_client.command.json_form import json_form
from millrace_client.command.output import Output
from millrace_client.job import JobStatus
from millrace_client.job_filter import CancelledJobs, JobFilter, RetriedJobs

ErrorCodesOption = Annotated[
    list[str] | None, typer.Option("--error-code", help="Of its error; any of these; may be repeated.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Instead of any filter.")]
_UNFINISHED = JobFilter(statuses=(JobStatus.PENDING, JobStatus.PROCESSING))
_FAILED = JobFilter(statuses=(JobStatus.FAILED,))

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count them, and change nothing.")]


async def cancel_many(
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
    every: AllOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Cancel all waiting and running jobs that match every filter given."""
    jobs = JobFilter(
        statuses or (),
        types or (),
        created_by,
        created_after,
        created_before,
        schedule_id,
        metadata or {},
        error_codes or (),
    )
    jobs = _required(jobs, every=_UNFINISHED if every else None)
    done = await client.jobs.cancel_many(jobs, dry_run=dry_run)
    cancelled, cancelling = done.cancelled, done.cancelling
    while done.more and not dry_run and done.cancelled + done.cancelling:
        done = await client.jobs.cancel_many(jobs)
        cancelled, cancelling = cancelled + done.cancelled, cancelling + done.cancelling
    _say(
        output,
        CancelledJobs(cancelled, cancelling, done.more),
        f"{'would cancel' if dry_run else 'cancelled'} {cancelled} waiting and {cancelling} running jobs",
        "there are more",
    )


async def retry_many(
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
    every: AllOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Try again the failed jobs that match every filter given, up to 10,000; cancelled ones with --status cancelled."""
    jobs = JobFilter(
        statuses or (),
        types or (),
        created_by,
        created_after,
        created_before,
        schedule_id,
        metadata or {},
        error_codes or (),
    )
    jobs = _required(jobs, every=_FAILED if every else None)
    done = await client.jobs.retry_many(jobs, dry_run=dry_run)
    conflicts = f"; {done.conflicts} stay, as others have their unique keys" if done.conflicts else ""
    _say(
        output,
        done,
        f"{'would try' if dry_run else 'trying'} {done.retried} jobs again{conflicts}",
        "there may be more: call again",
    )


def _required(jobs: JobFilter, *, every: JobFilter | None) -> JobFilter:
    """Make sure that nobody means all jobs by leaving something out."""
    if (every is None) is (jobs == JobFilter()):
        raise typer.BadParameter("give at least one filter, or --all")
    return every or jobs


def _say(output: Output, done: CancelledJobs | RetriedJobs, text: str, of_more: str) -> None:
    if output.as_json:
        output.line(json_form(done))
    else:
        output.text(f"{text}; {of_more}" if done.more else text)

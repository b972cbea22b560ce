"""`millrace jobs cancel-many` and `millrace jobs retry-many`."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias

import typer

from millrace_client.client import Millrace
from millrace_client.command.job_filters import (
    CreatedAfterOption,
    CreatedBeforeOption,
    CreatedByOption,
    ErrorCodesOption,
    MetadataOption,
    ScheduleOption,
    StatusesOption,
    TypesOption,
)
from millrace_client.command.json_form import json_form
from millrace_client.command.output import Output
from millrace_client.job import JobStatus
from millrace_client.job_filter import CancelledJobs, JobFilter, RetriedJobs

AllOption = Annotated[bool, typer.Option("--all", help="Instead of any filter: all that the command is for.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count them, and change nothing.")]

_UNFINISHED = JobFilter(statuses=(JobStatus.PENDING, JobStatus.PROCESSING))
_FAILED = JobFilter(statuses=(JobStatus.FAILED,))

_Change: TypeAlias = Callable[[Millrace, Output, JobFilter, bool], Coroutine[Any, Any, None]]


def _by_filter(change: _Change, *, everything: JobFilter) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return the command that makes a change to the jobs that its options name; --all means `everything`."""

    async def change_many(
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
        asked = JobFilter(
            statuses or (),
            types or (),
            created_by,
            created_after,
            created_before,
            schedule_id,
            metadata or {},
            error_codes or (),
        )
        if every is (asked != JobFilter()):
            # Nobody is to mean all jobs by leaving something out.
            raise typer.BadParameter("give at least one filter, or --all instead")
        await change(client, output, everything if every else asked, dry_run)

    change_many.__doc__ = change.__doc__
    return change_many


async def _cancel(client: Millrace, output: Output, jobs: JobFilter, dry_run: bool) -> None:
    """Cancel the waiting and running jobs that match every filter given, however many there are."""
    done = await client.jobs.cancel_many(jobs, dry_run=dry_run)
    cancelled, cancelling = done.cancelled, done.cancelling
    while done.more and not dry_run and done.cancelled + done.cancelling:
        done = await client.jobs.cancel_many(jobs)
        cancelled, cancelling = cancelled + done.cancelled, cancelling + done.cancelling
    _say(
        output,
        CancelledJobs(cancelled, cancelling, done.more),
        (
            f"would cancel {cancelled} waiting and {cancelling} running jobs"
            if dry_run
            else f"cancelled {cancelled} waiting jobs; {cancelling} running ones are cancelling"
        ),
        "there are more",
    )


async def _retry(client: Millrace, output: Output, jobs: JobFilter, dry_run: bool) -> None:
    """Try again the failed jobs that match every filter given, up to 10,000; cancelled ones with --status cancelled."""
    done = await client.jobs.retry_many(jobs, dry_run=dry_run)
    conflicts = f"; {done.conflicts} stay, as others have their unique keys" if done.conflicts else ""
    _say(
        output,
        done,
        f"{'would try' if dry_run else 'trying'} {done.retried} jobs again{conflicts}",
        "there may be more: call again",
    )


cancel_many = _by_filter(_cancel, everything=_UNFINISHED)
retry_many = _by_filter(_retry, everything=_FAILED)


def _say(output: Output, done: CancelledJobs | RetriedJobs, text: str, of_more: str) -> None:
    if output.as_json:
        output.line(json_form(done))
    else:
        output.text(f"{text}; {of_more}" if done.more else text)

"""Following a job on the screen."""

import json
from collections.abc import AsyncIterator

import typer

from millrace_client.client import Millrace
from millrace_client.command.json_form import json_form
from millrace_client.command.output import Output, complain, plain
from millrace_client.job import Job, JobStatus

_UNSUCCESSFUL_EXIT_CODE = 1


async def follow(client: Millrace, output: Output, job_id: str) -> None:
    """Show a job until it is finished: a live bar on a terminal, else a line for each change of what it would show.

    Exits with code 1 when it failed or was cancelled.
    """
    # An address where nobody answers is found out by this call within seconds; a watch would go on trying.
    latest = await client.jobs.get(job_id)
    snapshots: AsyncIterator[Job] = client.jobs.watch(job_id)
    if output.is_live:
        snapshots = _draw(snapshots)
    printed = ""
    async for latest in snapshots:
        if output.as_json:
            output.line(json_form(latest))
        elif not output.is_live and (text := _text(latest)) != printed:
            output.text(text)
            printed = text
    if not output.as_json:
        _print_outcome(output, latest)
    if latest.status is not JobStatus.COMPLETED:
        raise typer.Exit(_UNSUCCESSFUL_EXIT_CODE)


async def _draw(snapshots: AsyncIterator[Job]) -> AsyncIterator[Job]:
    """Draw a bar of what passes through."""
    from rich.progress import (  # noqa: PLC0415 - only here, since it slows the start of every command
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=100, status="")
        async for job in snapshots:
            progress.update(task, completed=job.progress, description=_account(job), status=job.status)
            yield job


def _text(job: Job) -> str:
    return f"{job.status} {job.progress}% {_account(job)}".rstrip()


def _account(job: Job) -> str:
    items = f"{job.processed_items}/{job.total_items}" if job.total_items else ""
    # Why there is to be another attempt.
    error = f"{job.error.code}: {job.error.message}" if job.error and job.status is JobStatus.PENDING else ""
    return plain(" ".join(part for part in (items, job.message, error) if part))


def _print_outcome(output: Output, job: Job) -> None:
    if job.status is JobStatus.COMPLETED:
        output.text(json.dumps(job.output, ensure_ascii=False))
    elif job.error is not None:
        complain(f"{job.job_id} {job.status}: {job.error.code}: {job.error.message}")
    else:
        complain(f"{job.job_id} {job.status}")

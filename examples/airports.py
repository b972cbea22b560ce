"""Millrace in one minute: load 3,376 airports into a dataset, report on them per state, and keep serving.

    .venv/bin/python examples/airports.py [--once]

It runs a system of its own, on the ports and in the folder that MILLRACE_JOBS_PORT, MILLRACE_SCHEDULER_PORT,
MILLRACE_WORKER_PORT, MILLRACE_FILES_PORT and MILLRACE_DATA_DIR name, and stops it at the end.
"""

import argparse
import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_system import LocalSystemError, running_system
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from millrace_client import Job, Millrace, MillraceError

AIRPORTS = Path(__file__).with_name("data") / "airports.csv"
DATA_DIR = Path(os.environ.get("MILLRACE_DATA_DIR", ".millrace")).absolute()

console = Console(highlight=False)


async def show_millrace(client: Millrace) -> Job:
    """Put real work through the system, and return the last job."""
    file = await client.files.upload(AIRPORTS)
    console.print(f"Uploaded {file.name}: {file.size_bytes:,} bytes, {file.file_id}")

    dataset = f"airports-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    await run_job(client, "imports:load", {"file_id": file.file_id, "dataset": dataset})

    report = {
        "dataset": dataset,
        "group_by": ["state"],
        "aggregates": [{"function": "count", "as": "airports"}],
        "sort": [{"column": "airports", "descending": True}],
    }
    top = await run_job(client, "reports:generate", report | {"format": "json", "limit": 10})
    print_table(json.loads(await client.files.read(output_of(top)["file_id"])))

    job = await run_job(
        client, "reports:generate", report | {"format": "xlsx", "file_name": "airports-by-state"}
    )
    path = DATA_DIR / "airports-by-state.xlsx"
    await client.files.download(output_of(job)["file_id"], path)
    console.print(f"All {output_of(job)['rows']} states: {path}", soft_wrap=True)
    return job


async def run_job(client: Millrace, job_type: str, job_input: dict[str, Any]) -> Job:
    """Create a job, show its progress as it happens, and return it completed. Raises when it failed."""
    job = await client.jobs.create(job_type, job_input)
    with Progress(
        TextColumn("{task.fields[name]:<18}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=100, name=job_type)
        async for latest in client.jobs.watch(job.job_id):
            progress.update(bar, completed=latest.progress, description=f"{latest.status} {latest.message}")
    return latest.raise_for_status()


def output_of(job: Job) -> dict[str, Any]:
    """Return what the handler of a completed job returned."""
    return job.output or {}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Show rows with the same columns."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


def print_what_to_try(jobs: str, job: Job) -> None:
    """Show commands that work as they are while the Jobs service listens at address `jobs`."""
    programs = Path(sys.executable).parent
    request = json.dumps({"org_id": job.org_id, "job_id": job.job_id})
    text = f"""
Ready to paste into another terminal, with the command:

{programs}/millrace --address {jobs} --org {job.org_id} jobs list

with grpcurl:

grpcurl -plaintext -d '{request}' {jobs} millrace.jobs.v1.JobsService/GetJob

from Python:

{programs}/python - <<'END'
import asyncio
from millrace_client import Millrace

async def main():
    async with Millrace("{jobs}", org_id="{job.org_id}") as client:
        print(await client.jobs.get("{job.job_id}"))

asyncio.run(main())
END
"""
    console.print(text, markup=False, soft_wrap=True)


async def main(*, once: bool) -> None:
    """Start the system, show what it does, and serve until Ctrl-C unless it is for once."""
    console.print(f"Starting Millrace; its log is {DATA_DIR / 'millrace.log'}", soft_wrap=True)
    async with running_system(DATA_DIR) as system:
        async with Millrace(system.addresses["jobs"], org_id="demo") as client:
            job = await show_millrace(client)
        if once:
            return
        print_what_to_try(system.addresses["jobs"], job)
        places = ", ".join(f"{name} at {address}" for name, address in system.addresses.items())
        console.print(f"Millrace keeps serving: {places}. Ctrl-C stops it.", soft_wrap=True)
        try:
            await system.serve()
        except asyncio.CancelledError:
            console.print("Stopping.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="stop everything once the jobs are done")
    try:
        asyncio.run(main(once=parser.parse_args().once))
    except (MillraceError, LocalSystemError) as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped before the end")

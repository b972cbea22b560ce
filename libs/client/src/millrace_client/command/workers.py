"""`millrace workers`."""

import typer

from millrace_client.client import Millrace
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.worker import Worker

app = typer.Typer(add_completion=False)

_WORKER_COLUMNS: Columns[Worker] = {
    "WORKER ID": lambda worker: worker.worker_id,
    "NAME": lambda worker: worker.name,
    "ADDRESS": lambda worker: worker.address,
    "STATE": lambda worker: worker.state,
    "RUNNING": lambda worker: f"{worker.running_jobs}/{worker.slots}",
    "STARTED": lambda worker: worker.started_at,
    "HEARTBEAT": lambda worker: worker.heartbeat_at,
}


@command(app, "workers", of_organisation=False)
async def list_workers(client: Millrace, output: Output) -> None:
    """List the workers of this installation."""
    await output.table(_WORKER_COLUMNS, client.workers.list())

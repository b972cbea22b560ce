"""`millrace workers`."""

import typer

from millrace_client.client import Millrace
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.worker import Worker

app = typer.Typer(
    help="The workers of this installation; without a command, list them.", add_completion=False
)
accept_global_options(app, default="list")

_WORKER_COLUMNS: Columns[Worker] = {
    "WORKER ID": lambda worker: worker.worker_id,
    "NAME": lambda worker: worker.name,
    "ADDRESS": lambda worker: worker.address,
    "STATE": lambda worker: worker.state,
    "RUNNING": lambda worker: f"{worker.running_jobs}/{worker.slots}",
    "STARTED": lambda worker: worker.started_at,
    "HEARTBEAT": lambda worker: worker.heartbeat_at,
}


@command(app, "list", of_organisation=False)
async def list_workers(client: Millrace, output: Output) -> None:
    """List the workers of this installation."""
    await output.table(_WORKER_COLUMNS, client.workers.list())

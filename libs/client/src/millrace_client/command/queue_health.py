"""`millrace queue`."""

from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output, plain
from millrace_client.command.register import command
from millrace_client.queue_health import OldestTransaction, QueueDepth, TableHealth

app = typer.Typer(help="How the queue is.", no_args_is_help=True, add_completion=False)
accept_global_options(app)

_DEPTH_COLUMNS: Columns[QueueDepth] = {
    "TYPE": lambda depth: depth.type,
    "ORGANISATION": lambda depth: depth.org_id,
    "READY": lambda depth: depth.ready,
    "HELD": lambda depth: depth.held,
    "SCHEDULED": lambda depth: depth.scheduled,
    "RUNNING": lambda depth: depth.running,
    "OLDEST WAIT": lambda depth: depth.oldest_wait,
    "CREATED/S": lambda depth: f"{depth.created_per_second:.1f}",
    "FINISHED/S": lambda depth: f"{depth.finished_per_second:.1f}",
}
_TABLE_COLUMNS: Columns[TableHealth] = {
    "TABLE": lambda table: table.table,
    "LIVE ROWS": lambda table: table.live_rows,
    "DEAD ROWS": lambda table: table.dead_rows,
    "MIB": lambda table: f"{table.size_bytes / 2**20:.1f}",
    "LAST VACUUM": lambda table: table.last_vacuum_at,
}


@command(app, "health", of_organisation=False)
async def health(
    client: Millrace,
    output: Output,
    *,
    job_type: Annotated[str, typer.Option("--type", help="Only the jobs of this type.")] = "",
    org_id: Annotated[
        str, typer.Option("--only-org", metavar="ORG_ID", help="Only the jobs of this organisation.")
    ] = "",
) -> None:
    """Show how deep the queue is, how fast it moves, and what may slow it down. Of all organisations."""
    queue = await client.queue_health(job_type=job_type, org_id=org_id)
    if output.as_json:
        output.show(queue)
        return
    if queue.depths:
        output.rows(_DEPTH_COLUMNS, queue.depths)
    else:
        output.text("no job waits or runs")
    output.text("")
    output.rows(_TABLE_COLUMNS, queue.tables)
    if queue.oldest_transaction is not None:
        output.text("")
        output.text(_account(queue.oldest_transaction))


def _account(oldest: OldestTransaction) -> str:
    process = f" (process {oldest.pid})" if oldest.pid else ""
    since = f" since {plain(oldest.started_at)}" if oldest.started_at else ""
    return (
        f"dead rows are kept for {oldest.owner}{process}, {oldest.state}{since}; "
        f"{oldest.transactions_behind} transactions have begun since"
    )

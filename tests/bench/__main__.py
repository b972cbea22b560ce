import argparse
import asyncio
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import ceiling, service
from millrace_client import Millrace
from millrace_database.database import Database
from millrace_database.embedded import resolve_database
from millrace_database.migrate import migrate
from support.processes import Stack


@dataclass(frozen=True)
class Figure:
    """A measured figure, and its ratio to the ceiling named beside it."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    of: str = ""


async def measure(jobs: int) -> list[Figure]:
    """Take every figure on a new embedded Postgres with durable commits."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        folder = Path(name)
        async with resolve_database(None, folder) as url:
            await migrate(url)
            database = await Database.open(url, application_name="bench")
            try:
                async with (
                    service.services(url, folder) as running,
                    Millrace(running.jobs.address, org_id="bench") as client,
                ):
                    return await _figures(database, running, client, jobs)
            finally:
                await database.close()


async def _figures(database: Database, running: Stack, client: Millrace, jobs: int) -> list[Figure]:
    insert = await ceiling.insert_rate(database, jobs)
    drain = await ceiling.drain_rate(database)
    bulk = await service.bulk_creation_rate(client, jobs)
    drained = await service.drain_rate(database, running)
    await service.bulk_creation_rate(client, jobs, "bench:noop-thread")
    threads = await service.drain_rate(database, running)
    one = await service.creation_rate(client, max(jobs // 40, 1), in_flight=1)
    fifty = await service.creation_rate(client, max(jobs // 10, 1), in_flight=50)
    await service.drain_rate(database, running)
    latency = await service.pick_up_seconds(client, running, 200)
    return [
        Figure("insert, bare statements, 2 connections", insert, "jobs/s"),
        Figure("claim and complete, bare statements, 2 connections", drain, "jobs/s"),
        Figure("create in bulk, one caller", bulk, "jobs/s", bulk / insert, "insert"),
        Figure("create one by one, 1 in flight", one, "jobs/s", one / insert, "insert"),
        Figure("create one by one, 50 in flight", fifty, "jobs/s", fifty / insert, "insert"),
        Figure("drain, one worker, async handler", drained, "jobs/s", drained / drain, "claim and complete"),
        Figure(
            "drain, one worker, handler in threads", threads, "jobs/s", threads / drain, "claim and complete"
        ),
        Figure("pick-up of an idle system, median", latency[len(latency) // 2] * 1000, "ms"),
        Figure("pick-up of an idle system, 99 %", latency[len(latency) * 99 // 100] * 1000, "ms"),
    ]


def main() -> None:
    """Print the figures as a table, or as JSON."""
    parser = argparse.ArgumentParser(description="Measure creation, drain and pick-up against bare SQL.")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs per figure (default: 20000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.jobs))
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))  # noqa: T201 - what it is for
        return
    table = Table("figure", "value", "unit", "ratio", "of")
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        table.add_row(figure.name, f"{figure.value:,.1f}", figure.unit, ratio, figure.of)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

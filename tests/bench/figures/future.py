"""Draining beside very many jobs whose time has not come."""

from datetime import UTC, datetime, timedelta

from bench.beside import drain_beside
from bench.line import Line
from bench.rounds import Bench
from bench.samples import fill, new_jobs
from millrace_database.database import Database


async def measure(bench: Bench) -> list[Line]:
    waiting = bench.scale.waiting

    async def prepare(database: Database) -> None:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        await fill(database, new_jobs(waiting, run_at=tomorrow))

    return await drain_beside(bench, f"{waiting:,} of tomorrow", prepare, goal=0.95)

"""Draining the first of very many jobs that wait."""

from bench.beside import drain_beside
from bench.line import Line
from bench.rounds import Bench
from bench.samples import fill, new_jobs
from millrace_database.database import Database


async def measure(bench: Bench) -> list[Line]:
    waiting = bench.scale.waiting

    async def prepare(database: Database) -> None:
        await fill(database, new_jobs(waiting))

    return await drain_beside(bench, f"{waiting:,} more that wait", prepare, goal=0.9)

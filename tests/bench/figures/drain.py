"""Draining jobs that do nothing, beside the bare statements that claim and complete them."""

from collections.abc import Sequence
from functools import partial

from bench.drains import bare_drain_rate, drain_rate
from bench.line import Line, at_least, ratio_at_least
from bench.rounds import Bench
from bench.samples import NOOP, NOOP_THREAD, empty, fill, new_jobs
from bench.scale import SLOTS
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.processes import ServiceProcess


async def measure(bench: Bench) -> list[Line]:
    jobs, processes = bench.scale.jobs, bench.scale.worker_processes
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.workers(database, processes, slots=SLOTS) as workers,
    ):
        taken = await bench.rounds(
            {
                "bare claim and complete": partial(_bare, database, jobs),
                "one worker, async handlers": partial(_worker, database, workers[:1], jobs, NOOP),
                "one worker, plain functions": partial(_worker, database, workers[:1], jobs, NOOP_THREAD),
                f"{processes} workers": partial(_worker, database, workers, jobs, NOOP),
            }
        )
    bare, one, threads, several = taken.values()
    of = "bare claim and complete"
    return [
        Line("claim and complete, bare, 2 connections", "jobs/s", bare),
        Line("drain, 1 worker, async handlers", "jobs/s", one, of, bare, ratio_at_least(0.45)),
        Line("drain, 1 worker, plain functions in threads", "jobs/s", threads, of, bare, at_least(5_000)),
        Line(f"drain, {processes} worker processes", "jobs/s", several, of, bare, ratio_at_least(0.45)),
    ]


async def _bare(database: Database, jobs: int) -> float:
    first_id = new_id()
    await empty(database)
    await fill(database, new_jobs(jobs))
    return await bare_drain_rate(database, jobs, first_id=first_id)


async def _worker(database: Database, workers: Sequence[ServiceProcess], jobs: int, job_type: str) -> float:
    first_id = new_id()
    await empty(database)
    await fill(database, new_jobs(jobs, job_type))
    return await drain_rate(database, workers, jobs, first_id=first_id)

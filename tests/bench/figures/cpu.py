"""The CPU time that jobs cost, beside what they cost Postgres by the bare statements."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from bench import usage
from bench.drains import Watch, bare_drain_rate, started_with_claims_held_back, stop
from bench.line import Line
from bench.rounds import Bench
from bench.samples import empty, fill, new_jobs
from bench.scale import SLOTS
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.processes import ServiceProcess

_PER = 10_000


async def measure(bench: Bench) -> list[Line]:
    jobs = bench.scale.jobs
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.workers(database, 1, slots=SLOTS) as workers,
    ):
        measures: Mapping[str, Callable[[], Awaitable[Sequence[float]]]] = {
            "bare claim and complete": partial(_bare, database, jobs),
            "drain": partial(_drain, database, workers, jobs),
        }
        taken = await bench.rounds(measures)
    (bare,) = zip(*taken["bare claim and complete"], strict=True)
    worker, postgres = zip(*taken["drain"], strict=True)
    of = "Postgres, bare"
    return [
        Line("Postgres, 10,000 jobs claimed and completed, bare", "CPU s", bare),
        Line("Postgres, 10,000 jobs drained by 1 worker", "CPU s", postgres, of, bare),
        Line("the worker, 10,000 jobs drained by it", "CPU s", worker, of, bare),
    ]


async def _bare(database: Database, jobs: int) -> Sequence[float]:
    first_id = new_id()
    await empty(database)
    await fill(database, new_jobs(jobs))
    server = await usage.postgres(database)
    before = usage.cpu_seconds(server)
    await bare_drain_rate(database, jobs, first_id=first_id)
    return [(usage.cpu_seconds(server) - before) * _PER / jobs]


async def _drain(database: Database, workers: Sequence[ServiceProcess], jobs: int) -> Sequence[float]:
    """The CPU seconds of the worker, and of Postgres, for 10,000 jobs."""
    first_id = new_id()
    await empty(database)
    await fill(database, new_jobs(jobs))
    server = await usage.postgres(database)
    async with started_with_claims_held_back(database, workers):
        processes = (usage.service(workers[0]), server)
        before = [usage.cpu_seconds(process) for process in processes]
        watch = await Watch.start(database, first_id)
    await watch.seconds(jobs)
    after = [usage.cpu_seconds(process) for process in processes]
    await stop(workers)
    return [(end - start) * _PER / jobs for start, end in zip(before, after, strict=True)]

"""The memory of each service, before any job and after very many."""

import asyncio
from functools import partial

from bench import usage
from bench.drains import Watch
from bench.line import Line
from bench.rounds import Bench
from bench.samples import NOOP, ORG, small_input
from bench.scale import SLOTS
from millrace_client import Millrace, NewJob
from millrace_database.ids import new_id

_NAMES = ("jobs", "scheduler", "worker")


async def measure(bench: Bench) -> list[Line]:
    (taken,) = (await bench.rounds({"memory": partial(_memory, bench)})).values()
    columns = [list(column) for column in zip(*taken, strict=True)]
    idle, after = columns[: len(_NAMES)], columns[len(_NAMES) :]
    return [
        line
        for name, before, afterwards in zip(_NAMES, idle, after, strict=True)
        for line in (
            Line(f"RSS of the {name} service, idle", "MB", before),
            Line(
                f"RSS of the {name} service, after {bench.scale.jobs:,} jobs",
                "MB",
                afterwards,
                "idle",
                before,
            ),
        )
    ]


async def _memory(bench: Bench) -> list[float]:
    """The megabytes of the services: of each when idle, then of each when the jobs are done."""
    jobs = bench.scale.jobs
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.services(
            database, *_NAMES, settings={"MILLRACE_WORKER_SLOTS": str(SLOTS)}
        ) as running,
        Millrace(running.jobs.address, org_id=ORG) as client,
    ):
        services = (running.jobs, running.scheduler, running.worker)
        await asyncio.sleep(bench.scale.settled_seconds)
        idle = [usage.megabytes(service) for service in services]
        watch = await Watch.start(database, new_id())
        await client.jobs.create_many(NewJob(NOOP, small_input(number)) for number in range(jobs))
        await watch.seconds(jobs)
        return [*idle, *(usage.megabytes(service) for service in services)]

"""One organisation's job beside the flood of another, and what fairness costs."""

import time
from collections.abc import Sequence
from functools import partial

from bench.drains import Watch, drain_rate, started_with_claims_held_back, stop
from bench.entered import entered_at
from bench.line import Line, at_most, ratio_at_least
from bench.rounds import Bench
from bench.samples import empty, fill, new_jobs, put
from bench.scale import SLOTS
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.polling import eventually
from support.processes import ServiceProcess

_FLOODING = "org_flooding"
_SINGLE = "org_single"
_MANY = [f"org_{number}" for number in range(100)]
_WAIT_SECONDS = 300
_ROUND = 100
"""Jobs that a worker starts at once, as shipped."""


async def measure(bench: Bench) -> list[Line]:
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.workers(database, 1) as shipped,
        bench.surroundings.workers(database, 1, slots=SLOTS) as wide,
    ):
        flood = await bench.rounds({"flood": partial(_flood, database, shipped, bench.scale.flood)})
        drains = await bench.rounds(
            {
                "drain of one organisation": partial(_drain, database, wide, bench.scale.jobs, _MANY[:1]),
                "drain of 100 organisations": partial(_drain, database, wide, bench.scale.jobs, _MANY),
            }
        )
    behind, during = zip(*flood["flood"], strict=True)
    one, many = drains.values()
    flood_size = [float(bench.scale.flood)] * len(behind)
    return [
        Line(
            f"of {bench.scale.flood:,} waiting jobs, started before another organisation's",
            "jobs",
            behind,
            "all that waited",
            flood_size,
            at_most(_ROUND),
        ),
        Line(
            "the same, created while they are drained: started in between",
            "jobs",
            during,
            "all that waited",
            flood_size,
        ),
        Line("drain, 1 worker, one organisation", "jobs/s", one),
        Line(
            "drain, 1 worker, 100 organisations",
            "jobs/s",
            many,
            "drain of one organisation",
            one,
            ratio_at_least(0.9),
        ),
    ]


async def _flood(database: Database, workers: Sequence[ServiceProcess], flood: int) -> tuple[float, float]:
    """How many jobs of a flood start before one job that waits behind it, and before one created later."""
    await empty(database)
    await fill(database, new_jobs(flood, organisations=[_FLOODING]))
    (behind,) = new_jobs(1, organisations=[_SINGLE])
    await put(database, [behind])
    async with started_with_claims_held_back(database, workers):
        watch = await Watch.start(database, behind.job_id)
    await eventually(lambda: _has_claimed(watch, flood // 10), within=_WAIT_SECONDS)
    (during,) = new_jobs(1, organisations=[_SINGLE])
    await put(database, [during])
    created_at = time.monotonic()
    started = (
        await _started_between(
            database, 0.0, await entered_at(database, _SINGLE, behind.job_id, within=_WAIT_SECONDS)
        ),
        await _started_between(
            database, created_at, await entered_at(database, _SINGLE, during.job_id, within=_WAIT_SECONDS)
        ),
    )
    await stop(workers)
    return started


async def _has_claimed(watch: Watch, jobs: int) -> bool:
    return await watch.claimed() >= jobs


async def _started_between(database: Database, after: float, before: float) -> int:
    async with database.connection() as connection:
        started: int = await connection.fetchval(
            """SELECT count(*) FROM jobs
            WHERE org_id = $1 AND status = 'completed' AND (output ->> 'entered_at')::float8 BETWEEN $2 AND $3""",
            _FLOODING,
            after,
            before,
        )
    return started


async def _drain(
    database: Database, workers: Sequence[ServiceProcess], jobs: int, organisations: Sequence[str]
) -> float:
    first_id = new_id()
    await empty(database)
    await fill(database, new_jobs(jobs, organisations=organisations))
    return await drain_rate(database, workers, jobs, first_id=first_id)

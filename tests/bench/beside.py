"""Draining the same jobs with and without something else in the tables."""

from collections.abc import Awaitable, Callable
from functools import partial

from bench.drains import drain_rate
from bench.line import Line, ratio_at_least
from bench.rounds import Bench
from bench.samples import fill, new_jobs
from bench.scale import SLOTS
from millrace_database.database import Database
from millrace_database.ids import new_id


async def drain_beside(
    bench: Bench, what: str, prepare: Callable[[Database], Awaitable[None]], *, goal: float
) -> list[Line]:
    """Drain by one worker beside nothing, and beside the other things that `prepare` has filled the tables with.

    Neither tables are emptied between rounds: pages that have been used before take updates more slowly than new ones.
    """
    first_id = new_id()
    async with bench.surroundings.database() as plain, bench.surroundings.database() as full:
        bench.tell(f"preparing: {what}")
        await prepare(full)
        for database in (plain, full):
            async with database.connection() as connection:
                await connection.execute("VACUUM ANALYZE", timeout=3600)
                await connection.execute("CHECKPOINT", timeout=3600)

        async def drain(database: Database) -> float:
            await fill(database, new_jobs(bench.scale.jobs))
            async with bench.surroundings.workers(database, 1, slots=SLOTS) as workers:
                return await drain_rate(database, workers, bench.scale.jobs, first_id=first_id)

        taken = await bench.rounds(
            {"drain beside nothing": partial(drain, plain), f"drain beside {what}": partial(drain, full)}
        )
    alone, beside = taken.values()
    return [
        Line("drain, 1 worker, nothing else in the tables", "jobs/s", alone),
        Line(
            f"drain, 1 worker, beside {what}",
            "jobs/s",
            beside,
            "drain with nothing else",
            alone,
            ratio_at_least(goal),
        ),
    ]

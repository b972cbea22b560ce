"""What a worker without jobs costs."""

import asyncio
import re
import time
from functools import partial

from bench import usage
from bench.line import Line, at_most
from bench.rounds import Bench

# Transactions are counted by what they hold.
_QUERY = re.compile(rb"LOG:  (?:execute [^:]*|statement): (?!BEGIN|COMMIT|ROLLBACK)")


async def measure(bench: Bench) -> list[Line]:
    (taken,) = (await bench.rounds({"idle worker": partial(_idle, bench)})).values()
    cpu, queries = zip(*taken, strict=True)
    return [
        Line("an idle worker", "% of a core", cpu, goal=at_most(1)),
        Line("queries of an idle worker", "queries/s", queries, goal=at_most(1)),
    ]


async def _idle(bench: Bench) -> tuple[float, float]:
    surroundings = bench.surroundings
    async with surroundings.database() as database:
        async with database.connection() as connection:
            name = await connection.fetchval("SELECT current_database()")
            await connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
        async with surroundings.services(database, "worker") as running:
            worker = usage.service(running.worker)
            await asyncio.sleep(bench.scale.settled_seconds)
            started_at, cpu, size = (
                time.monotonic(),
                usage.cpu_seconds(worker),
                surroundings.postgres_log.stat().st_size,
            )
            await asyncio.sleep(bench.scale.idle_seconds)
            passed, used = time.monotonic() - started_at, usage.cpu_seconds(worker) - cpu
            with surroundings.postgres_log.open("rb") as log:
                log.seek(size)
                queries = len(_QUERY.findall(log.read()))
    return used / passed * 100, queries / passed

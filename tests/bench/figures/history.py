"""Draining beside very many finished jobs."""

from bench.beside import drain_beside
from bench.line import Line
from bench.rounds import Bench
from bench.samples import NOOP
from millrace_database.database import Database

_CHUNK = 500_000

# Of the last 30 days, and of 100 organisations.
_INSERT = """
INSERT INTO jobs (job_id, org_id, type, status, progress, input, output, created_by, created_at, run_at, started_at,
    completed_at, attempt, max_attempts, request_id, version)
SELECT uuidv7(created_at - clock_timestamp()), 'org_' || number % 100, $1, 'completed', 100,
    jsonb_build_object('number', number, 'name', 'job ' || number, 'urgent', false),
    '{"entered_at": 12345.678}', 'bench', created_at, created_at, created_at, created_at, 1, 4,
    md5(number::text), 3
FROM (
    SELECT number, now() - interval '30 days' * (1 - number::float8 / $4) AS created_at
    FROM generate_series($2::bigint, $3::bigint) AS number
) AS finished
"""


async def measure(bench: Bench) -> list[Line]:
    history = bench.scale.history

    async def prepare(database: Database) -> None:
        async with database.connection() as connection:
            for first in range(1, history + 1, _CHUNK):
                last = min(first + _CHUNK - 1, history)
                bench.tell(f"preparing: {last:,} of {history:,} finished jobs")
                await connection.execute(_INSERT, NOOP, first, last, history + 1, timeout=3600)

    return await drain_beside(bench, f"{history:,} finished", prepare, goal=0.9)

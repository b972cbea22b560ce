"""Draining beside very many finished jobs."""

from bench.beside import drain_beside
from bench.line import Line
from bench.rounds import Bench
from bench.samples import NOOP
from millrace_database.database import Database

_CHUNK = 500_000

# Of the last 30 days, and of 100 organisations.
_CREATE = """
INSERT INTO jobs (job_id, org_id, type, input, created_by, created_at, run_at, max_attempts, request_id)
SELECT uuidv7(created_at - clock_timestamp()), 'org_' || number % 100, $1,
    jsonb_build_object('number', number, 'name', 'job ' || number, 'urgent', false),
    'bench', created_at, created_at, 4, md5(number::text)
FROM (
    SELECT number, now() - interval '30 days' * (1 - number::float8 / $4) AS created_at
    FROM generate_series($2::bigint, $3::bigint) AS number
) AS created
"""

# As jobs grow in life, in the room that their pages have for it. Rows that come in full leave pages with room for one small
# row each, so that new jobs would be strewn over as many pages as there are jobs.
_COMPLETE = """
UPDATE jobs
SET status = 'completed', progress = 100, output = '{"entered_at": 12345.678}', started_at = created_at,
    completed_at = created_at, attempt = 1, worker_id = job_id, version = 3
WHERE $1::uuid IS NULL OR job_id > $1::uuid
"""
_LAST = "SELECT job_id FROM jobs ORDER BY job_id DESC LIMIT 1"


async def measure(bench: Bench) -> list[Line]:
    history = bench.scale.history

    async def prepare(database: Database) -> None:
        async with database.connection() as connection:
            for first in range(1, history + 1, _CHUNK):
                last = min(first + _CHUNK - 1, history)
                bench.tell(f"preparing: {last:,} of {history:,} finished jobs")
                before = await connection.fetchval(_LAST)
                await connection.execute(_CREATE, NOOP, first, last, history + 1, timeout=3600)
                await connection.execute(_COMPLETE, before, timeout=3600)

    return await drain_beside(bench, f"{history:,} finished", prepare, goal=0.9)

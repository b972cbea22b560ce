"""How many jobs are created and finished, counted in memory and written about once a second."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias
from uuid import UUID

import asyncpg

from millrace_database.availability import is_unavailable
from millrace_database.ids import new_id

JobCounts: TypeAlias = Counter[tuple[str, str]]
"""Numbers of jobs by type and organisation."""

FLUSH_SECONDS = 1.0
"""How late a count may be written; so much of the counts a crash may cost."""

_ADD_FLOW = """
INSERT INTO job_flow (bucket, type, org_id, source, created, finished)
SELECT date_bin('10 seconds', now(), 'epoch'), type, org_id, $1::uuid, created, finished
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS flow (type, org_id, created, finished)
ORDER BY type, org_id
ON CONFLICT (bucket, type, org_id, source) DO UPDATE
SET created = job_flow.created + excluded.created, finished = job_flow.finished + excluded.finished
"""

_REMOVE_OLD_FLOW = """
WITH old AS MATERIALIZED (
    SELECT bucket, type, org_id, source
    FROM job_flow
    WHERE bucket < now() - interval '5 minutes'
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM job_flow USING old
WHERE job_flow.bucket = ANY (ARRAY[old.bucket]) AND job_flow.type = ANY (ARRAY[old.type])
    AND job_flow.org_id = ANY (ARRAY[old.org_id]) AND job_flow.source = ANY (ARRAY[old.source])
"""

_logger = logging.getLogger(__name__)


class FlowCounter:
    """Counts of one process. Counting is cheap; what was counted is written by `run`."""

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]) -> None:
        """Take where to borrow a connection in autocommit mode."""
        self._connection = connection
        # Nobody else writes rows with this name, so that nobody waits for them.
        self._source = new_id()
        self._created: JobCounts = Counter()
        self._finished: JobCounts = Counter()
        self._wanted = asyncio.Event()

    def created(self, type_: str, org_id: str, count: int = 1) -> None:
        """Count jobs that were created."""
        self._created[type_, org_id] += count
        self._wanted.set()

    def finished(self, type_: str, org_id: str) -> None:
        """Count a job that ended, however it did."""
        self._finished[type_, org_id] += 1
        self._wanted.set()

    def created_many(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Count jobs that were created, by type and organisation."""
        self._created.update(counts)
        self._wanted.set()

    def finished_many(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Count jobs that ended, however they did, by type and organisation."""
        self._finished.update(counts)
        self._wanted.set()

    async def run(self) -> None:
        """Write what was counted until it is cancelled; counts made during an outage of the database are dropped."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was counted."""
        self._wanted.clear()
        counts = self._take()
        if not counts:
            return
        try:
            async with self._connection() as conn:
                await add_flow(conn, self._source, counts)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _logger.warning("Counts of jobs were dropped: %r", error)

    def _take(self) -> dict[tuple[str, str], tuple[int, int]]:
        created, self._created = self._created, Counter()
        finished, self._finished = self._finished, Counter()
        return {key: (created[key], finished[key]) for key in created.keys() | finished.keys()}


async def add_flow(
    conn: asyncpg.Connection, source: UUID, counts: Mapping[tuple[str, str], tuple[int, int]]
) -> None:
    """Add numbers of jobs that were just created and finished, by type and organisation."""
    await conn.execute(
        _ADD_FLOW,
        source,
        [type_ for type_, _ in counts],
        [org_id for _, org_id in counts],
        [created for created, _ in counts.values()],
        [finished for _, finished in counts.values()],
    )


async def remove_old_flow(conn: asyncpg.Connection, *, limit: int) -> int:
    """Remove up to `limit` counts that nobody reads any more, and return how many there were."""
    return int((await conn.execute(_REMOVE_OLD_FLOW, limit)).split()[1])

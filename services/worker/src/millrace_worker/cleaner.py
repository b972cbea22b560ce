"""The removal of what is kept no longer. Any worker does it for all; one at a time walks through the jobs.

What may lie about for a day is left to `database:maintenance`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

import millrace_queue
from millrace_database import Database, retention
from millrace_database.batches import Batches, BatchSize
from millrace_database.job_flow import remove_old_flow
from millrace_database.job_options import RetentionRule
from millrace_database.retention import Retention
from millrace_worker.transient import DATABASE_ERRORS, Outage

LONGEST_PAUSE_SECONDS = 300.0
"""How late a worker may notice that there is something to remove, or that the rules of a type have changed."""

_LEAST_PAUSE_SECONDS = 0.02

_log = structlog.get_logger(__name__)

_Removal = Callable[..., Awaitable[int]]

_LEFTOVERS: tuple[_Removal, ...] = (millrace_queue.remove_ended_throttles, remove_old_flow)
"""What grows with the traffic, by the minute."""


class Cleaner:
    """Removes finished jobs that are kept no longer, and what else grows with the traffic, little by little."""

    def __init__(self, database: Database, default: RetentionRule) -> None:
        """Take how long jobs are kept whose type says nothing; nothing of it is None."""
        self._database = database
        self._default = default
        self._size = BatchSize()
        self._batches = Batches(database, share_of_time=retention.SHARE_OF_TIME)

    async def run(self) -> None:
        """Remove until it is cancelled."""
        outage = Outage("remove what is kept no longer")
        while True:
            try:
                for remove in _LEFTOVERS:
                    await self._remove_all(remove)
                await self._sweep(time.monotonic() + LONGEST_PAUSE_SECONDS)
            except DATABASE_ERRORS as error:
                # A step that was too large to end in time must not be tried again as it was.
                self._size.shrink()
                await outage.wait(error)
            else:
                outage.is_over()

    async def _sweep(self, until: float) -> None:
        """Take part in the sweeps until then, on the monotonic clock."""
        async with self._database.connection() as connection:
            rules = await retention.read_retention(connection, self._default)
            await retention.add_sweeps(connection, rules.sweeps())
        removed = 0
        while (left := until - time.monotonic()) > 0:
            pause, count = await self._step(rules)
            removed += count
            await asyncio.sleep(min(pause, left))
        if removed:
            _log.info("finished jobs were removed", count=removed)

    async def _step(self, rules: Retention) -> tuple[float, int]:
        """Return how long to wait for the next step, and how many jobs were removed in this one."""
        started_at = time.monotonic()
        async with self._database.transaction() as connection:
            swept = await retention.sweep_jobs(connection, rules, limit=self._size.rows)
        if swept is None:
            # Another worker is at it: it goes on, and this one comes back in case it does not.
            return LONGEST_PAUSE_SECONDS, 0
        self._size.took(time.monotonic() - started_at)
        return max(swept.next_in, _LEAST_PAUSE_SECONDS), swept.removed

    async def _remove_all(self, remove: _Removal) -> None:
        async def some(connection: asyncpg.Connection, limit: int) -> bool:
            return await remove(connection, limit=limit) == limit

        while await self._batches.run(some):
            pass

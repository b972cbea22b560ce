"""The removal of what is kept no longer. Any worker does it for all; one at a time walks through the jobs."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

import millrace_queue
from millrace_database import Database, retention
from millrace_database.job_flow import remove_old_flow
from millrace_database.job_options import RetentionRule
from millrace_database.retention import Retention
from millrace_database.schedule_runs_repository import remove_deleted_schedules, remove_old_runs
from millrace_worker.transient import DATABASE_ERRORS, Outage

LONGEST_PAUSE_SECONDS = 60.0
"""How late a worker may notice that there is something to remove, or that the rules of a type have changed."""

_LEAST_PAUSE_SECONDS = 0.02
_BATCH = 1_000
# A step that takes longer than this is followed by smaller ones.
_STEP_SECONDS = 0.2
_SMALLEST_BATCH = 50
# What grows slowly is searched without an index, and so only now and then.
_RARE_SECONDS = 3600.0

_log = structlog.get_logger(__name__)

_Removal = Callable[[asyncpg.Connection], Awaitable[bool]]


class Cleaner:
    """Removes finished jobs that are kept no longer, and what else nobody needs any more, little by little."""

    def __init__(self, database: Database, default: RetentionRule) -> None:
        """Take how long jobs are kept whose type says nothing; nothing of it is None."""
        self._database = database
        self._default = default
        self._batch = _BATCH
        self._rare_at = 0.0

    async def run(self) -> None:
        """Remove until it is cancelled."""
        outage = Outage("remove what is kept no longer")
        while True:
            try:
                await self._remove_leftovers()
                await self._sweep(time.monotonic() + LONGEST_PAUSE_SECONDS)
            except DATABASE_ERRORS as error:
                # A step that was too large to end in time must not be tried again as it was.
                self._batch = max(self._batch // 2, _SMALLEST_BATCH)
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
            swept = await retention.sweep_jobs(connection, rules, limit=self._batch)
        if swept is None:
            # Another worker is at it: it goes on, and this one comes back in case it does not.
            return LONGEST_PAUSE_SECONDS, 0
        self._batch = _next_batch(self._batch, time.monotonic() - started_at)
        async with self._database.connection() as connection:
            pause = await retention.seconds_until_sweep(connection, rules.sweeps())
        return max(pause, _LEAST_PAUSE_SECONDS), swept.removed

    async def _remove_leftovers(self) -> None:
        removals: tuple[_Removal, ...] = (_remove_throttles, _remove_flow, _remove_schedule_runs)
        if time.monotonic() >= self._rare_at:
            removals += (_remove_imports, _remove_schedules)
            self._rare_at = time.monotonic() + _RARE_SECONDS * random.uniform(0.75, 1)  # noqa: S311 - jitter is no secret
        for remove in removals:
            while await self._remove(remove):
                pass

    async def _remove(self, remove: _Removal) -> bool:
        """Remove some, and pause; return whether there may be more."""
        started_at = time.monotonic()
        async with self._database.connection() as connection:
            more = await remove(connection)
        took = time.monotonic() - started_at
        await asyncio.sleep(took * (1 / retention.SHARE_OF_TIME - 1))
        return more


def _next_batch(batch: int, took: float) -> int:
    if took > _STEP_SECONDS:
        return max(batch // 2, _SMALLEST_BATCH)
    return min(batch * 2, _BATCH) if took < _STEP_SECONDS / 2 else batch


async def _remove_throttles(connection: asyncpg.Connection) -> bool:
    return await millrace_queue.remove_ended_throttles(connection, limit=_BATCH) == _BATCH


async def _remove_flow(connection: asyncpg.Connection) -> bool:
    return await remove_old_flow(connection, limit=_BATCH) == _BATCH


async def _remove_schedule_runs(connection: asyncpg.Connection) -> bool:
    return await remove_old_runs(connection, limit=_BATCH) == _BATCH


async def _remove_schedules(connection: asyncpg.Connection) -> bool:
    return await remove_deleted_schedules(connection, limit=_BATCH) == _BATCH


async def _remove_imports(connection: asyncpg.Connection) -> bool:
    return await retention.remove_abandoned_import(connection, limit=_BATCH)

"""Work on many rows in small batches, with pauses between them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from millrace_database.database import Database

LARGEST_BATCH = 1_000
"""How many rows a batch is about at most."""

SMALLEST_BATCH = 50
"""How many it is about at least, however long it takes."""

# A batch that takes longer than this is followed by smaller ones.
_BATCH_SECONDS = 0.2

_Result = TypeVar("_Result")


class BatchSize:
    """How many rows the next batch is to be about: fewer when the last one took long, more when it did not."""

    def __init__(self) -> None:
        self.rows = LARGEST_BATCH

    def took(self, seconds: float) -> None:
        """Take how long a batch of this size took."""
        if seconds > _BATCH_SECONDS:
            self.shrink()
        elif seconds < _BATCH_SECONDS / 2:
            self.rows = min(self.rows * 2, LARGEST_BATCH)

    def shrink(self) -> None:
        """Take that a batch of this size is too large."""
        self.rows = max(self.rows // 2, SMALLEST_BATCH)


class Batches:
    """Runs batches one after another, each on a connection of the pool, at work for no more than a share of the time."""

    def __init__(self, database: Database, *, share_of_time: float) -> None:
        """Take the share of the time, above 0 and up to 1, that batches may take; the rest are pauses after them."""
        self._database = database
        self._pause_per_second = 1 / share_of_time - 1
        self._size = BatchSize()

    async def run(self, work: Callable[[asyncpg.Connection, int], Awaitable[_Result]]) -> _Result:
        """Run a batch, and pause. Returns what it returns.

        `work` is given a connection in autocommit mode, and how many rows it may be about at most. One that does not end in
        time is tried again about fewer rows, so `work` is a statement or a transaction, of which nothing stays when it
        fails. Raises what it raises, TimeoutError included when it is about no more than `SMALLEST_BATCH` rows.
        """
        while True:
            rows = self._size.rows
            try:
                result, took = await self._timed(work, rows)
            except TimeoutError:
                if rows == SMALLEST_BATCH:
                    raise
                self._size.shrink()
                continue
            self._size.took(took)
            return result

    async def once(self, work: Callable[[asyncpg.Connection], Awaitable[_Result]]) -> _Result:
        """Run what cannot be made smaller, and pause. Returns what it returns, and raises what it raises."""
        result, _ = await self._timed(work)
        return result

    async def _timed(self, work: Callable[..., Awaitable[_Result]], *arguments: int) -> tuple[_Result, float]:
        async with self._database.connection() as connection:
            started_at = time.monotonic()
            result = await work(connection, *arguments)
        took = time.monotonic() - started_at
        await asyncio.sleep(took * self._pause_per_second)
        return result, took

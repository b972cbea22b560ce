import asyncio
import contextlib
import math
import random
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import ClassVar

from millrace_worker.transient import DATABASE_ERRORS, Outage

LONGEST_WAIT_SECONDS = 300.0
"""So often it looks by itself; until then it relies on hints, and on the worker's watch, which looks every few seconds."""

LEAST_WAIT_SECONDS = 0.1
"""Hints come in swarms; the queue is not asked for its next time more often than this."""

# Two looks at one time do not give the same to the millisecond.
_TOLERANCE_SECONDS = 0.05


class TimedDuty(ABC):
    """A duty that is due at times told by the database: it sleeps until the next one, or until a hint."""

    name: ClassVar[str]
    """What it does, for the log."""
    least_wait: ClassVar[float] = LEAST_WAIT_SECONDS
    """The least seconds between two looks."""

    def __init__(self) -> None:
        self._stirred = asyncio.Event()
        self._wake_at = 0.0

    def hint(self) -> None:
        """Look again soon: there may be an earlier time than the one it sleeps until."""
        self._stirred.set()

    def expect(self, delay: timedelta) -> None:
        """Be awake when so much time has passed."""
        if time.monotonic() + delay.total_seconds() < self._wake_at - _TOLERANCE_SECONDS:
            self._stirred.set()

    def due_in(self, seconds: float | None) -> None:
        """Take when the next time comes, as somebody else has seen it; None: there is none."""
        if seconds is not None:
            self.expect(timedelta(seconds=min(seconds, LONGEST_WAIT_SECONDS)))

    async def run(self) -> None:
        """Do what is due until it is cancelled."""
        outage = Outage(self.name)
        while True:
            self._stirred.clear()
            # What is expected from now on may be too late for this look.
            self._wake_at = math.inf
            try:
                pause = await self._work()
            except DATABASE_ERRORS as error:
                await outage.wait(error)
                continue
            outage.is_over()
            await self._sleep(pause)

    @abstractmethod
    async def _work(self) -> float:
        """Do some of what is due, and return the seconds until there may be more."""

    def _until(self, due_in: float | None) -> float:
        """Return how long to sleep when the next time comes in so many seconds; None: there is none."""
        longest = LONGEST_WAIT_SECONDS * random.uniform(0.75, 1)  # noqa: S311 - jitter is no secret
        return longest if due_in is None else min(due_in, longest)

    async def _sleep(self, seconds: float) -> None:
        self._wake_at = time.monotonic() + seconds
        await asyncio.sleep(min(seconds, self.least_wait))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + self._wake_at - time.monotonic()
            ):
                await self._stirred.wait()

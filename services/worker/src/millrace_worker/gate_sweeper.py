import random
from collections.abc import Callable, Collection

import millrace_queue
from millrace_database import Database
from millrace_queue import SweepProgress
from millrace_worker.timed_duty import TimedDuty

SWEEP_SECONDS = 1.0
"""How often the limits are looked after: so late may one that was changed take effect."""


class GateSweeper(TimedDuty):
    """Lets jobs go that wait at a limit and may start: about once a second while there are limits, and when a rate opens."""

    name = "sweep the gates of the queue"
    least_wait = 0.02

    def __init__(self, database: Database, *, let_go: Callable[[Collection[str]], None]) -> None:
        """Take what to call with the types of jobs that can be claimed now."""
        super().__init__()
        self._database = database
        self._let_go = let_go
        self._progress = SweepProgress()
        self._is_wanted = True

    def want(self, wanted: bool) -> None:
        """Take whether there are limits, or jobs that wait at one."""
        if wanted and not self._is_wanted:
            self.hint()
        self._is_wanted = wanted

    async def _work(self) -> float:
        async with self._database.connection() as connection:
            sweep = await millrace_queue.sweep_gates(connection, self._progress)
        if sweep.types:
            self._let_go(sweep.types)
        if sweep.more:
            return 0.0
        if not self._is_wanted:
            return self._until(sweep.opens_in)
        pause = SWEEP_SECONDS * random.uniform(0.75, 1)  # noqa: S311 - jitter is no secret
        return pause if sweep.opens_in is None else min(pause, sweep.opens_in)

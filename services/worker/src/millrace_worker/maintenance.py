"""Duties that any worker does for all: each may run in several at once without harm."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

import structlog

import millrace_queue
from millrace_database import Database, job_lifecycle
from millrace_database.ids import format_id
from millrace_queue import Lease, Rescue, Rescued
from millrace_worker.transient import DATABASE_ERRORS, Outage

LONGEST_WAIT_SECONDS = 5.0
"""How late a job whose time has come may be when the hint of its creation was lost."""

LEAST_WAIT_SECONDS = 0.1
"""Hints come in swarms; the queue is not asked for its next due time more often than this."""

RESCUES_PER_LEASE = 5
"""A lost worker is noticed a lease and, at most, a fifth of one after its last heartbeat."""

_BATCH = 1_000

_log = structlog.get_logger(__name__)


class Promoter:
    """Makes scheduled jobs ready when their time has come: sleeps until the next one, or until a hint."""

    def __init__(self, database: Database, *, promoted: Callable[[Collection[str]], None]) -> None:
        """Take what to call with the types of promoted jobs."""
        self._database = database
        self._promoted = promoted
        self._stirred = asyncio.Event()
        self._wake_at = 0.0

    def hint(self) -> None:
        """Look again soon: there may be an earlier time than the one it sleeps until."""
        self._stirred.set()

    def expect(self, delay: timedelta) -> None:
        """Be awake when so much time has passed."""
        if time.monotonic() + delay.total_seconds() < self._wake_at:
            self._stirred.set()

    async def run(self) -> None:
        """Promote until it is cancelled."""
        outage = Outage("promote scheduled jobs")
        while True:
            self._stirred.clear()
            # What is expected from now on may be too late for this look.
            self._wake_at = math.inf
            try:
                pause = await self._promote_due()
            except DATABASE_ERRORS as error:
                await outage.wait(error)
                continue
            outage.is_over()
            await self._sleep(pause)

    async def _promote_due(self) -> float:
        """Promote what is due and return the seconds until there may be more."""
        async with self._database.connection() as connection:
            due_in = await millrace_queue.seconds_until_due(connection)
            if due_in is None or due_in > 0:
                longest = LONGEST_WAIT_SECONDS * random.uniform(0.75, 1)  # noqa: S311 - jitter is no secret
                return longest if due_in is None else min(due_in, longest)
            types = await millrace_queue.promote(connection, limit=_BATCH)
        self._promoted(set(types))
        # Nothing: another worker is just promoting what is due.
        return 0.0 if types else LEAST_WAIT_SECONDS

    async def _sleep(self, seconds: float) -> None:
        self._wake_at = time.monotonic() + seconds
        await asyncio.sleep(min(seconds, LEAST_WAIT_SECONDS))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + self._wake_at - time.monotonic()
            ):
                await self._stirred.wait()


class Rescuer:
    """Takes jobs back from workers that are lost."""

    def __init__(
        self,
        database: Database,
        *,
        lease: float,
        may_rescue: Callable[[], bool],
        rescued: Callable[[Collection[str]], None],
    ) -> None:
        """Take the seconds a lease holds, whether it is fair to rescue now, and what to call with the types of
        jobs that can be claimed again.
        """
        self._database = database
        self._interval = lease / RESCUES_PER_LEASE
        self._may_rescue = may_rescue
        self._rescued = rescued

    async def run(self) -> None:
        """Rescue until it is cancelled."""
        outage = Outage("rescue jobs of lost workers")
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.75, 1))  # noqa: S311 - jitter is no secret
            try:
                while self._may_rescue() and await self._rescue() == _BATCH:
                    pass
            except DATABASE_ERRORS as error:
                await outage.wait(error)
            else:
                outage.is_over()

    async def _rescue(self) -> int:
        async with self._database.transaction() as connection:
            rescued = await job_lifecycle.rescue_jobs(connection, limit=_BATCH)
        for entry in rescued:
            _log_rescue(entry)
        self._rescued({entry.type for entry in rescued if entry.outcome is Rescue.READY})
        return len(rescued)


class OrphanReturner:
    """Hands back leases that the database knows and this worker does not: the replies of their claims were lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._orphans: Sequence[Lease] = ()
        self._wanted = asyncio.Event()

    def hand_back(self, leases: Sequence[Lease]) -> None:
        """Have these leases handed back; each heartbeat that finds some says so anew."""
        self._orphans = leases
        self._wanted.set()

    async def run(self) -> None:
        """Hand back until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            orphans = self._orphans
            try:
                async with self._database.transaction() as connection:
                    await job_lifecycle.hand_back_jobs(connection, orphans)
            except DATABASE_ERRORS as error:
                # The next heartbeat finds them again.
                _log.warning("leases without an execution could not be handed back", error=repr(error))
            else:
                _log.warning("leases without an execution were handed back", count=len(orphans))


def _log_rescue(entry: Rescued) -> None:
    _log.warning(
        "job taken back from a lost worker",
        job_id=format_id("job", entry.id),
        type=entry.type,
        attempt=entry.attempt,
        worker_id=format_id("worker", entry.worker_id),
        outcome=entry.outcome.value,
    )

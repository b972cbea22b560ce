"""Duties that any worker does for all: each may run in several at once without harm."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

import millrace_queue
from millrace_database import Database, job_lifecycle
from millrace_database.ids import format_id
from millrace_database.job_flow import JobCounts
from millrace_database.system_schedules_repository import entry_name
from millrace_queue import Freed, Lease, Rescue, Rescued, ServedRanks
from millrace_worker.timed_duty import LEAST_WAIT_SECONDS, TimedDuty
from millrace_worker.transient import DATABASE_ERRORS, Outage

KEEP_LINES_SECONDS = 1.0
"""How often the starts of lines are moved on while jobs are claimed; an entry may also stand before its line's
start so long without being seen."""

_BATCH = 1_000
# While an old transaction is open a search from the beginning takes long: no more than this share of the time.
_SEARCH_SHARE = 0.02
_LONGEST_SEARCH_PAUSE_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class Promoter(TimedDuty):
    """Makes scheduled jobs ready when their time has come."""

    name = "promote scheduled jobs"

    def __init__(self, database: Database, *, promoted: Callable[[Collection[str]], None]) -> None:
        """Take what to call with the types of promoted jobs."""
        super().__init__()
        self._database = database
        self._promoted = promoted

    async def _work(self) -> float:
        async with self._database.connection() as connection:
            due_in = await millrace_queue.seconds_until_due(connection)
            if due_in is None or due_in > 0:
                return self._until(due_in)
            types = await millrace_queue.promote(connection, limit=_BATCH)
        self._promoted(set(types))
        # Nothing: another worker is just promoting what is due.
        return 0.0 if types else LEAST_WAIT_SECONDS


class Expirer(TimedDuty):
    """Fails jobs that wait until their deadline is over."""

    name = "fail jobs whose deadline is over"
    least_wait = 1.0

    def __init__(
        self,
        database: Database,
        *,
        created: Callable[[JobCounts], None],
        finished: Callable[[JobCounts], None],
    ) -> None:
        """Take what to call with how many jobs were created because others failed, and with how many have failed."""
        super().__init__()
        self._database = database
        self._created = created
        self._finished = finished

    async def _work(self) -> float:
        created: JobCounts = Counter()
        async with self._database.transaction() as connection:
            due_in = await millrace_queue.seconds_until_expiry(connection)
            if due_in is None or due_in > 0:
                return self._until(due_in)
            expired = await job_lifecycle.expire_jobs(connection, limit=_BATCH, created=created)
        if expired:
            _log.info("jobs failed because their deadline is over", count=len(expired))
            self._finished(Counter((entry.type, entry.tenant) for entry in expired))
        if created:
            self._created(created)
        return 0.0 if len(expired) == _BATCH else self.least_wait


class LineKeeper:
    """Moves the starts of the lines on that this worker claims from, and back for what stands before one."""

    def __init__(self, database: Database, served: ServedRanks, *, found: Callable[[], None]) -> None:
        """Take the ranks that were claimed, and what to call when entries were found that no claim saw."""
        self._database = database
        self._served = served
        self._found = found
        self._last: Mapping[tuple[str, int], int] = {}
        self._is_behind = False
        self._search_at = 0.0

    def search(self) -> None:
        """Search the lines from the beginning, since there are entries that no claim sees."""
        self._is_behind = True

    async def run(self) -> None:
        """Keep the lines until it is cancelled."""
        outage = Outage("keep the lines of the queue")
        while True:
            await asyncio.sleep(KEEP_LINES_SECONDS * random.uniform(0.75, 1))  # noqa: S311 - jitter is no secret
            try:
                await self._keep()
            except DATABASE_ERRORS as error:
                await outage.wait(error)
            else:
                outage.is_over()

    async def _keep(self) -> None:
        # A start moves in two steps: the lines of the last round are kept once more.
        latest = self._served.take()
        served, self._last = {**self._last, **latest}, latest
        if not served and not self._is_behind:
            return
        started_at = time.monotonic()
        search = self._is_behind or started_at >= self._search_at
        self._is_behind = False
        async with self._database.connection() as connection:
            found = await millrace_queue.keep_lines(connection, served, from_beginning=search)
        if search:
            took = time.monotonic() - started_at
            self._search_at = time.monotonic() + min(took / _SEARCH_SHARE, _LONGEST_SEARCH_PAUSE_SECONDS)
        if found:
            self._found()


class Rescuer:
    """Takes jobs back from workers that are lost."""

    def __init__(
        self,
        database: Database,
        *,
        may_rescue: Callable[[], bool],
        rescued: Callable[[Collection[str]], None],
        created: Callable[[JobCounts], None],
        finished: Callable[[JobCounts], None],
    ) -> None:
        """Take whether it is fair to rescue now, and what to call with the types of jobs that can be claimed again, with
        how many jobs were created because others failed for good, and with how many have ended.
        """
        self._database = database
        self._may_rescue = may_rescue
        self._rescued = rescued
        self._created = created
        self._finished = finished
        self._wanted = asyncio.Event()

    def rescue(self) -> None:
        """Take back what lost workers hold."""
        self._wanted.set()

    async def run(self) -> None:
        """Rescue, when it is wanted, until it is cancelled."""
        outage = Outage("rescue jobs of lost workers")
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while self._may_rescue() and await self._rescue() == _BATCH:
                    pass
            except DATABASE_ERRORS as error:
                # The next look finds them again.
                await outage.wait(error)
            else:
                outage.is_over()

    async def _rescue(self) -> int:
        created: JobCounts = Counter()
        freed: Freed = Counter()
        async with self._database.transaction() as connection:
            rescued = await job_lifecycle.rescue_jobs(connection, limit=_BATCH, created=created, freed=freed)
        for entry in rescued:
            _log_rescue(entry)
        self._rescued(freed.keys() | {entry.type for entry in rescued if entry.outcome is Rescue.READY})
        ended = Counter((entry.type, entry.tenant) for entry in rescued if entry.outcome is not Rescue.READY)
        if ended:
            self._finished(ended)
        if created:
            self._created(created)
        return len(rescued)


class OrphanReturner:
    """Hands back leases that the database knows and this worker does not: the replies of their claims were lost."""

    def __init__(self, database: Database, *, created: Callable[[JobCounts], None]) -> None:
        """Take what to call with how many jobs were created because others were cancelled."""
        self._database = database
        self._created = created
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
            created: JobCounts = Counter()
            try:
                async with self._database.transaction() as connection:
                    unstarted = {lease.id for lease in orphans}
                    await job_lifecycle.hand_back_jobs(
                        connection, orphans, unstarted=unstarted, created=created
                    )
            except DATABASE_ERRORS as error:
                # The next heartbeat finds them again.
                _log.warning("leases without an execution could not be handed back", error=repr(error))
            else:
                _log.warning("leases without an execution were handed back", count=len(orphans))
                if created:
                    self._created(created)


def _log_rescue(entry: Rescued) -> None:
    _log.warning(
        "job taken back from a lost worker",
        job_id=entry_name(entry.type, entry.id),
        type=entry.type,
        attempt=entry.attempt,
        worker_id=format_id("worker", entry.worker_id),
        outcome=entry.outcome.value,
    )

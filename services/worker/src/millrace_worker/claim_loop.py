import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import asyncpg

from millrace_database import Database, job_lifecycle
from millrace_database.job_changes import ClaimedJob
from millrace_queue import ClaimGates, Freed, ServedRanks
from millrace_worker.lanes import Lanes
from millrace_worker.runner import PATIENCE_SECONDS, Runner
from millrace_worker.transient import DATABASE_ERRORS, Outage

POLL_SECONDS = 60.0
"""How often an idle worker claims without a hint, and without having seen jobs; varied by a quarter, so that workers do not
keep step."""

CLOCK_MARGIN_SECONDS = 0.002
"""A claim that comes too early by so little is in vain."""


class ClaimFunction(Protocol):
    """How to claim: as `job_lifecycle.claim_jobs` does."""

    async def __call__(
        self,
        conn: asyncpg.Connection,
        worker_id: UUID,
        capacity: Mapping[str, int],
        limit: int,
        *,
        gates: ClaimGates | None = None,
    ) -> list[ClaimedJob]:
        """Claim for this worker so many of each type, and in all."""
        ...


class ClaimLoop:
    """Claims jobs for free slots: when one was freed and there may be more, at a hint, else now and then."""

    def __init__(
        self,
        database: Database,
        lanes: Lanes,
        runner: Runner,
        *,
        claimant: Callable[[], UUID | None],
        claimed: Callable[[], None],
        served: ServedRanks,
        rate_opens: Callable[[timedelta], None],
        left_to_others: Callable[[Collection[str]], None],
        claim: ClaimFunction = job_lifecycle.claim_jobs,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Take who claims now (None: nobody may), what to call after a claim, where to note the ranks, what to call with
        the time until a rate lets more jobs start, and with the types of jobs that limits let start, but not here; how to
        claim, and how often when there is no reason to.
        """
        self._database = database
        self._lanes = lanes
        self._runner = runner
        self._claimant = claimant
        self._claimed = claimed
        self._stirred = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_closed = False
        # The types of which there may be jobs: all of them after a hint; of one that has no room it stays open.
        self._may_wait = set(lanes.types)
        self._next_poll = 0.0
        self._served = served
        self._rate_opens = rate_opens
        self._left_to_others = left_to_others
        self._claim = claim
        self._poll_seconds = poll_seconds
        self._freed: Freed = Counter()
        # The types with limits, as the last claim that asked for them saw it.
        self._gated: set[str] = set()
        self._gates_likely = False
        self._rate_opens_at = math.inf
        self._outage = Outage("claim jobs")
        self.pending_since: float | None = None
        """Since when the reply of a claim is awaited, on the monotonic clock."""

    def hint(self) -> None:
        """Look for jobs now."""
        self._may_wait.update(self._lanes.types)
        self._stirred.set()

    def stir(self) -> None:
        """Look again whether there is room, and for jobs if there may be more than were claimed last."""
        self._stirred.set()

    def room_made(self) -> None:
        """Look for jobs of the types with limits, too: some have ended, and others may start instead."""
        self._may_wait |= self._gated
        self._stirred.set()

    def places_freed(self, freed: Freed) -> None:
        """Look for jobs that limits let start now; others are told of those for which there is no room here."""
        self._freed.update(freed)
        self._may_wait |= freed.keys() & self._lanes.types
        self._stirred.set()
        if self._ended.is_set():
            self._leave_to_others()

    async def close(self) -> None:
        """Claim nothing more; wait for the reply that is under way."""
        self._is_closed = True
        self._stirred.set()
        await self._ended.wait()

    async def run(self) -> None:
        """Claim until it is closed."""
        while not self._is_closed:
            self._stirred.clear()
            self._runner.give_back_waiting(longer_than=PATIENCE_SECONDS)
            if not await self._claim_if_due():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds_until_poll()):
                        await self._stirred.wait()
        self._ended.set()
        self._leave_to_others()

    def _seconds_until_poll(self) -> float:
        now = time.monotonic()
        until_poll = min(max(self._next_poll - now, 0.0) or self._poll_seconds, self._poll_seconds)
        # What was claimed ahead may have to be handed back by then.
        until_late = PATIENCE_SECONDS if self._lanes.waiting else math.inf
        return min(until_poll, until_late, max(self._rate_opens_at - now, 0.0))

    async def _claim_if_due(self) -> bool:
        """Claim if there is room and reason; return whether the database was asked."""
        worker_id = self._claimant()
        capacity, limit = self._lanes.wanted()
        if time.monotonic() >= self._next_poll:
            self._may_wait.update(self._lanes.types)
        if time.monotonic() >= self._rate_opens_at:
            self._may_wait |= self._gated
            self._rate_opens_at = math.inf
        if worker_id is None or limit == 0 or self._may_wait.isdisjoint(capacity):
            self._leave_to_others()
            return False
        # Before the claim, so that a hint that comes while it runs counts.
        self._may_wait.difference_update(capacity)
        self._next_poll = time.monotonic() + self._poll_seconds * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        places, most = self._lanes.places(self._gated)
        gates = ClaimGates(places=places, most=most, likely=self._gates_likely)
        freed, self._freed = self._freed, Counter()
        self.pending_since = asked_at = time.monotonic()
        try:
            async with self._database.connection() as connection:
                jobs = await self._claim(connection, worker_id, capacity, limit, gates=gates)
        except DATABASE_ERRORS as error:
            self._may_wait.update(capacity)
            self._freed.update(freed)
            await self._outage.wait(error)
            return True
        finally:
            self.pending_since = None
        self._outage.is_over()
        found = Counter(job.claim.type for job in jobs)
        self._may_wait.update(
            type_ for type_, places in capacity.items() if len(jobs) >= limit or found[type_] >= places
        )
        self._heed(gates, capacity, asked_at)
        is_full = len(jobs) >= limit or gates.most == 0
        room = {} if is_full else {type_: min(count, places[type_]) for type_, count in capacity.items()}
        self._note_left(freed, found, room)
        self._leave_to_others()
        if jobs:
            self._served.add(job.claim for job in jobs)
            self._runner.accept(jobs, worker_id)
            self._claimed()
        return True

    def _note_left(self, freed: Freed, found: Freed, room: Mapping[str, int]) -> None:
        """Keep what was freed and not found because of too little room: where there was more, all has been found."""
        self._freed.update(
            {
                type_: count - found[type_]
                for type_, count in freed.items()
                if room.get(type_, 0) <= found[type_] < count
            }
        )

    def _leave_to_others(self) -> None:
        if self._freed:
            self._left_to_others(self._freed.keys())
            self._freed = Counter()

    def _heed(self, gates: ClaimGates, asked_for: Collection[str], asked_at: float) -> None:
        self._gated = (self._gated - set(asked_for)) | gates.gated
        self._gates_likely = gates.likely
        self._may_wait |= gates.again
        if gates.opens_in is not None:
            # The database counted from the beginning of the claim.
            self._rate_opens_at = asked_at + gates.opens_in + CLOCK_MARGIN_SECONDS
            self._rate_opens(timedelta(seconds=max(self._rate_opens_at - time.monotonic(), 0.0)))

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg
import structlog

import millrace_queue
from millrace_database import Database
from millrace_database.ids import new_id
from millrace_database.workers_repository import WorkerDetails
from millrace_queue import Lease
from millrace_worker.heartbeat import Beat, HeartbeatThread
from millrace_worker.outcome import StopReason
from millrace_worker.runner import Runner
from millrace_worker.transient import DATABASE_ERRORS, Outage

_MARGIN_SHARE = 0.25
"""Handlers are stopped this share of a lease before it can run out elsewhere, so that they have time to stop."""

_LAPSED_POLL_SECONDS = 0.2

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Keeps the worker registered, and what it runs in step with the leases it holds.

    - The row of the worker is gone: it counted as lost. All handlers are stopped and it registers under a new id.
    - A lease is missing in the answer to a heartbeat: its handler is stopped and its result dropped.
    - A lease is there that nobody here knows, in two answers: the reply of its claim was lost; it is handed back.
    - A cancellation is requested: the handler is stopped.
    - Heartbeats fail for so long that the leases may run out: all handlers are stopped before, and handed back.
    - The worker stood still for so long: the same, but the attempts count as lost with their worker. Whoever holds the
      interpreter's lock for so long, over and over, would otherwise be handed back without end.
    """

    def __init__(
        self,
        database: Database,
        runners: Sequence[Runner],
        heartbeats: HeartbeatThread,
        *,
        lease: float,
        claim_pending_since: Callable[[], float | None],
        hand_back_orphans: Callable[[Sequence[Lease]], None],
        announce: Callable[[asyncpg.Connection], Awaitable[None]],
    ) -> None:
        """Take the seconds that a lease holds, since when the reply of a claim is awaited (on the monotonic clock),
        who hands back leases that nobody here knows, and what to do each time the worker has been registered.
        """
        self._database = database
        self._runners = runners
        self._heartbeats = heartbeats
        self._lease = lease
        self._claim_pending_since = claim_pending_since
        self._hand_back_orphans = hand_back_orphans
        self._announce = announce
        self._details: WorkerDetails | None = None
        self.worker_id: UUID | None = None
        self._stirred = asyncio.Event()
        self._unknown_since: dict[Lease, float] = {}
        self._has_lapsed = False

    @property
    def holds(self) -> bool:
        """Whether the leases of this worker certainly hold for a while."""
        if self._has_lapsed:
            # What is claimed before handlers run again would be handed back, and claimed again, at once.
            return False
        return self.worker_id is not None and time.monotonic() < self._deadline()

    @property
    def _running(self) -> int:
        return sum(runner.running for runner in self._runners)

    @property
    def may_rescue(self) -> bool:
        """Whether others have had time for a heartbeat since the database was last out of reach."""
        return self.holds and time.monotonic() - self._heartbeats.healthy_since >= self._lease

    def describe(self, details: WorkerDetails) -> None:
        """Say what the worker is registered with; until then it is not registered."""
        self._details = details
        self._stirred.set()

    async def run(self) -> None:
        """Keep the leases until it is cancelled."""
        while True:
            self._stirred.clear()
            if self.worker_id is None and self._details is not None:
                await self._register(self._details)
            await self._wait(self._check_deadline())

    def on_beat(self, beat: Beat) -> None:
        """Act on the answer to a heartbeat."""
        if beat.worker_id != self.worker_id:
            return
        if not beat.answer.known:
            _log.error("worker counted as lost: its handlers are stopped", running=self._running)
            self.worker_id = None
            self._heartbeats.end()
            self._unknown_since.clear()
            for runner in self._runners:
                runner.lose_all()
            self._stirred.set()
            return
        self._compare(beat)

    async def unregister(self) -> None:
        """Remove the worker, which holds nothing any more. Raises what the database raises."""
        self._details = None
        self._heartbeats.end()
        worker_id, self.worker_id = self.worker_id, None
        if worker_id is not None:
            async with self._database.connection() as connection:
                await millrace_queue.unregister_worker(connection, worker_id)

    async def _register(self, details: WorkerDetails) -> None:
        outage = Outage("register the worker")
        while True:
            worker_id = new_id()
            registered_at = time.monotonic()
            try:
                async with self._database.connection() as connection:
                    await millrace_queue.register_worker(
                        connection, worker_id, lease=timedelta(seconds=self._lease), details=details.as_json()
                    )
                    await self._announce(connection)
            except DATABASE_ERRORS as error:
                await outage.wait(error)
                continue
            outage.is_over()
            self._heartbeats.begin(worker_id, registered_at)
            self.worker_id = worker_id
            for runner in self._runners:
                runner.leases_hold(worker_id)
            _log.info("worker registered", worker_id=f"worker_{worker_id.hex}")
            return

    def _deadline(self) -> float:
        return self._heartbeats.renewed_at + self._lease * (1 - _MARGIN_SHARE)

    def _check_deadline(self) -> float | None:
        """Stop the handlers when the leases may run out; return after how many seconds to look again."""
        if self.worker_id is None:
            return None
        remaining = self._deadline() - time.monotonic()
        if remaining > 0:
            if self._has_lapsed:
                self._has_lapsed = False
                for runner in self._runners:
                    runner.leases_hold(self.worker_id)
                _log.info("leases are renewed again")
            return remaining
        if not self._has_lapsed:
            self._has_lapsed = True
            stood_still = self._heartbeats.stood_still
            _log.warning(
                "leases may run out: handlers are stopped",
                running=self._running,
                stood_still=stood_still,
            )
            for runner in self._runners:
                runner.give_up(StopReason.STOOD_STILL if stood_still else StopReason.GIVEN_UP)
        return _LAPSED_POLL_SECONDS

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()

    def _compare(self, beat: Beat) -> None:
        held = {lease.fence: lease for lease in beat.answer.held}
        for runner in self._runners:
            for execution in list(runner.held.values()):
                lease = held.pop(execution.lease.fence, None)
                if execution.is_decided:
                    continue
                if lease is None:
                    # A claim that came after the heartbeat was sent may be missing in its answer.
                    if execution.claimed_at < beat.sent_at:
                        runner.lose(execution)
                elif lease.cancel_requested:
                    runner.stop(execution, StopReason.CANCELLED)
        self._note_unknown([lease.lease for lease in held.values()])

    def _note_unknown(self, leases: list[Lease]) -> None:
        """Have handed back what was unknown before, and belongs to no claim whose reply is still awaited."""
        now = time.monotonic()
        pending_since = self._claim_pending_since()
        since = {lease: self._unknown_since.get(lease, now) for lease in leases}
        orphans = [
            lease
            for lease, first in since.items()
            if first < now and (pending_since is None or pending_since > first)
        ]
        self._unknown_since = since
        if orphans:
            self._hand_back_orphans(orphans)

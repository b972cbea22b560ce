import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from millrace_database.job_changes import ClaimedJob
from millrace_worker.context import ProgressUpdate, Resources
from millrace_worker.execution import Execution, Surroundings
from millrace_worker.lanes import Lane, Lanes
from millrace_worker.outcome import Outcome, StopReason
from millrace_worker.threads import ThreadPool

PATIENCE_SECONDS = 1.0
"""A job that was claimed ahead and has not started after so long is handed back, for others to run."""

_log = structlog.get_logger(__name__)


class Runner:
    """Runs claimed jobs, each in a task of its own, and hands what becomes of them on."""

    def __init__(
        self,
        lanes: Lanes,
        resources: Resources,
        *,
        slots: int,
        report: Callable[[Execution, ProgressUpdate], None],
        settle: Callable[[Execution, Outcome], None],
        drop: Callable[[Execution], object],
        lost: Callable[[Execution], None],
        slot_freed: Callable[[], None],
        execute: Callable[[ClaimedJob, Lane, UUID, Surroundings], Execution] = Execution,
    ) -> None:
        """Take the worker's parts: `settle` writes an outcome, `drop` ends an execution that has none, `lost` is told
        of those whose leases were lost. `execute` makes an execution of what was claimed.
        """
        self._lanes = lanes
        self._threads = ThreadPool(slots)
        self._surroundings = Surroundings(
            resources=resources, threads=self._threads, report=report, abandon=self._abandon
        )
        self._settle = settle
        self._drop = drop
        self._lost = lost
        self._slot_freed = slot_freed
        self._execute = execute
        self._tasks: asyncio.TaskGroup | None = None
        self._context = contextvars.copy_context()
        self._worker_id: UUID | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.held: dict[int, Execution] = {}
        """What has been claimed and not settled, by fence."""

    @property
    def running(self) -> int:
        """How many handlers run."""
        return self._lanes.running

    async def run(self) -> None:
        """Own the tasks of the executions until it is cancelled, which cancels them."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._fill()
                await asyncio.Event().wait()
        finally:
            self._threads.close()

    def leases_hold(self, worker_id: UUID) -> None:
        """Run what is claimed by this worker from now on."""
        self._worker_id = worker_id

    def accept(self, jobs: Sequence[ClaimedJob], worker_id: UUID) -> None:
        """Run the jobs that a worker has claimed, or hand them back when it runs nothing more."""
        for job in jobs:
            lane = self._lanes.lane(job.claim.type)
            execution = self._execute(job, lane, worker_id, self._surroundings)
            self.held[execution.lease.fence] = execution
            self._lanes.put(execution)
            if worker_id != self._worker_id:
                self.stop(execution, StopReason.GIVEN_UP)
        self._fill()

    def stop(self, execution: Execution, reason: StopReason) -> None:
        """Stop a handler, or take back a job that has not started."""
        execution.stop(reason)
        if not execution.is_started and not execution.is_decided:
            self._lanes.remove(execution)
            self._decide(execution, execution.stopped_outcome())

    def lose(self, execution: Execution) -> None:
        """Stop a handler whose job is not ours any more, and drop its result."""
        _log.warning("lease lost: the handler is stopped", **execution.log_fields)
        self.stop(execution, StopReason.LEASE_LOST)
        self._decide(execution, None)
        self._lost(execution)

    def lose_all(self) -> None:
        """Stop all handlers and drop their results; nothing more is run until `leases_hold`."""
        self._worker_id = None
        for execution in list(self.held.values()):
            if not execution.is_decided:
                self.lose(execution)

    def give_up(self, reason: StopReason = StopReason.GIVEN_UP) -> None:
        """Stop all handlers and let go of their jobs; nothing more is run until `leases_hold`."""
        self._worker_id = None
        for execution in list(self.held.values()):
            if not execution.is_decided:
                self.stop(execution, reason)

    def give_back_waiting(self, *, longer_than: float = 0.0) -> None:
        """Hand back what has been claimed ahead and not been started within so many seconds."""
        for execution in self._lanes.claimed_until(time.monotonic() - longer_than):
            self.stop(execution, StopReason.GIVEN_UP)

    def abandon_all(self) -> None:
        """Take no more notice of handlers that do not stop."""
        for execution in list(self.held.values()):
            if not execution.is_decided:
                _log.error("a handler does not stop; its job is handed back", **execution.log_fields)
                self._abandon(execution)

    def forget(self, execution: Execution) -> None:
        """Forget an execution whose end has been written."""
        self.held.pop(execution.lease.fence, None)

    async def idle(self) -> None:
        """Wait until no handler runs."""
        await self._idle.wait()

    def _fill(self) -> None:
        if self._tasks is None:
            return
        while (execution := self._lanes.start_next()) is not None:
            execution.is_started = True
            self._idle.clear()
            # Not the context of the handler that just ended and made room for this one.
            self._tasks.create_task(self._run(execution), context=self._context.copy())

    async def _run(self, execution: Execution) -> None:
        try:
            self._decide(execution, await execution.run())
        finally:
            self._lanes.end(execution)
        self._fill()
        if self.running == 0:
            self._idle.set()
        self._slot_freed()

    def _decide(self, execution: Execution, outcome: Outcome | None) -> None:
        if execution.is_decided:
            return
        if outcome is None:
            self._drop(execution)
            self.forget(execution)
        else:
            self._settle(execution, outcome)

    def _abandon(self, execution: Execution) -> None:
        self._decide(execution, execution.stopped_outcome())

import asyncio
from collections.abc import Callable

import asyncpg
import structlog

import millrace_queue
from millrace_database import Database
from millrace_database.system_schedules_repository import record_end
from millrace_queue import Failure, HandBack, Settled
from millrace_worker.execution import Execution
from millrace_worker.outcome import Cancelled, Completed, Failed, HandedBack, Lapsed, Outcome
from millrace_worker.transient import DATABASE_ERRORS, Outage

_CANCELLED = "It was cancelled."
_LOST = "The workers that ran it stood still for longer than their leases."

_LOCKED_PAUSE_SECONDS = 0.2

_log = structlog.get_logger(__name__)


class _LockedError(Exception):
    """Somebody has the entry locked just now."""


class SystemSettlementWriter:
    """Writes what became of system runs, one after the other, until the database accepts or refuses it."""

    def __init__(
        self,
        database: Database,
        *,
        settled: Callable[[Execution], None],
        returned: Callable[[str], None],
    ) -> None:
        """Take whom to tell that an execution is over, and that an entry of this type can be claimed again."""
        self._database = database
        self._settled = settled
        self._returned = returned
        self._waiting: asyncio.Queue[tuple[Execution, Outcome]] = asyncio.Queue()
        self._outage = Outage("settle system runs")

    def add(self, execution: Execution, outcome: Outcome) -> None:
        """Have the end of an execution written."""
        self._waiting.put_nowait((execution, outcome))

    async def flushed(self) -> None:
        """Wait until everything is written."""
        await self._waiting.join()

    async def run(self) -> None:
        """Write until it is cancelled."""
        while True:
            execution, outcome = await self._waiting.get()
            try:
                settled = await self._write(execution, outcome)
            except _LockedError:
                # Its own function may hold it in a transaction. The others do not wait for that.
                self.add(execution, outcome)
                self._waiting.task_done()
                await asyncio.sleep(_LOCKED_PAUSE_SECONDS)
                continue
            self._settled(execution)
            if settled is Settled.LOST:
                _log.warning("the lease was lost before the run's end was written", **execution.log_fields)
            elif settled is Settled.RETRYING:
                self._returned(execution.job.claim.type)
            self._waiting.task_done()

    async def _write(self, execution: Execution, outcome: Outcome) -> Settled | None:
        while True:
            try:
                async with self._database.transaction() as connection:
                    free = await millrace_queue.confirm_alone_free(connection, [execution.lease])
                    if free.get(execution.lease.id) is False:
                        raise _LockedError
                    settled = await _settle(connection, execution, outcome)
            except DATABASE_ERRORS as error:
                await self._outage.wait(error)
            else:
                self._outage.is_over()
                return settled


async def _settle(conn: asyncpg.Connection, execution: Execution, outcome: Outcome) -> Settled | None:
    """End the attempt, and the run unless it is to be run again; None: it is completed."""
    match outcome:
        case Completed():
            return await _complete(conn, execution)
        case HandedBack():
            settled, error = await _hand_back(conn, execution), _CANCELLED
        case Lapsed():
            outcomes = await millrace_queue.lapse(conn, [execution.lease])
            settled, error = outcomes[execution.lease.id].settled, _LOST
        case Cancelled():
            accepted = await millrace_queue.settle_cancelled(conn, [execution.lease])
            settled, error = Settled.CANCELLED if accepted else Settled.LOST, _CANCELLED
        case _:
            failure = Failure(execution.lease.id, execution.lease.fence, retry_delay=None)
            settled = (await millrace_queue.fail(conn, [failure]))[execution.lease.id].settled
            error = outcome.message if isinstance(outcome, Failed) else _CANCELLED
    if settled not in (Settled.LOST, Settled.RETRYING):
        await record_end(conn, execution.lease.id, error)
    return settled


async def _complete(conn: asyncpg.Connection, execution: Execution) -> Settled | None:
    if not await millrace_queue.complete(conn, [execution.lease]):
        return Settled.LOST
    await record_end(conn, execution.lease.id, None)
    return None


async def _hand_back(conn: asyncpg.Connection, execution: Execution) -> Settled:
    unstarted = () if execution.is_started else (execution.lease.id,)
    outcomes = await millrace_queue.hand_back(conn, [execution.lease], unstarted=unstarted)
    match outcomes[execution.lease.id]:
        case HandBack.READY:
            return Settled.RETRYING
        case HandBack.CANCELLED:
            return Settled.CANCELLED
        case _:
            return Settled.LOST

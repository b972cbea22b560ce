import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
import structlog

from millrace_database import Database, job_lifecycle
from millrace_database.job_changes import JobFailure, ProgressReport
from millrace_queue import HandBack, Settled
from millrace_worker.execution import INVALID_OUTPUT, Execution
from millrace_worker.outcome import Cancelled, Completed, Failed, HandedBack, Outcome
from millrace_worker.progress import ProgressWriter, progress_report
from millrace_worker.transient import DATABASE_ERRORS, Outage

MAX_BATCH = 1_000

_UNSTORABLE = Failed(INVALID_OUTPUT, "The database cannot store how the handler ended.", retry_delay=None)

# What the data itself is to blame for: written again it would fail again.
_FAULTS_OF_DATA = (
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.IntegrityConstraintViolationError,
    UnicodeError,
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Settlement:
    execution: Execution
    outcome: Outcome
    last_progress: ProgressReport | None


_Writer = Callable[[asyncpg.Connection, Sequence[_Settlement]], Awaitable[set[UUID]]]
_Kind = TypeVar("_Kind", bound=Outcome)


@dataclass(frozen=True, slots=True)
class SettlementListener:
    """Who is told what of the ends that have been written."""

    settled: Callable[[Execution], None]
    """The execution is over; its lease is gone."""
    returned: Callable[[str, timedelta], None]
    """A job of this type is back in the queue, to run after so long."""
    changed: Callable[[], None]
    """Jobs have changed."""


class SettlementWriter:
    """Writes what became of executions: whatever there is, as soon as the write before is done.

    While the database is away it keeps everything and tries again, until it is accepted or refused because the
    lease was lost.
    """

    def __init__(self, database: Database, progress: ProgressWriter, listener: SettlementListener) -> None:
        self._database = database
        self._progress = progress
        self._listener = listener
        self._waiting: deque[_Settlement] = deque()
        self._in_flight = 0
        self._wanted = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._outage = Outage("settle jobs")

    @property
    def backlog(self) -> int:
        """How many ends have not been written yet."""
        return len(self._waiting) + self._in_flight

    def add(self, execution: Execution, outcome: Outcome) -> None:
        """Have the end of an execution written; what it reports from now on is dropped."""
        update = self._progress.close(execution)
        report = None if update is None else progress_report(execution, update)
        self._waiting.append(_Settlement(execution, outcome, report))
        self._wanted.set()
        self._empty.clear()

    async def flushed(self) -> None:
        """Wait until everything is written."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write until it is cancelled."""
        while True:
            await self._wanted.wait()
            batch = self._take()
            self._in_flight = len(batch)
            await self._write_batch(batch)
            self._in_flight = 0
            if not self._waiting:
                self._wanted.clear()
                self._empty.set()

    def _take(self) -> list[_Settlement]:
        batch: dict[UUID, _Settlement] = {}
        while self._waiting and len(batch) < MAX_BATCH:
            id_ = self._waiting[0].execution.lease.id
            if id_ in batch:
                # A job that was lost and claimed again: each of its ends needs a statement of its own.
                break
            batch[id_] = self._waiting.popleft()
        return list(batch.values())

    async def _write_batch(self, batch: Sequence[_Settlement]) -> None:
        if any(settlement.last_progress for settlement in batch):
            # An earlier value that is just being written must not come after the last one.
            await self._progress.settled()
            await self._write(
                _write_progress, [settlement for settlement in batch if settlement.last_progress]
            )
        for kind, writer in (
            (Completed, _complete),
            (Failed, _fail),
            (Cancelled, _cancel),
            (HandedBack, _hand_back),
        ):
            settlements = [settlement for settlement in batch if isinstance(settlement.outcome, kind)]
            if settlements:
                self._settled(settlements, await self._write(writer, settlements))
        self._listener.changed()

    async def _write(self, writer: _Writer, settlements: Sequence[_Settlement]) -> set[UUID]:
        """Write until the database has answered; what it cannot store is written as a failure of its own."""
        while True:
            try:
                async with self._database.transaction() as connection:
                    accepted = await writer(connection, settlements)
            except _FAULTS_OF_DATA as error:
                return await self._write_apart(writer, settlements, error)
            except DATABASE_ERRORS as error:
                await self._outage.wait(error)
            else:
                self._outage.is_over()
                return accepted

    async def _write_apart(
        self, writer: _Writer, settlements: Sequence[_Settlement], error: Exception
    ) -> set[UUID]:
        if len(settlements) > 1:
            middle = len(settlements) // 2
            return await self._write(writer, settlements[:middle]) | await self._write(
                writer, settlements[middle:]
            )
        settlement = settlements[0]
        _log.error("the end of a job cannot be stored", exc_info=error, **settlement.execution.log_fields)
        if writer in (_complete, _fail) and settlement.outcome is not _UNSTORABLE:
            # Left as it is, the job would be handed back as one that nobody knows, and run again without end.
            return await self._write(_fail, [replace(settlement, outcome=_UNSTORABLE)])
        return set()

    def _settled(self, settlements: Sequence[_Settlement], accepted: set[UUID]) -> None:
        for settlement in settlements:
            execution = settlement.execution
            self._listener.settled(execution)
            if execution.lease.id not in accepted:
                _log.warning("the lease was lost before the job's end was written", **execution.log_fields)
                continue
            match settlement.outcome:
                case HandedBack():
                    self._listener.returned(execution.job.claim.type, timedelta())
                case Failed(retry_delay=timedelta() as delay):
                    self._listener.returned(execution.job.claim.type, delay)


async def _complete(connection: asyncpg.Connection, settlements: Sequence[_Settlement]) -> set[UUID]:
    return await job_lifecycle.complete_jobs(
        connection,
        [
            (settlement.execution.lease, outcome.output_json)
            for settlement, outcome in _of_kind(settlements, Completed)
        ],
    )


async def _fail(connection: asyncpg.Connection, settlements: Sequence[_Settlement]) -> set[UUID]:
    outcomes = await job_lifecycle.fail_jobs(
        connection,
        [
            JobFailure(
                settlement.execution.lease,
                retry_delay=outcome.retry_delay,
                code=outcome.code,
                message=outcome.message,
                retryable=outcome.retryable,
            )
            for settlement, outcome in _of_kind(settlements, Failed)
        ],
    )
    return {id_ for id_, settled in outcomes.items() if settled is not Settled.LOST}


async def _hand_back(connection: asyncpg.Connection, settlements: Sequence[_Settlement]) -> set[UUID]:
    outcomes = await job_lifecycle.hand_back_jobs(
        connection, [settlement.execution.lease for settlement in settlements]
    )
    return {id_ for id_, outcome in outcomes.items() if outcome is not HandBack.LOST}


async def _cancel(connection: asyncpg.Connection, settlements: Sequence[_Settlement]) -> set[UUID]:
    return await job_lifecycle.cancelled_jobs(
        connection, [settlement.execution.lease for settlement in settlements]
    )


async def _write_progress(connection: asyncpg.Connection, settlements: Sequence[_Settlement]) -> set[UUID]:
    return await job_lifecycle.report_progress(
        connection, [settlement.last_progress for settlement in settlements if settlement.last_progress]
    )


def _of_kind(settlements: Sequence[_Settlement], kind: type[_Kind]) -> list[tuple[_Settlement, _Kind]]:
    return [
        (settlement, settlement.outcome) for settlement in settlements if isinstance(settlement.outcome, kind)
    ]

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import structlog

import millrace_queue
from millrace_database import Database
from millrace_database.job_flow import JobCounts
from millrace_queue import Freed
from millrace_worker.end_writing import (
    END_WRITERS,
    EndWriter,
    Settlement,
    Written,
    write_completed,
    write_failed,
    write_plain_completed,
    write_plain_completed_again,
    write_progress,
    write_snoozed,
)
from millrace_worker.execution import INVALID_OUTPUT, Execution
from millrace_worker.outcome import Completed, Failed, Outcome, time_to_next
from millrace_worker.progress import ProgressWriter, progress_report
from millrace_worker.transient import DATABASE_ERRORS, Outage

MAX_BATCH = 1_000

_HELD_UP_SECONDS = 1.0

_UNSTORABLE = Failed(INVALID_OUTPUT, "The database cannot store how the handler ended.", retry_delay=None)

# What the data itself is to blame for: written again it would fail again.
_FAULTS_OF_DATA = (
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.IntegrityConstraintViolationError,
    UnicodeError,
)

# They write what no limit applies to, in a statement that commits by itself.
_PLAIN_WRITERS = (write_plain_completed, write_plain_completed_again)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SettlementListener:
    """Who is told what of the ends that have been written."""

    settled: Callable[[Execution], None]
    """The execution is over; its lease is gone."""
    returned: Callable[[str, timedelta], None]
    """A job of this type is back in the queue, to run after so long."""
    finished: Callable[[str, str], None]
    """A job of this type and organisation has ended, and will not run again."""
    created: Callable[[JobCounts], None]
    """So many jobs were created because others ended."""
    freed: Callable[[Freed], None]
    """Limits let so many jobs start instead."""
    lost: Callable[[Execution], None]
    """The lease had been lost before the end was written."""
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
        self._waiting: deque[Settlement] = deque()
        self._in_flight = 0
        # Ends of jobs whose entries somebody else has locked for long.
        self._held_up: list[Settlement] = []
        self._wanted = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._outage = Outage("settle jobs")

    @property
    def backlog(self) -> int:
        """How many ends have not been written yet."""
        return len(self._waiting) + len(self._held_up) + self._in_flight

    def add(self, execution: Execution, outcome: Outcome) -> None:
        """Have the end of an execution written; what it reports from now on is dropped."""
        update = self._progress.close(execution)
        report = None if update is None else progress_report(execution, update)
        self._waiting.append(Settlement(execution, outcome, report))
        self._wanted.set()
        self._empty.clear()

    async def flushed(self) -> None:
        """Wait until everything is written."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write until it is cancelled."""
        while True:
            await self._until_wanted()
            batch = self._take()
            self._in_flight = len(batch)
            await self._write_batch(batch)
            self._in_flight = 0
            if not self._waiting:
                self._wanted.clear()
                if not self._held_up:
                    self._empty.set()

    async def _until_wanted(self) -> None:
        while self._held_up and not self._wanted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HELD_UP_SECONDS):
                    await self._wanted.wait()
                    return
            await self._look_for_held_up()
        await self._wanted.wait()

    async def _look_for_held_up(self) -> None:
        """Have the ends written whose entries are free by now."""
        settlements, self._held_up = self._held_up, []
        try:
            async with self._database.transaction() as connection:
                free = await self._free(connection, settlements)
        except DATABASE_ERRORS as error:
            self._held_up = settlements
            await self._outage.wait(error)
            return
        self._waiting.extend(free)
        if free:
            self._wanted.set()

    async def _free(
        self, connection: asyncpg.Connection, settlements: Sequence[Settlement]
    ) -> list[Settlement]:
        """Return the ends whose entries nobody else has locked, and put the others aside."""
        locked = await millrace_queue.confirm_alone_free(
            connection, [settlement.execution.lease for settlement in settlements]
        )
        self._held_up = [
            *self._held_up,
            *(one for one in settlements if not locked.get(one.execution.lease.id, True)),
        ]
        return self._not_held_up(settlements)

    def _take(self) -> list[Settlement]:
        batch: dict[UUID, Settlement] = {}
        while self._waiting and len(batch) < MAX_BATCH:
            id_ = self._waiting[0].execution.lease.id
            if id_ in batch:
                # A job that was lost and claimed again: each of its ends needs a statement of its own.
                break
            batch[id_] = self._waiting.popleft()
        return list(batch.values())

    async def _write_batch(self, batch: Sequence[Settlement]) -> None:
        if any(settlement.last_progress for settlement in batch):
            # An earlier value that is just being written must not come after the last one.
            await self._progress.settled()
            await self._write(
                write_progress, [settlement for settlement in batch if settlement.last_progress]
            )
            batch = self._not_held_up(batch)
        batch = await self._complete_plain(batch)
        for kind, writer in END_WRITERS.items():
            settlements = [settlement for settlement in batch if isinstance(settlement.outcome, kind)]
            if settlements:
                written = await self._write(writer, settlements)
                self._settled(self._not_held_up(settlements), written)
        self._listener.changed()

    async def _complete_plain(self, batch: Sequence[Settlement]) -> list[Settlement]:
        """Write what most ends are; return the others."""
        completed = [
            settlement
            for settlement in batch
            if isinstance(settlement.outcome, Completed) and not settlement.execution.delivers
        ]
        if not completed:
            return list(batch)
        written = await self._write(write_plain_completed, completed)
        done = {id(one) for one in completed if one.execution.lease.id in written.accepted}
        self._settled([settlement for settlement in completed if id(settlement) in done], written)
        return self._not_held_up([settlement for settlement in batch if id(settlement) not in done])

    def _not_held_up(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        held_up = {id(settlement) for settlement in self._held_up}
        return [settlement for settlement in settlements if id(settlement) not in held_up]

    async def _write(self, writer: EndWriter, settlements: Sequence[Settlement]) -> Written:
        """Write until the database has answered; what it cannot store is written as a failure of its own.

        A transaction that holds one of the entries for long does not hold up the others: after a statement that did
        not end in time only those are written that nobody has locked.
        """
        is_late = False
        while True:
            held_up = list(self._held_up)
            commits_alone = writer in _PLAIN_WRITERS and not is_late
            connected = self._database.connection if commits_alone else self._database.transaction
            try:
                async with connected() as connection:
                    if is_late:
                        settlements = await self._free(connection, settlements)
                    written = await writer(connection, settlements)
            except _FAULTS_OF_DATA as error:
                self._held_up = held_up
                return await self._write_apart(writer, settlements, error)
            except DATABASE_ERRORS as error:
                self._held_up = held_up
                is_late = isinstance(error, TimeoutError | asyncpg.QueryCanceledError)
                await self._outage.wait(error)
                if writer is write_plain_completed:
                    writer = write_plain_completed_again
            else:
                self._outage.is_over()
                return written

    async def _write_apart(
        self, writer: EndWriter, settlements: Sequence[Settlement], error: Exception
    ) -> Written:
        if len(settlements) > 1:
            middle = len(settlements) // 2
            return await self._write(writer, settlements[:middle]) | await self._write(
                writer, settlements[middle:]
            )
        if writer in _PLAIN_WRITERS:
            # Left to `write_completed`.
            return Written()
        settlement = settlements[0]
        _log.error("the end of a job cannot be stored", exc_info=error, **settlement.execution.log_fields)
        if writer in (write_completed, write_failed, write_snoozed) and settlement.outcome is not _UNSTORABLE:
            # Left as it is, the job would be handed back as one that nobody knows, and run again without end.
            return await self._write(write_failed, [replace(settlement, outcome=_UNSTORABLE)])
        return Written()

    def _settled(self, settlements: Sequence[Settlement], written: Written) -> None:
        for settlement in settlements:
            execution = settlement.execution
            claim = execution.job.claim
            self._listener.settled(execution)
            if claim.id not in written.accepted:
                _log.warning("the lease was lost before the job's end was written", **execution.log_fields)
                self._listener.lost(execution)
            elif claim.id in written.finished:
                self._listener.finished(claim.type, execution.job.org_id)
            else:
                wait = written.waits.get(claim.id)
                self._listener.returned(
                    claim.type, time_to_next(settlement.outcome) if wait is None else wait
                )
            _log_outage(settlement, written)
        if written.created:
            self._listener.created(written.created)
        if written.freed:
            self._listener.freed(written.freed)


def _log_outage(settlement: Settlement, written: Written) -> None:
    """Tell operators in one line that a job waits for what it needs: there is nothing to mend in its handler."""
    outcome = settlement.outcome
    id_ = settlement.execution.lease.id
    if not isinstance(outcome, Failed) or outcome.away is None or id_ not in written.accepted:
        return
    wait = written.waits.get(id_)
    _log.warning(
        "handler met an object store that is away",
        error=outcome.away,
        next_attempt_in_seconds=None if wait is None else round(wait.total_seconds(), 1),
        **settlement.execution.log_fields,
    )

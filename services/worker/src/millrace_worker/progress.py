import asyncio
import threading
from collections.abc import Callable, Mapping
from itertools import islice

from millrace_database import Database, job_lifecycle
from millrace_database.job_changes import ProgressReport
from millrace_worker.context import ProgressUpdate
from millrace_worker.execution import Execution
from millrace_worker.transient import DATABASE_ERRORS, Outage

WRITE_INTERVAL_SECONDS = 0.25
MAX_BATCH = 1_000


class ProgressWriter:
    """Writes what handlers say of their progress: of each job only the latest, of all jobs together.

    `report` may be called from any thread. What has not been written when a job ends is handed out by `close`, to
    be written before the job's end is.
    """

    def __init__(
        self, database: Database, *, lost: Callable[[Execution], None], written: Callable[[], None]
    ) -> None:
        """Take what to call for each job that turned out to be lost, and after each write."""
        self._database = database
        self._lost = lost
        self._written = written
        self._lock = threading.Lock()
        self._pending: dict[Execution, ProgressUpdate] = {}
        self._in_flight: dict[Execution, ProgressUpdate] = {}
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    def report(self, execution: Execution, update: ProgressUpdate) -> None:
        """Have an update written soon. Nothing happens once the job's end is decided."""
        with self._lock:
            if execution.is_decided:
                return
            is_first = not self._pending
            self._pending[execution] = update.merged_into(self._pending.get(execution))
        if is_first:
            self._loop.call_soon_threadsafe(self._wanted.set)

    def close(self, execution: Execution) -> ProgressUpdate | None:
        """Accept no more of a job whose end is decided, and return what may not have been written yet."""
        with self._lock:
            execution.is_decided = True
            pending = self._pending.pop(execution, None)
        in_flight = self._in_flight.get(execution)
        return in_flight if pending is None else pending.merged_into(in_flight)

    async def settled(self) -> None:
        """Wait until no write is under way."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until it is cancelled."""
        outage = Outage("write progress")
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._take()
            if not self._in_flight:
                continue
            try:
                locked = await self._write()
            except DATABASE_ERRORS as error:
                self._put_back(self._in_flight)
                await outage.wait(error)
            else:
                self._put_back(locked)
                outage.is_over()
                self._written()
                await asyncio.sleep(WRITE_INTERVAL_SECONDS)

    def _take(self) -> None:
        with self._lock:
            # By id: of a job that was lost and claimed again, two executions may still report.
            batch = {execution.lease.id: execution for execution in islice(self._pending, MAX_BATCH)}
            self._in_flight = {execution: self._pending.pop(execution) for execution in batch.values()}
            if self._pending:
                self._wanted.set()
        if self._in_flight:
            self._idle.clear()

    def _put_back(self, updates: Mapping[Execution, ProgressUpdate]) -> None:
        with self._lock:
            for execution, update in updates.items():
                if not execution.is_decided:
                    later = self._pending.get(execution)
                    self._pending[execution] = update if later is None else later.merged_into(update)
            if self._pending:
                self._wanted.set()
        self._in_flight = {}
        self._idle.set()

    async def _write(self) -> dict[Execution, ProgressUpdate]:
        """Write what is in flight, but for the updates returned: somebody has their jobs locked just now."""
        reports = [progress_report(execution, update) for execution, update in self._in_flight.items()]
        async with self._database.transaction() as connection:
            held = await job_lifecycle.report_progress_where_free(connection, reports)
        for execution in self._in_flight:
            if execution.lease.id not in held and not execution.is_decided:
                self._lost(execution)
        return {
            execution: update
            for execution, update in self._in_flight.items()
            if held.get(execution.lease.id) is False
        }


def progress_report(execution: Execution, update: ProgressUpdate) -> ProgressReport:
    """Return an update in the form in which it is written."""
    return ProgressReport(
        execution.lease,
        progress=update.percent,
        message=update.message,
        total_items=update.total_items,
        processed_items=update.processed_items,
    )

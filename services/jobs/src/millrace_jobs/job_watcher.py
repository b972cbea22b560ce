"""Following jobs on behalf of everybody who watches one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from millrace.jobs.v1 import job_pb2
from millrace_database import jobs_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.jobs_repository import JobRecord
from millrace_database.tables import FINAL_STATUSES
from millrace_jobs.job_messages import job_message
from millrace_jobs.shutdown import shutting_down
from millrace_runtime.errors import Unavailable

_POLL_SECONDS = 0.25
# Hints from many workers come close together: one look serves them all.
_SHORTEST_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 5.0


class _Followed:
    """A job that somebody watches: its latest known record, the same for all who watch it."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.watchers = 0
        self.changed = asyncio.Event()
        self.error: Exception | None = None
        self._message: job_pb2.Job | None = None

    def message(self) -> job_pb2.Job:
        if self._message is None:
            self._message = job_message(self.record)
        return self._message

    def update(self, record: JobRecord) -> None:
        if record.version > self.record.version:
            self.record = record
            self._message = None
            self._tell()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class JobWatcher:
    """Follows all watched jobs with one query each 250 ms or less, and with none while nobody watches.

    What is sent is the state of the row, never an event, so that nothing is missed: hints only make it faster. A
    watch outlives an outage of the database of 5 seconds; a longer one ends it with UNAVAILABLE.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followed: dict[UUID, _Followed] = {}
        self._watched = asyncio.Event()
        self._hint = asyncio.Event()
        self._failing_since: float | None = None
        self._closed = False

    @property
    def watched_jobs(self) -> int:
        """How many jobs are followed now."""
        return len(self._followed)

    def hint(self, _payload: str = "") -> None:
        """Have the watched jobs looked at now: some job changed."""
        self._hint.set()

    def close(self) -> None:
        """End all watches with UNAVAILABLE, and those that are yet to come."""
        self._closed = True
        self._end_all(shutting_down())

    async def watch(self, record: JobRecord) -> AsyncGenerator[job_pb2.Job, None]:
        """Yield the job as `record` has it, then after each change, until it is finished.

        Raises Unavailable when the service shuts down or the database is away for long.
        """
        with self._following(record) as followed:
            version = -1
            while True:
                if followed.record.version > version:
                    version = followed.record.version
                    final = followed.record.status in FINAL_STATUSES
                    yield followed.message()
                    if final:
                        return
                    continue
                if followed.error is not None:
                    raise followed.error
                await followed.changed.wait()

    async def run(self) -> None:
        """Look at the watched jobs again and again, until cancelled."""
        while True:
            await self._watched.wait()
            await self._pause()
            await self._look()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._hint.wait()
                await asyncio.sleep(_SHORTEST_PAUSE_SECONDS)
        self._hint.clear()

    async def _look(self) -> None:
        versions = {job_id: followed.record.version for job_id, followed in self._followed.items()}
        if not versions:
            return
        try:
            async with self._database.connection() as connection:
                records = await jobs_repository.get_jobs_changed(connection, versions)
        except Exception as error:  # noqa: BLE001 - it is raised in every watch; the next ones are served
            self._failed(error)
            return
        self._failing_since = None
        for record in records:
            if followed := self._followed.get(record.job_id):
                followed.update(record)

    def _failed(self, error: Exception) -> None:
        if not is_unavailable(error):
            self._end_all(error)
            return
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= _PATIENCE_SECONDS:
            self._end_all(Unavailable())

    def _end_all(self, error: Exception) -> None:
        for followed in self._followed.values():
            followed.fail(error)
        self._followed.clear()
        self._watched.clear()
        self._failing_since = None

    @contextmanager
    def _following(self, record: JobRecord) -> Iterator[_Followed]:
        if self._closed:
            raise shutting_down()
        followed = self._followed.setdefault(record.job_id, _Followed(record))
        followed.update(record)
        followed.watchers += 1
        self._watched.set()
        try:
            yield followed
        finally:
            followed.watchers -= 1
            if not followed.watchers and self._followed.get(record.job_id) is followed:
                del self._followed[record.job_id]
                if not self._followed:
                    self._watched.clear()

"""Writing new jobs, those of many callers in one transaction."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from millrace_database import job_lifecycle, jobs_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.job_lifecycle import CreatedJob, NewJob
from millrace_database.jobs_repository import JobRecord
from millrace_jobs.shutdown import shutting_down

# Two transactions at once keep both Postgres and this process busy; what comes meanwhile goes into the next one.
_WRITERS = 2
_MOST_AT_ONCE = 500
_DEADLOCK_TRIES = 3


class WrittenJob(NamedTuple):
    """What became of a new job, and the job that there is now."""

    created: CreatedJob
    record: JobRecord


class _Waiting(NamedTuple):
    job: NewJob
    written: "asyncio.Future[WrittenJob]"


class JobWriter:
    """Writes new jobs. Calls that come while others are being written share one transaction (group commit).

    Nobody waits for a timer: a transaction starts as soon as one of two writers is free.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._wanted = asyncio.Event()
        self._closed = False

    async def write(self, job: NewJob) -> WrittenJob:
        """Create a job, and return once it is committed.

        Raises what the database raises, and Unavailable when `run` has ended.
        """
        if self._closed:
            raise shutting_down()
        written: asyncio.Future[WrittenJob] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(job, written))
        self._wanted.set()
        return await written

    async def write_all(self, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        """Create many jobs in a transaction of their own; one result per job, in the same order."""
        for _ in range(_DEADLOCK_TRIES - 1):
            try:
                return await self._create(jobs)
            except asyncpg.DeadlockDetectedError:
                # Postgres chose this transaction to give way, and rolled it back: the other one goes on.
                continue
        return await self._create(jobs)

    async def run(self) -> None:
        """Write what is waiting, until cancelled."""
        try:
            async with asyncio.TaskGroup() as writers:
                for _ in range(_WRITERS):
                    writers.create_task(self._write_waiting())
        finally:
            self._closed = True
            _refuse(self._waiting, shutting_down())

    async def _write_waiting(self) -> None:
        while True:
            await self._wanted.wait()
            batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            if not self._waiting:
                self._wanted.clear()
            try:
                await self._write_group(batch)
            finally:
                _refuse(batch, shutting_down())

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        try:
            written = await self._create_and_read([waiting.job for waiting in group])
        except Exception as error:  # noqa: BLE001 - it is raised where the job came from
            if len(group) == 1 or is_unavailable(error):
                _refuse(group, error)
                return
        else:
            for waiting, result in zip(group, written, strict=True):
                if not waiting.written.done():
                    waiting.written.set_result(result)
            return
        # One job that the database refuses must not take the others with it.
        for waiting in group:
            await self._write_group([waiting])

    async def _create(self, jobs: Sequence[NewJob]) -> list[CreatedJob]:
        async with self._database.transaction() as connection:
            return await job_lifecycle.create_jobs(connection, jobs)

    async def _create_and_read(self, jobs: Sequence[NewJob]) -> list[WrittenJob]:
        async with self._database.transaction() as connection:
            created = await job_lifecycle.create_jobs(connection, jobs)
            found = await jobs_repository.get_jobs_changed(connection, {job.job_id: 0 for job in created})
        records = {record.job_id: record for record in found}
        return [WrittenJob(job, records[job.job_id]) for job in created]


def _refuse(group: Sequence[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.written.done():
            waiting.written.set_exception(error)

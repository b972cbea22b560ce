"""Writing new jobs, those of many callers together."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import compress, islice
from typing import NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_lifecycle, jobs_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.job_entries import is_plain
from millrace_database.job_lifecycle import CreatedJob, NewJob
from millrace_database.jobs_repository import JobRecord
from millrace_jobs.shutdown import shutting_down

_MOST_AT_ONCE = 500
# A group that takes longer waits for something, such as the transaction that holds the same request id: it must not
# hold up the others. Otherwise one at a time is best: what comes meanwhile makes the next one large, and a
# transaction costs as much as a dozen jobs.
_HELD_UP_SECONDS = 0.02
# Then each job is written on its own.
_PATIENCE_SECONDS = 2.0
_PATIENCE_SECONDS_PER_JOB = 0.001
# So long the next group gathers calls at most, when there were others at the same time just now: their callers, answered
# one after the other, come back within that time. Else groups are a few calls large, however many are in flight.
_GATHERING_SECONDS = 0.0015
_SHARE_WORTH_WAITING_FOR = 0.75
MAX_WRITERS = 3
"""So many transactions at once, and connections, at most."""

_TRIES = 3


_Create: TypeAlias = Callable[[asyncpg.Connection, Sequence[NewJob]], Awaitable[list[CreatedJob]]]


class WrittenJob(NamedTuple):
    """What became of a new job."""

    job: NewJob
    created: CreatedJob
    existing: JobRecord | None
    """The job that existed, if it was to be read."""

    def record(self) -> JobRecord:
        """Return the job that there is now; of one that existed only when it was to be read."""
        return self.existing or _new_record(self.job, self.created)


class _Request(NamedTuple):
    """Jobs that are created together, or not at all."""

    jobs: Sequence[NewJob]
    and_read: bool
    written: "asyncio.Future[list[WrittenJob]]"


class _Turn:
    """The right of one writer to write, which ends when he is ready or held up, whatever comes first."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._ended = False

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._turns.release()


class JobWriter:
    """Writes new jobs. Calls that come while others are being written share one statement or transaction (group commit).

    A call that comes alone is written at once. Of many at the same time most are waited for, 1.5 ms at most.
    """

    def __init__(self, database: Database, jobs_wait: Callable[[set[str]], None]) -> None:
        """Take where to write, and what to call with the types of jobs that wait now, before anyone is answered."""
        self._database = database
        self._jobs_wait = jobs_wait
        self._waiting: list[_Request] = []
        self._wanted = asyncio.Event()
        self._turns = asyncio.Semaphore(1)
        self._closed = False
        self._enough = asyncio.Event()
        self._worth_waiting_for = 1

    async def write(self, jobs: Sequence[NewJob], *, and_read: bool) -> list[WrittenJob]:
        """Create jobs together, and return once that is committed: one result per job, in the same order.

        `and_read`: those that exist already are read. More than 500 jobs share with nobody. Raises
        what the database raises, and Unavailable when `run` has ended.
        """
        if self._closed:
            raise shutting_down()
        request = _Request(jobs, and_read, asyncio.get_running_loop().create_future())
        if len(jobs) > _MOST_AT_ONCE:
            await self._write_group([request])
            return await request.written
        self._waiting.append(request)
        self._wanted.set()
        if len(self._waiting) >= self._worth_waiting_for:
            self._enough.set()
        return await request.written

    async def run(self) -> None:
        """Write what is waiting, until cancelled."""
        try:
            async with asyncio.TaskGroup() as writers:
                for _ in range(MAX_WRITERS):
                    writers.create_task(self._write_waiting())
        finally:
            self._closed = True
            _refuse(self._waiting, shutting_down())

    async def _write_waiting(self) -> None:
        call_later = asyncio.get_running_loop().call_later
        while True:
            await self._turns.acquire()
            await self._wanted.wait()
            await self._gather()
            turn = _Turn(self._turns)
            held_up = call_later(_HELD_UP_SECONDS, turn.end)
            group = self._take_group()
            await self._write_to_the_end(group)
            at_once = len(group) + len(self._waiting)
            self._worth_waiting_for = int(at_once * _SHARE_WORTH_WAITING_FOR)
            held_up.cancel()
            turn.end()

    async def _gather(self) -> None:
        if len(self._waiting) >= self._worth_waiting_for:
            return
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GATHERING_SECONDS):
                await self._enough.wait()

    def _take_group(self) -> list[_Request]:
        size = 0
        for count, request in enumerate(self._waiting):
            size += len(request.jobs)
            if size > _MOST_AT_ONCE:
                group, self._waiting = self._waiting[:count], self._waiting[count:]
                return group
        group, self._waiting = self._waiting, []
        self._wanted.clear()
        return group

    async def _write_to_the_end(self, group: Sequence[_Request]) -> None:
        try:
            await self._write_group(group)
        except asyncio.CancelledError:
            _refuse(group, shutting_down())
            raise

    async def _write_group(self, group: Sequence[_Request]) -> None:
        jobs = [job for request in group for job in request.jobs]
        is_plain_group = all(map(is_plain, jobs))
        if len(group) == 1 and not is_plain_group:
            await self._write_alone(group[0])
            return
        create = job_lifecycle.create_plain_jobs if is_plain_group else job_lifecycle.create_jobs
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS + _PATIENCE_SECONDS_PER_JOB * len(jobs)):
                results = await self._create(group, create)
        except TimeoutError:
            # Whatever has been committed all the same is found when it is written again.
            pass
        except Exception as error:  # noqa: BLE001 - it is raised where the jobs came from
            if is_unavailable(error):
                _refuse(group, error)
                return
        else:
            self._answer(group, results)
            return
        # Jobs that the database refuses, or that have to wait, must not take those of others with them.
        async with asyncio.TaskGroup() as writing:
            for request in group:
                writing.create_task(self._write_alone(request))

    async def _write_alone(self, request: _Request) -> None:
        try:
            written = await self._create_alone(request)
        except Exception as error:  # noqa: BLE001 - it is raised where the jobs came from
            _refuse([request], error)
        else:
            self._answer([request], [written])

    def _answer(self, group: Sequence[_Request], results: Sequence[list[WrittenJob]]) -> None:
        self._jobs_wait({one.job.type for written in results for one in written if one.created.is_new})
        for request, written in zip(group, results, strict=True):
            if not request.written.done():
                request.written.set_result(written)

    async def _create_alone(self, request: _Request) -> list[WrittenJob]:
        for _ in range(_TRIES - 1):
            try:
                return (await self._create([request], job_lifecycle.create_jobs))[0]
            except (asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
                # Postgres chose this transaction to give way, and rolled it back: the other one goes on. Or another one
                # just used the request id of a job that was to replace a waiting one, and is found now.
                continue
        return (await self._create([request], job_lifecycle.create_jobs))[0]

    async def _create(self, group: Sequence[_Request], create: _Create) -> list[list[WrittenJob]]:
        jobs = [job for request in group for job in request.jobs]
        readers = [request.and_read for request in group for _ in request.jobs]
        is_one_statement = create is job_lifecycle.create_plain_jobs and len(jobs) < millrace_queue.MANY
        connected = self._database.connection if is_one_statement else self._database.transaction
        async with connected() as connection:
            records: dict[UUID, JobRecord] | None = None
            while records is None:
                created = await create(connection, jobs)
                records = await _read_existing(connection, compress(created, readers))
        written = (
            WrittenJob(job, made, records.get(made.job_id)) for job, made in zip(jobs, created, strict=True)
        )
        return [list(islice(written, len(request.jobs))) for request in group]


async def _read_existing(
    connection: asyncpg.Connection, created: Iterable[CreatedJob]
) -> dict[UUID, JobRecord] | None:
    """Return the jobs that existed before, by their ids; None when one has been deleted since it was found."""
    existing = {made.job_id: 0 for made in created if made.already_existed and not made.key_taken}
    found = await jobs_repository.get_jobs_changed(connection, existing)
    return {record.job_id: record for record in found} if len(found) == len(existing) else None


def _new_record(job: NewJob, created: CreatedJob) -> JobRecord:
    """Return the row of a job that was just created, without reading it."""
    if created.created_at is None or created.run_at is None:
        raise ValueError(f"{created.job_id} existed, and was not read")
    return JobRecord(
        job_id=job.job_id,
        org_id=job.org_id,
        type=job.type,
        status="pending",
        progress=0,
        message="",
        total_items=0,
        processed_items=0,
        input_json=job.input_json,
        output_json=None,
        metadata_json=job.metadata_json,
        error_code=None,
        error_message=None,
        error_retryable=None,
        created_by=job.created_by,
        created_at=created.created_at,
        run_at=created.run_at,
        started_at=None,
        completed_at=None,
        attempt=0,
        max_attempts=job.max_attempts,
        priority=job.priority,
        schedule_id=job.schedule_id,
        request_id=job.request_id,
        version=1,
        read_at=created.created_at,
        options_json=job.options.to_json() if job.options else None,
    )


def _refuse(group: Sequence[_Request], error: Exception) -> None:
    for request in group:
        if not request.written.done():
            request.written.set_exception(error)

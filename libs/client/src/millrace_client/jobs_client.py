"""The jobs of an organisation: create, follow, stop, try again."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.download import DownloadCall, OnResume, describe, receive
from millrace_client.errors import from_status
from millrace_client.file import File
from millrace_client.job import Job, JobStatus, read_details, read_job, status_value
from millrace_client.job_attempt import JobAttempt, read_attempt
from millrace_client.job_filter import CancelledJobs, JobFilter, RetriedJobs, to_filter
from millrace_client.job_options import Concurrency, RetryPolicy, Unique
from millrace_client.job_type import JobType
from millrace_client.job_types_client import JobTypesClient
from millrace_client.new_job import BatchResult, NewJob, to_request
from millrace_client.upload import Progress
from millrace_client.values import JsonObject, to_struct, to_timestamp
from millrace_client.watching import watch_job

# While the service writes one batch to the database, it checks the next, and the one after that is on its way.
_BATCHES_AT_ONCE = 3
_BATCH_ITEMS = 1_000
# A server takes messages of 4 MiB unless told otherwise; the rest is for the envelope.
_BATCH_BYTES = 3 * 1024 * 1024
# To write this many requests takes less than a millisecond; then the event loop gets its turn.
_JOBS_PER_TURN = 100


class JobsClient:
    """Calls to the Jobs service for one organisation.

    Every method raises a CallError of the status that the server answered with. `timeout` is the
    seconds that one call may take, tries included; None: the client's own.
    """

    def __init__(self, connection: Connection, org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id
        self._creations = connection.creations(org_id)

    async def create(
        self,
        job_type: str,
        job_input: JsonObject | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        run_at: datetime | None = None,
        priority: int = 0,
        max_attempts: int = 0,
        created_by: str = "",
        delay: timedelta | None = None,
        deadline: datetime | None = None,
        attempt_timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
        unique: Unique | None = None,
        concurrency: Concurrency | None = None,
        dead_letter_type: str = "",
        timeout: float | None = None,
    ) -> Job:
        """Create a job; once this returns, the job is stored and will run.

        Calls made at the same time travel together, and each has its own result. See NewJob for the
        options. The job that already exists for the request id or the unique key may be returned instead:
        `already_existed` and `replaced` say so. InvalidArgumentError when nobody ever published the type or
        the input does not match its schema; AlreadyExistsError when the request id was used for another type or
        input, or the unique key is taken: its `job_id` is the job that exists.
        """
        new_job = NewJob(
            type=job_type,
            input={} if job_input is None else job_input,
            metadata=metadata or {},
            request_id=request_id,
            run_at=run_at,
            priority=priority,
            max_attempts=max_attempts,
            created_by=created_by,
            delay=delay,
            deadline=deadline,
            attempt_timeout=attempt_timeout,
            retry_policy=retry_policy,
            unique=unique,
            concurrency=concurrency,
            dead_letter_type=dead_letter_type,
        )
        request = to_request(new_job, self._org_id)
        made = await self._creations.create(request, self._connection.seconds(timeout))
        return read_job(made.job, already_existed=made.already_existed, replaced=made.replaced)

    async def validate(self, job: NewJob, *, timeout: float | None = None) -> None:
        """Check everything as if the job were created, and create nothing.

        Raises what `create` would; whether its request id or its unique key is taken is not looked at.
        """
        request = to_request(job, self._org_id)
        request.validate_only = True
        await self._connection.call(self._connection.jobs.CreateJob, request, timeout)

    async def create_many(
        self, jobs: Iterable[NewJob], *, timeout: float | None = None
    ) -> Sequence[BatchResult]:
        """Create any number of jobs, and return the result of each in the same order.

        Each job succeeds or is refused by itself. They are sent in batches of up to 1,000 jobs or 3 MiB,
        one transaction each, three batches at a time, and `timeout` is for one batch. When a batch cannot be
        created at all its CallError is raised; those before it stay, those sent along with it may, and a
        repeated call is harmless for jobs whose `request_id` you set.
        """
        results: list[BatchResult] = []
        under_way: deque[asyncio.Task[Sequence[BatchResult]]] = deque()
        try:
            async for batch in _batches(jobs):
                if len(under_way) == _BATCHES_AT_ONCE:
                    results += await under_way[0]
                    under_way.popleft()
                under_way.append(asyncio.create_task(self._create_batch(batch, timeout)))
            while under_way:
                results += await under_way[0]
                under_way.popleft()
        finally:
            for call in under_way:
                call.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return results

    async def _create_batch(
        self, batch: Sequence[messages.CreateJobRequest], timeout: float | None
    ) -> Sequence[BatchResult]:
        request = messages.BatchCreateJobsRequest(org_id=self._org_id, requests=batch)
        response = await self._connection.call(self._connection.jobs.BatchCreateJobs, request, timeout)
        return [_read_result(result) for result in response.results]

    async def get(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Return a job as it is now, with why it waits and how its attempts ended.

        NotFoundError when the organisation has no such job.
        """
        request = messages.GetJobRequest(org_id=self._org_id, job_id=job_id)
        response = await self._connection.call(self._connection.jobs.GetJob, request, timeout)
        return read_details(response)

    def list(
        self,
        *,
        statuses: Iterable[JobStatus | str] = (),
        types: Iterable[str] = (),
        created_by: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        schedule_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        error_codes: Iterable[str] = (),
        parent_job_id: str = "",
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[Job]:
        """Yield the jobs that match all filters, newest first, at most `limit`.

        Of `statuses`, `types` and `error_codes`, which are those of the latest error, any may match. `created_after` is
        inclusive, `created_before` is not. `metadata` are keys and values that the job's own must contain. With
        `parent_job_id` those that were made for this job: its deliveries, its dead letter. Pages of `page_size` (up to
        1,000) are fetched as they are needed, each within `timeout` seconds.
        """
        request = messages.ListJobsRequest(
            org_id=self._org_id,
            page_size=page_size if limit is None else min(limit, page_size),
            statuses=[status_value(status) for status in statuses],
            types=types,
            created_by=created_by,
            created_after=to_timestamp(created_after),
            created_before=to_timestamp(created_before),
            schedule_id=schedule_id,
            metadata=to_struct(metadata) if metadata else None,
            error_codes=error_codes,
            parent_job_id=parent_job_id,
        )

        async def fetch(page_token: str) -> tuple[Iterator[Job], str]:
            request.page_token = page_token
            page = await self._connection.call(self._connection.jobs.ListJobs, request, timeout)
            return map(read_job, page.jobs), page.next_page_token

        return read_pages(fetch, limit)

    def watch(self, job_id: str, *, patience: float = 60.0) -> AsyncGenerator[Job, None]:
        """Yield the job as it is now, and again after each change, until it is finished.

        The last one yielded is always the finished job. When the connection breaks it is made anew;
        UnavailableError after `patience` seconds without any answer.
        """
        request = messages.WatchJobRequest(org_id=self._org_id, job_id=job_id)
        return watch_job(lambda: self._connection.jobs.WatchJob(request), patience)

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job is finished and return it; TimeoutError when that takes longer than `timeout` seconds.

        A failed job is returned like any other: add `.raise_for_status()` to have an exception instead.
        """
        async with asyncio.timeout(timeout):
            async for job in self.watch(job_id):
                latest = job
        return latest

    async def download_output(
        self,
        job_id: str,
        to: str | os.PathLike[str] | BinaryIO,
        *,
        resume: bool = False,
        replace: bool = True,
        on_progress: Progress | None = None,
        on_resume: OnResume | None = None,
        timeout: float | None = None,
    ) -> File:
        """Write what a completed job came to, as `files.download` does: the file that its output names as its `file_id`.

        Without one it is the output itself as JSON, described by a File without a `file_id`. FailedPreconditionError when the
        job is not completed.
        """

        def open_download(offset: int) -> DownloadCall:
            request = messages.DownloadJobOutputRequest(org_id=self._org_id, job_id=job_id, offset=offset)
            return self._connection.jobs.DownloadJobOutput(request, timeout=timeout)

        return await receive(
            open_download, to, on_progress, resume=resume, replace=replace, on_resume=on_resume
        )

    async def describe_output(self, job_id: str, *, timeout: float | None = None) -> File:
        """Return what `download_output` would write; the same errors."""
        request = messages.DownloadJobOutputRequest(org_id=self._org_id, job_id=job_id, length=1)
        call = self._connection.jobs.DownloadJobOutput(request, timeout=self._connection.seconds(timeout))
        return await describe(call)

    async def cancel(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Cancel a job, and return it: CANCELLED when it was waiting, CANCELLING while its handler stops.

        FailedPreconditionError when it is completed or failed already.
        """
        request = messages.CancelJobRequest(org_id=self._org_id, job_id=job_id)
        response = await self._connection.call(self._connection.jobs.CancelJob, request, timeout)
        return read_job(response.job)

    async def retry(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Make a failed or cancelled job wait for a worker again, with as many further attempts as its type gives.

        One that waits for its time after a failed attempt is due at once, with the attempts it has left. Never repeated by
        itself. FailedPreconditionError when the job is neither.
        """
        request = messages.RetryJobRequest(org_id=self._org_id, job_id=job_id)
        response = await self._connection.call(self._connection.jobs.RetryJob, request, timeout)
        return read_job(response.job)

    def attempts(
        self, job_id: str, *, limit: int | None = None, page_size: int = 100, timeout: float | None = None
    ) -> AsyncIterator[JobAttempt]:
        """Yield the attempts of a job, the latest first, at most `limit`; pages are fetched as needed.

        NotFoundError when the organisation has no such job.
        """
        request = messages.ListJobAttemptsRequest(
            org_id=self._org_id,
            job_id=job_id,
            page_size=page_size if limit is None else min(limit, page_size),
        )

        async def fetch(page_token: str) -> tuple[Iterator[JobAttempt], str]:
            request.page_token = page_token
            page = await self._connection.call(self._connection.jobs.ListJobAttempts, request, timeout)
            return map(read_attempt, page.attempts), page.next_page_token

        return read_pages(fetch, limit)

    async def cancel_many(
        self, jobs: JobFilter, *, dry_run: bool = False, timeout: float | None = None
    ) -> CancelledJobs:
        """Cancel the jobs that match and are not finished, the oldest first, and count them.

        At most 10,000 at a time: while there are `more`, call it again; what was cancelled does not match
        again. A `dry_run` only counts. ValueError when the filter is empty: name the statuses to cancel all jobs.
        InvalidArgumentError when they name COMPLETED or FAILED.
        """
        request = messages.CancelJobsRequest(org_id=self._org_id, filter=_some(jobs), validate_only=dry_run)
        response = await self._connection.call(self._connection.jobs.CancelJobs, request, timeout)
        return CancelledJobs(response.cancelled, response.cancelling, response.more)

    async def retry_many(
        self, jobs: JobFilter, *, dry_run: bool = False, timeout: float | None = None
    ) -> RetriedJobs:
        """Retry the failed jobs that match, the oldest first, and count them; cancelled ones when `statuses` ask for it.

        At most 10,000 at a time; `more` says that there are others. What fails once more, and what is in
        conflict, matches again. A `dry_run` only counts. Never repeated by itself. ValueError when the filter is
        empty: name the statuses to retry all jobs. InvalidArgumentError when they name others than FAILED and CANCELLED.
        """
        request = messages.RetryJobsRequest(org_id=self._org_id, filter=_some(jobs), validate_only=dry_run)
        response = await self._connection.call(self._connection.jobs.RetryJobs, request, timeout)
        return RetriedJobs(response.retried, response.conflicts, response.more)

    async def unblock_key(self, job_type: str, key: str, *, timeout: float | None = None) -> str:
        """Let the jobs of a concurrency key go on that a failed job blocks.

        Returns the id of the job that blocked the key; empty when none did.
        """
        request = messages.UnblockConcurrencyKeyRequest(org_id=self._org_id, type=job_type, key=key)
        response = await self._connection.call(self._connection.jobs.UnblockConcurrencyKey, request, timeout)
        return response.job_id

    def types(self, *, page_size: int = 100, timeout: float | None = None) -> AsyncIterator[JobType]:
        """Yield the job types that workers have published: the same as `client.job_types.list()`."""
        return JobTypesClient(self._connection).list(page_size=page_size, timeout=timeout)


def _some(jobs: JobFilter) -> messages.JobFilter:
    asked = to_filter(jobs)
    if asked == messages.JobFilter():
        # A list that turned out empty would otherwise mean every job.
        raise ValueError("the filter is empty, which would be all jobs: name the statuses to mean that")
    return asked


async def _batches(jobs: Iterable[NewJob]) -> AsyncIterator[Sequence[messages.CreateJobRequest]]:
    batch: list[messages.CreateJobRequest] = []
    size = 0
    for count, job in enumerate(jobs, 1):
        request = to_request(job)
        length = request.ByteSize()
        if batch and (len(batch) == _BATCH_ITEMS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += length
        if count % _JOBS_PER_TURN == 0:
            await asyncio.sleep(0)
    if batch:
        yield batch


def _read_result(result: messages.BatchCreateJobsResult) -> BatchResult:
    error = from_status(result.error) if result.HasField("error") else None
    return BatchResult(
        job_id=result.job_id,
        already_existed=result.already_existed,
        error=error,
        replaced=result.replaced,
    )

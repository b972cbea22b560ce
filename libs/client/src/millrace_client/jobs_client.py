"""The jobs of an organisation: create, follow, stop, try again."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.errors import from_status
from millrace_client.job import (
    BatchResult,
    Job,
    JobStatus,
    JobType,
    NewJob,
    read_job,
    read_job_type,
    status_value,
)
from millrace_client.values import JsonObject, encode_object, to_struct, to_timestamp
from millrace_client.watching import watch_job

_BATCH_ITEMS = 10_000
# A server takes messages of 4 MiB unless told otherwise; the rest is for the envelope.
_BATCH_BYTES = 3 * 1024 * 1024


class JobsClient:
    """Calls to the Jobs service for one organisation.

    Every method raises a CallError of the status that the server answered with. `timeout` is the
    seconds that one call may take, tries included; None: the client's own.
    """

    def __init__(self, connection: Connection, org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id

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
        timeout: float | None = None,
    ) -> Job:
        """Create a job; once this returns, the job is stored and will run.

        See NewJob for the options. InvalidArgumentError when nobody ever published the type or the
        input does not match its schema; AlreadyExistsError when the request id was used for another
        type or input.
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
        )
        request = _create_request(new_job, self._org_id)
        response = await self._connection.call(self._connection.jobs.CreateJob, request, timeout)
        return read_job(response.job)

    async def create_many(
        self, jobs: Iterable[NewJob], *, timeout: float | None = None
    ) -> Sequence[BatchResult]:
        """Create any number of jobs, and return the result of each in the same order.

        Each job succeeds or is refused by itself. They are sent in batches of up to 10,000 jobs or
        3 MiB, one transaction each, and `timeout` is for one batch. When a batch cannot be created at
        all its CallError is raised; those before it stay, and a repeated call is harmless for jobs
        whose `request_id` you set.
        """
        results: list[BatchResult] = []
        for batch in _batches(_create_request(job) for job in jobs):
            request = messages.BatchCreateJobsRequest(org_id=self._org_id, requests=batch)
            response = await self._connection.call(self._connection.jobs.BatchCreateJobs, request, timeout)
            results.extend(_read_result(result) for result in response.results)
        return results

    async def get(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Return a job as it is now; NotFoundError when the organisation has no such job."""
        request = messages.GetJobRequest(org_id=self._org_id, job_id=job_id)
        response = await self._connection.call(self._connection.jobs.GetJob, request, timeout)
        return read_job(response.job)

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
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[Job]:
        """Yield the jobs that match all filters, newest first, at most `limit`.

        Of `statuses` and `types` any may match. `created_after` is inclusive, `created_before` is not.
        `metadata` are keys and values that the job's own must contain. Pages of `page_size` (up to
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

    async def cancel(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Cancel a job, and return it: CANCELLED when it was waiting, CANCELLING while its handler stops.

        FailedPreconditionError when it is completed or failed already.
        """
        request = messages.CancelJobRequest(org_id=self._org_id, job_id=job_id)
        response = await self._connection.call(self._connection.jobs.CancelJob, request, timeout)
        return read_job(response.job)

    async def retry(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Make a failed or cancelled job wait for a worker again, with as many further attempts as its type gives.

        Never repeated by itself. FailedPreconditionError when the job is neither failed nor cancelled.
        """
        request = messages.RetryJobRequest(org_id=self._org_id, job_id=job_id)
        response = await self._connection.call(self._connection.jobs.RetryJob, request, timeout)
        return read_job(response.job)

    def types(self, *, page_size: int = 100, timeout: float | None = None) -> AsyncIterator[JobType]:
        """Yield the job types that workers have published, of all organisations alike, by name."""

        async def fetch(page_token: str) -> tuple[Iterator[JobType], str]:
            request = messages.ListJobTypesRequest(page_size=page_size, page_token=page_token)
            page = await self._connection.call(self._connection.jobs.ListJobTypes, request, timeout)
            return map(read_job_type, page.job_types), page.next_page_token

        return read_pages(fetch, limit=None)


def _create_request(job: NewJob, org_id: str = "") -> messages.CreateJobRequest:
    return messages.CreateJobRequest(
        org_id=org_id,
        type=job.type,
        input_json=encode_object(job.input),
        metadata=to_struct(job.metadata) if job.metadata else None,
        request_id=job.request_id or uuid.uuid4().hex,
        run_at=to_timestamp(job.run_at),
        priority=job.priority,
        max_attempts=job.max_attempts,
        created_by=job.created_by,
    )


def _batches(requests: Iterable[messages.CreateJobRequest]) -> Iterator[Sequence[messages.CreateJobRequest]]:
    batch: list[messages.CreateJobRequest] = []
    size = 0
    for request in requests:
        length = request.ByteSize()
        if batch and (len(batch) == _BATCH_ITEMS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += length
    if batch:
        yield batch


def _read_result(result: messages.BatchCreateJobsResult) -> BatchResult:
    error = from_status(result.error) if result.HasField("error") else None
    return BatchResult(job_id=result.job_id, already_existed=result.already_existed, error=error)

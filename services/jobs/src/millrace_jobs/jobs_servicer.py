# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import UUID

import asyncpg
import grpc

from millrace.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc
from millrace_database import job_lifecycle, job_types_repository, jobs_repository
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_hints import JobHints
from millrace_database.job_lifecycle import Cancellation, CancelledJob, Retry
from millrace_database.jobs_repository import JobRecord
from millrace_jobs.execution_canceller import ExecutionCanceller
from millrace_jobs.job_creator import JobCreator
from millrace_jobs.job_lists import check_query, read_page
from millrace_jobs.job_messages import job_message, job_type_message
from millrace_jobs.job_requests import MAX_BATCH_SIZE
from millrace_jobs.job_watcher import JobWatcher
from millrace_runtime.errors import FailedPrecondition, NotFound
from millrace_runtime.identity import current_caller
from millrace_runtime.paging import last_name, token_behind
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations

_Context = grpc.aio.ServicerContext[Any, Any]


class JobsServicer(jobs_service_pb2_grpc.JobsServiceServicer):
    """Answers the calls of JobsService; the contract says what each one does."""

    def __init__(
        self,
        database: Database,
        *,
        creator: JobCreator,
        watcher: JobWatcher,
        canceller: ExecutionCanceller,
        hints: JobHints,
    ) -> None:
        self._database = database
        self._creator = creator
        self._watcher = watcher
        self._canceller = canceller
        self._hints = hints

    async def CreateJob(
        self, request: jobs_service_pb2.CreateJobRequest, _context: _Context
    ) -> jobs_service_pb2.CreateJobResponse:
        """Create a job; answered once it is committed."""
        job = await self._creator.create(request, current_caller())
        return jobs_service_pb2.CreateJobResponse(job=job)

    async def BatchCreateJobs(
        self, request: jobs_service_pb2.BatchCreateJobsRequest, _context: _Context
    ) -> jobs_service_pb2.BatchCreateJobsResponse:
        """Create many jobs in one transaction."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        if not 1 <= len(request.requests) <= MAX_BATCH_SIZE:
            violations.add("requests", f"are {len(request.requests)}, and may be 1 to {MAX_BATCH_SIZE}")
        violations.raise_if_any()
        caller = current_caller()
        caller.require_organisation(org_id)
        results = await self._creator.create_batch(org_id, request.requests, caller)
        return jobs_service_pb2.BatchCreateJobsResponse(results=results)

    async def GetJob(
        self, request: jobs_service_pb2.GetJobRequest, _context: _Context
    ) -> jobs_service_pb2.GetJobResponse:
        """Return one job."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        return jobs_service_pb2.GetJobResponse(job=job_message(await self._read(org_id, job_id)))

    async def ListJobs(
        self, request: jobs_service_pb2.ListJobsRequest, _context: _Context
    ) -> jobs_service_pb2.ListJobsResponse:
        """Return a page of jobs, newest first."""
        violations = Violations()
        query = check_query(request, violations)
        violations.raise_if_any()
        current_caller().require_organisation(request.org_id)
        return await read_page(self._database, query, request.page_token)

    async def WatchJob(
        self, request: jobs_service_pb2.WatchJobRequest, _context: _Context
    ) -> AsyncIterator[jobs_service_pb2.WatchJobResponse]:
        """Stream the job as it is, then after each change, until it is finished."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        record = await self._read(org_id, job_id)
        async with aclosing(self._watcher.watch(record)) as jobs:
            async for job in jobs:
                yield jobs_service_pb2.WatchJobResponse(job=job)

    async def CancelJob(
        self, request: jobs_service_pb2.CancelJobRequest, _context: _Context
    ) -> jobs_service_pb2.CancelJobResponse:
        """Cancel a job; the worker that runs it is told once that is committed."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        async with self._database.transaction() as connection:
            cancelled = await job_lifecycle.cancel_job(connection, org_id, job_id)
            record = await jobs_repository.get_job(connection, org_id, job_id)
        if record is None:
            raise _not_found(job_id)
        if cancelled.outcome is Cancellation.FINISHED:
            raise _wrong_status(job_id, cancelled.status, "a finished job cannot be cancelled")
        self._hints.jobs_changed()
        self._tell_worker(cancelled, record)
        return jobs_service_pb2.CancelJobResponse(job=job_message(record))

    async def RetryJob(
        self, request: jobs_service_pb2.RetryJobRequest, _context: _Context
    ) -> jobs_service_pb2.RetryJobResponse:
        """Make a failed or cancelled job pending again."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        async with self._database.transaction() as connection:
            attempts = await _further_attempts(connection, org_id, job_id)
            retried = await job_lifecycle.retry_job(connection, org_id, job_id, attempts)
            record = await jobs_repository.get_job(connection, org_id, job_id)
        if record is None:
            raise _not_found(job_id)
        if retried.outcome is Retry.WRONG_STATUS:
            raise _wrong_status(job_id, retried.status, "only a failed or cancelled job can be tried again")
        self._hints.jobs_wait({record.type})
        self._hints.jobs_changed()
        return jobs_service_pb2.RetryJobResponse(job=job_message(record))

    async def ListJobTypes(
        self, request: jobs_service_pb2.ListJobTypesRequest, _context: _Context
    ) -> jobs_service_pb2.ListJobTypesResponse:
        """Return a page of the published job types, by name."""
        violations = Violations()
        page_size = violations.check_page_size(request.page_size)
        violations.raise_if_any()
        after = last_name(request.page_token, {})
        async with self._database.connection() as connection:
            types = await job_types_repository.list_job_types(connection, after, page_size + 1)
        page = types[:page_size]
        return jobs_service_pb2.ListJobTypesResponse(
            job_types=[job_type_message(record) for record in page],
            next_page_token=token_behind(page[-1].type, {}) if len(types) > page_size else "",
        )

    async def _read(self, org_id: str, job_id: UUID) -> JobRecord:
        async with self._database.connection() as connection:
            record = await jobs_repository.get_job(connection, org_id, job_id)
        if record is None:
            raise _not_found(job_id)
        return record

    def _tell_worker(self, cancelled: CancelledJob, record: JobRecord) -> None:
        address = (cancelled.worker_details or {}).get("address")
        if address:
            self._canceller.push(address, org_id=record.org_id, job_id=format_id("job", record.job_id))


async def _further_attempts(connection: asyncpg.Connection, org_id: str, job_id: UUID) -> int:
    record = await jobs_repository.get_job(connection, org_id, job_id)
    if record is None:
        raise _not_found(job_id)
    known = await job_types_repository.get_job_type(connection, record.type)
    return record.max_attempts if known is None else known.max_attempts


def _not_found(job_id: UUID) -> NotFound:
    return NotFound("job", format_id("job", job_id))


def _wrong_status(job_id: UUID, status: str, rule: str) -> FailedPrecondition:
    name = format_id("job", job_id)
    return FailedPrecondition(f"JOB_{status.upper()}", name, f"{name} is {status}, and {rule}")

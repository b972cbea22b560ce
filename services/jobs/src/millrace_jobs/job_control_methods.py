# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

import asyncpg

import millrace_queue
from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database import (
    job_control,
    job_types_repository,
    jobs_repository,
)
from millrace_database.ids import format_id
from millrace_database.job_changes import Cancellation, Retry
from millrace_database.job_list_statement import JobFilters
from millrace_jobs import bulk_job_changes
from millrace_jobs.job_filters import check_filters
from millrace_jobs.job_messages import job_message, status_word
from millrace_jobs.job_type_catalog import MAX_TYPE_LENGTH
from millrace_jobs.servicer_parts import Context, ServicerMethods, no_job, wrong_status
from millrace_runtime.errors import AlreadyExists, Unavailable
from millrace_runtime.identity import current_caller
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations

_MAX_KEY_LENGTH = 256
# Whoever ends an attempt has the job locked for some milliseconds.
_PATIENCE = timedelta(seconds=1)
_CANCEL_RULE = "a finished job cannot be cancelled"
_RETRY_RULE = "only a failed or cancelled job can be tried again, or one that waits after a failed attempt"
_RETRY_MANY_RULE = "only a failed or cancelled job can be tried again"
# What the method for one job refuses, that for many refuses to look for.
_NEVER_CANCELLED = frozenset({job_pb2.JOB_STATUS_COMPLETED, job_pb2.JOB_STATUS_FAILED})
_NEVER_RETRIED = frozenset(
    {
        job_pb2.JOB_STATUS_PENDING,
        job_pb2.JOB_STATUS_PROCESSING,
        job_pb2.JOB_STATUS_CANCELLING,
        job_pb2.JOB_STATUS_COMPLETED,
    }
)


class JobControlMethods(ServicerMethods):
    """The methods that stop jobs, and those that try them again."""

    async def CancelJob(
        self, request: jobs_service_pb2.CancelJobRequest, _context: Context
    ) -> jobs_service_pb2.CancelJobResponse:
        """Cancel a job; the worker that runs it is told once that is committed."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        try:
            async with self._parts.database.transaction() as connection:
                cancelled = await job_control.cancel_job_soon(connection, org_id, job_id, patience=_PATIENCE)
                record = await jobs_repository.get_job(connection, org_id, job_id)
        except job_control.JobLockedError as error:
            raise Unavailable(
                "a transaction that is still open has the job locked, and nothing changed",
                reason="JOB_LOCKED",
            ) from error
        if record is None:
            raise no_job(job_id)
        if cancelled.outcome is Cancellation.FINISHED:
            raise wrong_status(job_id, cancelled.status, _CANCEL_RULE)
        self._parts.hints.jobs_changed()
        if cancelled.ended_type is not None:
            self._parts.flow.finished(cancelled.ended_type, org_id)
        self._parts.flow.created_many(cancelled.created)
        self._parts.hints.jobs_wait({type_ for type_, _ in cancelled.created})
        if address := (cancelled.worker_details or {}).get("address"):
            self._parts.canceller.push(address, org_id=org_id, job_id=format_id("job", job_id))
        return jobs_service_pb2.CancelJobResponse(job=job_message(record))

    async def CancelJobs(
        self, request: jobs_service_pb2.CancelJobsRequest, _context: Context
    ) -> jobs_service_pb2.CancelJobsResponse:
        """Cancel the jobs that match."""
        filters = _check_bulk(request, _NEVER_CANCELLED, _CANCEL_RULE)
        if request.validate_only:
            return await bulk_job_changes.count_cancellable(self._parts, filters)
        return await bulk_job_changes.cancel(self._parts, filters)

    async def RetryJob(
        self, request: jobs_service_pb2.RetryJobRequest, _context: Context
    ) -> jobs_service_pb2.RetryJobResponse:
        """Make a failed or cancelled job pending again, or one due that waits after a failed attempt."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        async with self._parts.database.transaction() as connection:
            attempts = await _further_attempts(connection, org_id, job_id)
            retried = await job_control.retry_job(connection, org_id, job_id, attempts)
            record = await jobs_repository.get_job(connection, org_id, job_id)
        if record is None:
            raise no_job(job_id)
        if retried.outcome is Retry.WRONG_STATUS:
            raise wrong_status(job_id, retried.status, _RETRY_RULE)
        if retried.holder_id is not None:
            raise AlreadyExists(
                "job",
                format_id("job", retried.holder_id),
                "this job has the unique key of the job that is to be tried again",
            )
        self._parts.hints.jobs_wait({record.type})
        self._parts.hints.jobs_changed()
        return jobs_service_pb2.RetryJobResponse(job=job_message(record))

    async def RetryJobs(
        self, request: jobs_service_pb2.RetryJobsRequest, _context: Context
    ) -> jobs_service_pb2.RetryJobsResponse:
        """Make the jobs pending again that match."""
        filters = _check_bulk(request, _NEVER_RETRIED, _RETRY_MANY_RULE)
        if request.validate_only:
            return await bulk_job_changes.count_retryable(self._parts, filters)
        return await bulk_job_changes.retry(self._parts, filters)

    async def UnblockConcurrencyKey(
        self, request: jobs_service_pb2.UnblockConcurrencyKeyRequest, _context: Context
    ) -> jobs_service_pb2.UnblockConcurrencyKeyResponse:
        """Let the jobs go on that a failed one blocks."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        type_ = violations.check_text("type", request.type, max_length=MAX_TYPE_LENGTH, required=True)
        key = violations.check_text("key", request.key, max_length=_MAX_KEY_LENGTH, required=True)
        violations.raise_if_any()
        current_caller().require_organisation(org_id)
        async with self._parts.database.transaction() as connection:
            blocking = await millrace_queue.unblock_key(connection, type_, org_id, key)
        if blocking is None:
            return jobs_service_pb2.UnblockConcurrencyKeyResponse()
        self._parts.hints.jobs_wait({type_})
        return jobs_service_pb2.UnblockConcurrencyKeyResponse(job_id=format_id("job", blocking))


def _check_bulk(
    request: jobs_service_pb2.CancelJobsRequest | jobs_service_pb2.RetryJobsRequest,
    refused: Collection[job_pb2.JobStatus.ValueType],
    rule: str,
) -> JobFilters:
    """Return which jobs a request means; `rule` says why it may not ask for those of the `refused` statuses."""
    violations = Violations()
    org_id = violations.check_org_id(request.org_id, allow_all=True)
    if not request.HasField("filter"):
        violations.add("filter", "is required; an empty one means all jobs that the method is for")
    filters = check_filters(org_id, request.filter, violations, prefix="filter.")
    for place, status in enumerate(request.filter.statuses):
        if status in refused:
            violations.add(f"filter.statuses[{place}]", f"is {status_word(status)}: {rule}")
    violations.raise_if_any()
    current_caller().require_organisation(org_id)
    return filters


async def _further_attempts(connection: asyncpg.Connection, org_id: str, job_id: UUID) -> int:
    record = await jobs_repository.get_job(connection, org_id, job_id)
    if record is None:
        raise no_job(job_id)
    known = await job_types_repository.get_job_type(connection, record.type)
    return job_types_repository.DEFAULT_MAX_ATTEMPTS if known is None else known.max_attempts

"""Cancelling and retrying many jobs: the oldest first, a thousand in each transaction."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database import bulk_job_control
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_list_statement import JobFilters
from millrace_database.tables import FAILED_STATUSES
from millrace_jobs.servicer_parts import ServicerParts

_MOST_JOBS = 10_000
_BATCH = 1000
# What is CANCELLING has been cancelled: it must not match again.
_CANCELLABLE = ("pending", "processing")
_RETRIED_UNASKED = ("failed",)


async def cancel(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.CancelJobsResponse:
    """Cancel what matches and is not finished; workers are told once that is committed."""
    response = jobs_service_pb2.CancelJobsResponse()
    matching = _of_statuses(filters, _CANCELLABLE, _CANCELLABLE)
    if matching is None:
        return response
    async for ids, more in _batches(parts.database, matching):
        async with parts.database.transaction() as connection:
            outcome = await bulk_job_control.cancel_jobs(connection, ids)
        response.cancelled += outcome.cancelled
        response.cancelling += len(outcome.running)
        response.more = more
        parts.hints.jobs_changed()
        for job in outcome.running:
            if job.address:
                parts.canceller.push(job.address, org_id=job.org_id, job_id=format_id("job", job.job_id))
    return response


async def retry(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.RetryJobsResponse:
    """Make pending again what matches and failed, or was cancelled and is asked for."""
    response = jobs_service_pb2.RetryJobsResponse()
    matching = _of_statuses(filters, FAILED_STATUSES, _RETRIED_UNASKED)
    if matching is None:
        return response
    async for ids, more in _batches(parts.database, matching):
        async with parts.database.transaction() as connection:
            outcome = await bulk_job_control.retry_jobs(connection, ids, matching.statuses)
        response.retried += outcome.retried
        response.conflicts += outcome.conflicts
        response.more = more
        parts.hints.jobs_wait(outcome.types)
        parts.hints.jobs_changed()
    return response


async def count_cancellable(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.CancelJobsResponse:
    """Return what `cancel` would do."""
    matching = _of_statuses(filters, _CANCELLABLE, _CANCELLABLE)
    found, running = await _count(parts.database, matching)
    return jobs_service_pb2.CancelJobsResponse(
        cancelled=found - running, cancelling=running, more=found == _MOST_JOBS
    )


async def count_retryable(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.RetryJobsResponse:
    """Return how many jobs `retry` would work through; which of them are in conflict is not known before."""
    found, _ = await _count(parts.database, _of_statuses(filters, FAILED_STATUSES, _RETRIED_UNASKED))
    return jobs_service_pb2.RetryJobsResponse(retried=found, more=found == _MOST_JOBS)


def _of_statuses(filters: JobFilters, possible: Sequence[str], otherwise: Sequence[str]) -> JobFilters | None:
    """Return the filters for what can be changed of that which is asked for; None: nothing of it can."""
    statuses = (
        [status for status in filters.statuses if status in possible] if filters.statuses else otherwise
    )
    return replace(filters, statuses=statuses) if statuses else None


async def _batches(database: Database, filters: JobFilters) -> AsyncIterator[tuple[list[UUID], bool]]:
    """Yield ids of jobs, the oldest first, and whether there are others behind the last ones."""
    after: UUID | None = None
    left = _MOST_JOBS
    while left:
        wanted = min(_BATCH, left)
        async with database.session() as session:
            found = await bulk_job_control.find_oldest_jobs(session, filters, after, wanted + 1)
        ids, more = found[:wanted], len(found) > wanted
        if ids:
            yield ids, more
        if not more:
            return
        after = ids[-1]
        left -= len(ids)


async def _count(database: Database, filters: JobFilters | None) -> tuple[int, int]:
    """Return how many jobs match, as far as they would be worked through, and how many of these run."""
    if filters is None:
        return 0, 0
    async with database.session() as session:
        return await bulk_job_control.count_oldest_jobs(session, filters, _MOST_JOBS)

"""Cancelling and retrying many jobs: the oldest first, a thousand in each transaction."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database import bulk_job_control
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_list_statement import JobFilters
from millrace_jobs.servicer_parts import ServicerParts

_MOST_JOBS = 10_000
_BATCH = 1000
# What is CANCELLING has been cancelled: it must not match again.
_CANCELLABLE = ("pending", "processing")
_RETRIED_UNASKED = ("failed",)
# What others have locked is mostly free after some milliseconds. A transaction that stays open for long is not waited for.
_LOCKED_SECONDS = 2.0
_LOCKED_POLL_SECONDS = 0.05


async def cancel(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.CancelJobsResponse:
    """Cancel what matches and is not finished; workers are told once that is committed.

    What somebody else has locked is tried again for a while at the end.
    """
    response = jobs_service_pb2.CancelJobsResponse()
    matching = _cancellable(filters)
    if matching is None:
        return response
    locked: list[UUID] = []
    async for ids, more in _batches(parts.database, matching):
        locked += await _cancel(parts, ids, response)
        response.more = more
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _LOCKED_SECONDS
    while locked and loop.time() < give_up_at:
        await asyncio.sleep(_LOCKED_POLL_SECONDS)
        tried, locked = locked, []
        for start in range(0, len(tried), _BATCH):
            locked += await _cancel(parts, tried[start : start + _BATCH], response)
    response.more |= bool(locked)
    return response


async def _cancel(
    parts: ServicerParts, ids: Sequence[UUID], response: jobs_service_pb2.CancelJobsResponse
) -> Sequence[UUID]:
    """Cancel jobs in one transaction, and add them to the response; return those that somebody else has locked."""
    async with parts.database.transaction() as connection:
        outcome = await bulk_job_control.cancel_jobs(connection, ids)
    response.cancelled += outcome.cancelled.total()
    response.cancelling += len(outcome.running)
    parts.hints.jobs_changed()
    parts.flow.finished_many(outcome.cancelled)
    parts.flow.created_many(outcome.created)
    parts.hints.jobs_wait({type_ for type_, _ in outcome.created})
    for job in outcome.running:
        if job.address:
            parts.canceller.push(job.address, org_id=job.org_id, job_id=format_id("job", job.job_id))
    return outcome.locked


async def retry(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.RetryJobsResponse:
    """Make pending again what matches and failed, or was cancelled and is asked for; no other status may be."""
    response = jobs_service_pb2.RetryJobsResponse()
    matching = _retryable(filters)
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
    matching = _cancellable(filters)
    if matching is None:
        return jobs_service_pb2.CancelJobsResponse()
    found, running = await _count(parts.database, matching)
    return jobs_service_pb2.CancelJobsResponse(
        cancelled=found - running, cancelling=running, more=found == _MOST_JOBS
    )


async def count_retryable(parts: ServicerParts, filters: JobFilters) -> jobs_service_pb2.RetryJobsResponse:
    """Return how many jobs `retry` would work through; which of them are in conflict is not known before."""
    found, _ = await _count(parts.database, _retryable(filters))
    return jobs_service_pb2.RetryJobsResponse(retried=found, more=found == _MOST_JOBS)


def _cancellable(filters: JobFilters) -> JobFilters | None:
    """Return the filters for what of that which is asked for is not cancelled yet; None: nothing of it."""
    asked = filters.statuses or _CANCELLABLE
    statuses = [status for status in asked if status in _CANCELLABLE]
    return replace(filters, statuses=statuses) if statuses else None


def _retryable(filters: JobFilters) -> JobFilters:
    return filters if filters.statuses else replace(filters, statuses=_RETRIED_UNASKED)


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


async def _count(database: Database, filters: JobFilters) -> tuple[int, int]:
    """Return how many jobs match, as far as they would be worked through, and how many of these run."""
    async with database.session() as session:
        return await bulk_job_control.count_oldest_jobs(session, filters, _MOST_JOBS)

"""The life of a user job, in one place: its queue entry and its row change together.

Each function takes an asyncpg connection inside a transaction; what it did holds once that commits. Times are the
database's. Where several leases or ids are given, each id occurs once.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.job_changes import (
    Cancellation,
    CancelledJob,
    ClaimedJob,
    CreatedJob,
    JobFailure,
    NewJob,
    ProgressReport,
    RetriedJob,
    Retry,
)
from millrace_database.tables import FINAL_STATUSES
from millrace_queue import Claim, ClaimCursor, Failure, HandBack, Lease, NewEntry, Rescue, Rescued, Settled

__all__ = [
    "WORKER_LOST",
    "Cancellation",
    "CancelledJob",
    "ClaimedJob",
    "CreatedJob",
    "JobFailure",
    "NewJob",
    "ProgressReport",
    "RetriedJob",
    "Retry",
    "cancel_job",
    "cancelled_jobs",
    "claim_jobs",
    "complete_jobs",
    "create_jobs",
    "fail_jobs",
    "hand_back_jobs",
    "report_progress",
    "report_progress_where_free",
    "rescue_jobs",
    "retry_job",
]

WORKER_LOST = "WORKER_LOST"
"""The error code of an attempt whose worker died."""

_WORKER_LOST_MESSAGE = "The worker that ran the job was lost."
# Between two statements a job may finish and be retried. Often in a row that does not happen.
_CANCEL_TRIES = 5

_logger = logging.getLogger(__name__)


async def create_jobs(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
    """Create jobs with their queue entries.

    A job whose request id another has, in the database or earlier in `jobs`, is not created. If the transaction
    that creates the other is still open, this one waits for its end: then the other exists, or this one is created.

    Returns:
        One result per job, in the same order.

    """
    results: dict[int, CreatedJob] = {}
    while len(results) < len(jobs):
        # More than one round only when the job in the way was deleted before it could be read.
        missing = {place: job for place, job in enumerate(jobs) if place not in results}
        inserted = await _insert(conn, list(missing.values()))
        created = {place: job for place, job in missing.items() if job.job_id in inserted}
        await millrace_queue.enqueue(conn, [_entry(job) for job in created.values()])
        results |= {place: CreatedJob(job.job_id) for place, job in created.items()}
        results |= await _existing(
            conn, {place: job for place, job in missing.items() if place not in created}
        )
    return [results[place] for place in range(len(jobs))]


async def claim_jobs(
    conn: asyncpg.Connection,
    worker_id: UUID,
    capacity: Mapping[str, int],
    limit: int,
    *,
    cursor: ClaimCursor | None = None,
) -> list[ClaimedJob]:
    """Claim jobs for a registered worker, as `millrace_queue.claim` does, and mark them as processing.

    Progress and the error of the attempt before are cleared.
    """
    claims = await millrace_queue.claim(conn, worker_id, capacity, limit, cursor=cursor)
    if not claims:
        return []
    ids = [claim.id for claim in claims]
    rows = await conn.fetch(job_statements.START_JOBS, ids, [claim.attempt for claim in claims])
    jobs = {row["job_id"]: row for row in rows}
    await _drop_strays(conn, [claim.lease for claim in claims if claim.id not in jobs])
    return [_claimed(claim, jobs[claim.id]) for claim in claims if claim.id in jobs]


async def complete_jobs(conn: asyncpg.Connection, results: Sequence[tuple[Lease, str | None]]) -> set[UUID]:
    """Complete jobs with their outputs, JSON text that Postgres can store or None.

    A job whose cancellation was requested meanwhile is completed all the same.

    Returns:
        The ids that were accepted. The leases of the others had been lost, and nothing changed.

    """
    accepted = await millrace_queue.complete(conn, [lease for lease, _ in results])
    if accepted:
        done = [(lease.id, output) for lease, output in results if lease.id in accepted]
        await conn.execute(
            job_statements.COMPLETE_JOBS, [id_ for id_, _ in done], [output for _, output in done]
        )
    return accepted


async def fail_jobs(conn: asyncpg.Connection, failures: Sequence[JobFailure]) -> dict[UUID, Settled]:
    """End attempts that failed, keeping their errors: jobs wait for the next attempt, or fail for good.

    A job whose cancellation was requested is cancelled instead, without an error.

    Returns:
        What became of each job, by its id.

    """
    outcomes = await millrace_queue.fail(
        conn, [Failure(failure.lease.id, failure.lease.fence, failure.retry_delay) for failure in failures]
    )
    settled = {id_: outcome.settled for id_, outcome in outcomes.items()}
    await _cancel(conn, [id_ for id_, outcome in settled.items() if outcome is Settled.CANCELLED])
    changes = [
        _Failed(
            id_=failure.lease.id,
            final=settled[failure.lease.id] is Settled.FAILED,
            run_at=outcomes[failure.lease.id].run_at,
            code=failure.code,
            message=failure.message,
            retryable=failure.retryable,
        )
        for failure in failures
        if settled[failure.lease.id] in (Settled.FAILED, Settled.RETRYING)
    ]
    await _fail(conn, changes)
    return settled


async def cancelled_jobs(conn: asyncpg.Connection, leases: Sequence[Lease]) -> set[UUID]:
    """Mark jobs as cancelled whose handler stopped because that was requested.

    Returns:
        The ids that were accepted. Of the others the lease had been lost, or nobody had requested a cancellation.

    """
    accepted = await millrace_queue.settle_cancelled(conn, leases)
    await _cancel(conn, accepted)
    return accepted


async def hand_back_jobs(conn: asyncpg.Connection, leases: Sequence[Lease]) -> dict[UUID, HandBack]:
    """Give jobs back as if they had not been claimed: pending again, without the attempt.

    Returns:
        What became of each job, by its id.

    """
    outcomes = await millrace_queue.hand_back(conn, leases)
    ready = [id_ for id_, outcome in outcomes.items() if outcome is HandBack.READY]
    if ready:
        await conn.execute(job_statements.HAND_BACK_JOBS, ready)
    await _cancel(conn, [id_ for id_, outcome in outcomes.items() if outcome is HandBack.CANCELLED])
    return outcomes


async def rescue_jobs(conn: asyncpg.Connection, *, limit: int) -> list[Rescued]:
    """Take the jobs of lost workers back, at most `limit`, with the error WORKER_LOST.

    They are pending again, failed when their attempts are used up, or cancelled when that was requested.
    """
    rescued = await millrace_queue.rescue(conn, limit=limit)
    await _cancel(conn, [entry.id for entry in rescued if entry.outcome is Rescue.CANCELLED])
    changes = [
        _Failed(
            id_=entry.id,
            final=entry.outcome is Rescue.EXHAUSTED,
            run_at=None,
            code=WORKER_LOST,
            message=_WORKER_LOST_MESSAGE,
            retryable=True,
        )
        for entry in rescued
        if entry.outcome is not Rescue.CANCELLED
    ]
    await _fail(conn, changes)
    return rescued


async def report_progress(conn: asyncpg.Connection, reports: Sequence[ProgressReport]) -> set[UUID]:
    """Write how far running jobs are.

    Returns:
        The ids that were accepted. The leases of the others had been lost, and nothing changed.

    """
    accepted = await millrace_queue.confirm(conn, [report.lease for report in reports])
    await _report_progress(conn, [report for report in reports if report.lease.id in accepted])
    return accepted


async def report_progress_where_free(
    conn: asyncpg.Connection, reports: Sequence[ProgressReport]
) -> dict[UUID, bool]:
    """Write how far running jobs are, as `report_progress` does, but wait for nobody.

    A handler may hold its own job's entry for long, in a transaction in which it has confirmed its lease.

    Returns:
        The ids whose leases hold. True: it is written. False: somebody else has the job locked just now.

    """
    held = await millrace_queue.confirm_free(conn, [report.lease for report in reports])
    await _report_progress(conn, [report for report in reports if held.get(report.lease.id)])
    return held


async def cancel_job(conn: asyncpg.Connection, org_id: str, job_id: UUID) -> CancelledJob:
    """Cancel a job of an organisation: a waiting one at once, of a running one it is requested."""
    for _ in range(_CANCEL_TRIES):
        status = await conn.fetchval(job_statements.GET_STATUS, job_id, org_id)
        if status is None:
            return CancelledJob(Cancellation.NOT_FOUND)
        if status in FINAL_STATUSES:
            cancelled = status == "cancelled"
            return CancelledJob(Cancellation.CANCELLED if cancelled else Cancellation.FINISHED, status)
        entry = (await millrace_queue.cancel(conn, [job_id])).get(job_id)
        if entry is None:
            continue
        if entry.removed:
            await _cancel(conn, [job_id])
            return CancelledJob(Cancellation.CANCELLED, "cancelled")
        await conn.execute(job_statements.REQUEST_CANCELLATION, job_id)
        return CancelledJob(Cancellation.CANCELLING, "cancelling", entry.worker_id, entry.worker_details)
    raise RuntimeError(f"job {job_id} is {status} and has no queue entry")


async def retry_job(conn: asyncpg.Connection, org_id: str, job_id: UUID, further_attempts: int) -> RetriedJob:
    """Make a failed or cancelled job pending again, with so many attempts more than it has used.

    Its attempts go on counting, and its error is kept until the next one starts.
    """
    row = await conn.fetchrow(job_statements.RETRY_JOB, job_id, org_id, further_attempts)
    if row is None:
        status = await conn.fetchval(job_statements.GET_STATUS, job_id, org_id)
        return RetriedJob(Retry.NOT_FOUND) if status is None else RetriedJob(Retry.WRONG_STATUS, status)
    entry = NewEntry(
        id=job_id,
        type=row["type"],
        tenant=org_id,
        max_attempts=row["max_attempts"],
        priority=row["priority"],
        attempt=row["attempt"],
    )
    await millrace_queue.enqueue(conn, [entry])
    return RetriedJob(Retry.RETRIED, "pending", row["type"])


@dataclass(frozen=True, slots=True)
class _Failed:
    id_: UUID
    final: bool
    run_at: datetime | None
    code: str
    message: str
    retryable: bool


async def _insert(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> set[UUID]:
    rows = await conn.fetch(
        job_statements.INSERT_JOBS,
        [job.job_id for job in jobs],
        [job.org_id for job in jobs],
        [job.type for job in jobs],
        [job.input_json for job in jobs],
        [job.metadata_json for job in jobs],
        [job.created_by for job in jobs],
        [job.max_attempts for job in jobs],
        [job.priority for job in jobs],
        [job.run_at for job in jobs],
        [job.schedule_id for job in jobs],
        [job.request_id for job in jobs],
    )
    return {row["job_id"] for row in rows}


async def _existing(conn: asyncpg.Connection, jobs: Mapping[int, NewJob]) -> dict[int, CreatedJob]:
    if not jobs:
        return {}
    rows = await conn.fetch(
        job_statements.FIND_BY_REQUEST,
        list(jobs),
        [job.org_id for job in jobs.values()],
        [job.request_id for job in jobs.values()],
        [job.type for job in jobs.values()],
        [job.input_json for job in jobs.values()],
    )
    return {
        row["place"]: CreatedJob(row["job_id"], already_existed=True, conflict=row["conflict"])
        for row in rows
    }


async def _report_progress(conn: asyncpg.Connection, held: Sequence[ProgressReport]) -> None:
    if held:
        await conn.execute(
            job_statements.REPORT_PROGRESS,
            [report.lease.id for report in held],
            [report.progress for report in held],
            [None if report.message is None else _storable(report.message) for report in held],
            [report.total_items for report in held],
            [report.processed_items for report in held],
        )


async def _drop_strays(conn: asyncpg.Connection, leases: Sequence[Lease]) -> None:
    """Remove entries without a job, whose rows somebody deleted by hand: they must not stop a worker's claims."""
    if leases:
        _logger.error(
            "Queue entries without a job were dropped: %s", ", ".join(str(lease.id) for lease in leases)
        )
        await millrace_queue.complete(conn, leases)


async def _cancel(conn: asyncpg.Connection, ids: Iterable[UUID]) -> None:
    cancelled = list(ids)
    if cancelled:
        await conn.execute(job_statements.CANCEL_JOBS, cancelled)


async def _fail(conn: asyncpg.Connection, changes: Sequence[_Failed]) -> None:
    if not changes:
        return
    await conn.execute(
        job_statements.FAIL_JOBS,
        [change.id_ for change in changes],
        ["failed" if change.final else "pending" for change in changes],
        [change.run_at for change in changes],
        [_storable(change.code) for change in changes],
        [_storable(change.message) for change in changes],
        [change.retryable for change in changes],
    )


def _entry(job: NewJob) -> NewEntry:
    return NewEntry(job.job_id, job.type, job.org_id, job.max_attempts, job.priority, job.run_at)


def _claimed(claim: Claim, row: asyncpg.Record) -> ClaimedJob:
    return ClaimedJob(claim, row["org_id"], row["input_json"], row["metadata_json"], row["created_by"])


def _storable(text: str) -> str:
    """Return text that Postgres can hold: one message it refuses would fail all that are written with it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()

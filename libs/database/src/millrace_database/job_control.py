"""What people ask of a job that exists: to cancel it, to try it again."""

from datetime import timedelta
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.job_changes import Cancellation, CancelledJob, RetriedJob, Retry
from millrace_database.job_entries import job_entry
from millrace_database.job_options import JobOptions
from millrace_database.subscription_events import create_events
from millrace_database.tables import FINAL_STATUSES

# Between two statements a job may finish and be retried. Often in a row that does not happen.
_CANCEL_TRIES = 5

_LIMIT_WAITING = "SELECT set_config('lock_timeout', $1::text, true)"


class JobLockedError(Exception):
    """Somebody else's transaction has the job locked, and did not end in time."""


async def cancel_job_soon(
    conn: asyncpg.Connection, org_id: str, job_id: UUID, *, patience: timedelta
) -> CancelledJob:
    """Cancel a job, as `cancel_job` does, and wait no longer than `patience` for whoever has it locked.

    From then on no statement of the caller's transaction waits longer for a lock. `patience` is at least a millisecond.

    Raises:
        JobLockedError: nothing changed, and the transaction is to be rolled back.

    """
    await conn.execute(_LIMIT_WAITING, f"{round(patience.total_seconds() * 1000)}ms")
    try:
        return await cancel_job(conn, org_id, job_id)
    except asyncpg.LockNotAvailableError as error:
        raise JobLockedError(f"job {job_id} is locked by another transaction") from error


async def cancel_job(conn: asyncpg.Connection, org_id: str, job_id: UUID) -> CancelledJob:
    """Cancel a job of an organisation: a waiting one at once, of a running one it is requested.

    Waits for whoever ends an attempt of it or changes it just now; not for a handler that has confirmed its lease.
    """
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
            events = await create_events(conn, await conn.fetch(job_statements.CANCEL_JOBS, [job_id]))
            return CancelledJob(Cancellation.CANCELLED, "cancelled", ended_type=entry.type, created=events)
        await conn.execute(job_statements.REQUEST_CANCELLATION, [job_id])
        return CancelledJob(Cancellation.CANCELLING, "cancelling", entry.worker_id, entry.worker_details)
    raise RuntimeError(f"job {job_id} is {status} and has no queue entry")


async def retry_job(conn: asyncpg.Connection, org_id: str, job_id: UUID, further_attempts: int) -> RetriedJob:
    """Make a failed or cancelled job pending again, with so many attempts more than it has used.

    Its attempts go on counting, and its error is kept until the next one starts. It takes its unique key again; if
    another job has it meanwhile, nothing changes. If the transaction that creates the other is still open, this one waits
    for its end.

    A pending job that waits for its time after an attempt failed is due at once instead, with the attempts it has left.
    """
    row = await conn.fetchrow(job_statements.LOCK_RETRYABLE_JOB, job_id, org_id)
    if row is None:
        if type_ := await _hasten(conn, org_id, job_id):
            return RetriedJob(Retry.RETRIED, "pending", type_)
        status = await conn.fetchval(job_statements.GET_STATUS, job_id, org_id)
        return RetriedJob(Retry.NOT_FOUND) if status is None else RetriedJob(Retry.WRONG_STATUS, status)
    entry = job_entry(
        job_id,
        org_id=org_id,
        type_=row["type"],
        priority=row["priority"],
        attempt=row["attempt"],
        max_attempts=row["attempt"] + further_attempts,
        options=JobOptions.from_json(row["options_json"]),
    )
    while not await millrace_queue.enqueue(conn, [entry]):
        # It may have gone meanwhile.
        if holder := (await millrace_queue.find_holders(conn, [entry])).get(job_id):
            return RetriedJob(Retry.KEY_TAKEN, row["status"], row["type"], holder.id)
    await conn.execute(job_statements.RETRY_JOB, job_id, entry.max_attempts)
    return RetriedJob(Retry.RETRIED, "pending", row["type"])


async def _hasten(conn: asyncpg.Connection, org_id: str, job_id: UUID) -> str | None:
    """Make a job due that waits for its next attempt after one failed, and return its type; None: it does not wait so."""
    type_: str | None = await conn.fetchval(job_statements.GET_WAITING_FAILED_TYPE, job_id, org_id)
    if type_ is None or not await millrace_queue.hasten(conn, job_id):
        return None
    await conn.execute(job_statements.HASTEN_JOB, job_id)
    return type_

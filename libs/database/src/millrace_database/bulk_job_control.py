"""What people ask of many jobs at once: to cancel them, to try them again."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

import millrace_queue
from millrace_database import job_statements
from millrace_database.job_entries import job_entry
from millrace_database.job_flow import JobCounts
from millrace_database.job_list_statement import JobFilters, oldest_ids_statement
from millrace_database.job_options import JobOptions
from millrace_database.job_types_repository import DEFAULT_MAX_ATTEMPTS
from millrace_database.subscription_events import create_events
from millrace_database.tables import jobs
from millrace_queue import NewEntry

# Finished jobs have no entries to lock. So that two who retry the same ones do not wait for each other in a circle, their
# rows are locked in the order of ids.
LOCK_RETRYABLE = """
SELECT job.*
FROM (SELECT id FROM unnest($1::uuid[]) AS wanted (id) ORDER BY id) AS wanted CROSS JOIN LATERAL (
    SELECT jobs.job_id, jobs.org_id, jobs.type, jobs.priority, jobs.attempt,
        CASE WHEN (jobs.options ->> 'deadline')::timestamptz <= now() THEN jobs.options - 'deadline' ELSE jobs.options END
            ::text AS options_json,
        jobs.attempt + coalesce(
            (SELECT job_types.max_attempts FROM job_types WHERE job_types.type = jobs.type), $3::integer
        ) AS max_attempts
    FROM jobs
    WHERE jobs.job_id = wanted.id AND jobs.status = ANY ($2::text[])
    FOR UPDATE
) AS job
"""

RETRY = """
UPDATE jobs
SET status = 'pending', completed_at = NULL, run_at = now(), max_attempts = retried.max_attempts,
    version = version + 1
FROM unnest($1::uuid[], $2::integer[]) AS retried (job_id, max_attempts)
WHERE jobs.job_id = retried.job_id
"""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that runs and is cancelled; `address` is where its worker is told so, if that is known."""

    org_id: str
    job_id: UUID
    address: str | None


@dataclass(frozen=True, slots=True)
class CancelledJobs:
    """What became of jobs that were to be cancelled.

    Attributes:
        cancelled: how many waited and are cancelled, by type and organisation.
        running: those that run, and whose workers are asked to stop them.
        locked: those that somebody else has locked just now; nothing changed, and they may be tried again.
        created: how many events of what is cancelled were created, by type and organisation.

    """

    cancelled: JobCounts
    running: Sequence[RunningJob]
    locked: Sequence[UUID]
    created: JobCounts


@dataclass(frozen=True, slots=True)
class RetriedJobs:
    """What became of jobs that were to be tried again.

    Attributes:
        retried: how many are pending again.
        conflicts: how many stay as they are because another job has their unique key.
        types: the types of those that are pending again.

    """

    retried: int
    conflicts: int
    types: Collection[str]


async def find_oldest_jobs(
    session: AsyncConnection, filters: JobFilters, after: UUID | None, limit: int
) -> list[UUID]:
    """Return the ids of jobs, the oldest first: at most `limit` of those behind `after`, a SQLAlchemy connection given."""
    return list(await session.scalars(oldest_ids_statement(filters, after, limit)))


async def count_oldest_jobs(session: AsyncConnection, filters: JobFilters, limit: int) -> tuple[int, int]:
    """Return how many jobs match, at most `limit`, and how many of these run."""
    found = oldest_ids_statement(filters, None, limit).cte("found")
    counts = select(
        func.count(), func.count(case((jobs.c.status.in_(("processing", "cancelling")), 1)))
    ).select_from(found.join(jobs, jobs.c.job_id == found.c.job_id))
    matching, running = (await session.execute(counts)).one()
    return matching, running


async def cancel_jobs(conn: asyncpg.Connection, ids: Sequence[UUID]) -> CancelledJobs:
    """Cancel jobs: waiting ones at once, of running ones it is requested; those that are finished stay as they are.

    Waits for nobody who has an entry locked.
    """
    entries = await millrace_queue.cancel_free(conn, ids)
    removed = {id_: entry for id_, entry in entries.items() if entry and entry.removed}
    ended = await conn.fetch(job_statements.CANCEL_JOBS, list(removed)) if removed else []
    created = await create_events(conn, ended)
    held = {id_: entry for id_, entry in entries.items() if entry and not entry.removed}
    rows = await conn.fetch(job_statements.REQUEST_CANCELLATION, list(held)) if held else []
    return CancelledJobs(
        Counter((entry.type, entry.tenant) for entry in removed.values()),
        [RunningJob(org_id, id_, (held[id_].worker_details or {}).get("address")) for id_, org_id in rows],
        [id_ for id_, entry in entries.items() if entry is None],
        created,
    )


async def retry_jobs(conn: asyncpg.Connection, ids: Sequence[UUID], statuses: Sequence[str]) -> RetriedJobs:
    """Make jobs pending again that have one of the `statuses`, failed or cancelled.

    Each has as many attempts more as its type gives, or `DEFAULT_MAX_ATTEMPTS` if nobody has published its type.
    """
    rows = await conn.fetch(LOCK_RETRYABLE, ids, statuses, DEFAULT_MAX_ATTEMPTS)
    enqueued = await millrace_queue.enqueue(conn, [_entry(row) for row in rows])
    retried = [row for row in rows if row["job_id"] in enqueued]
    if retried:
        await conn.execute(
            RETRY,
            [row["job_id"] for row in retried],
            [row["max_attempts"] for row in retried],
        )
    return RetriedJobs(len(retried), len(rows) - len(retried), {row["type"] for row in retried})


def _entry(row: asyncpg.Record) -> NewEntry:
    return job_entry(
        row["job_id"],
        org_id=row["org_id"],
        type_=row["type"],
        max_attempts=row["max_attempts"],
        priority=row["priority"],
        attempt=row["attempt"],
        options=JobOptions.from_json(row["options_json"]),
    )

"""Reading the attempts of a job: how they ended, and how many in which way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

# The latest attempt is told by the row of the job while it runs, and when it completed. A completed one has no fence
# left; it comes before all others.
_LIST = """
WITH latest AS (
    SELECT jobs.job_id, coalesce(queue.fence, 9223372036854775807) AS fence, jobs.attempt,
        CASE WHEN jobs.status = 'completed' THEN 'completed' ELSE 'running' END AS outcome, jobs.started_at,
        jobs.completed_at AS ended_at, jobs.worker_id, coalesce(queue_workers.details ->> 'name', '') AS worker_name,
        NULL AS error_code, NULL AS error_message
    FROM jobs
    LEFT JOIN queue ON queue.id = jobs.job_id
    LEFT JOIN queue_workers ON queue_workers.worker_id = jobs.worker_id
    WHERE jobs.job_id = $1::uuid AND jobs.status IN ('processing', 'cancelling', 'completed')
), attempts AS (
    SELECT * FROM latest
    UNION ALL
    SELECT job_id, fence, attempt, outcome, started_at, ended_at, worker_id, worker_name, error_code, error_message
    FROM job_attempts
    WHERE job_id = $1::uuid
)
SELECT attempt, outcome, started_at, ended_at, worker_id, worker_name, error_code, error_message, fence AS position
FROM attempts
WHERE EXISTS (SELECT FROM jobs WHERE job_id = $1::uuid AND ($2::text IS NULL OR org_id = $2::text))
    AND ($3::bigint IS NULL OR fence < $3::bigint)
ORDER BY fence DESC
LIMIT $4::integer
"""

_COUNT = """
SELECT outcome, count(*) FROM job_attempts
WHERE job_id = $1::uuid
    AND EXISTS (SELECT FROM jobs WHERE jobs.job_id = $1::uuid AND ($2::text IS NULL OR org_id = $2::text))
GROUP BY outcome
UNION ALL
SELECT status, 1 FROM jobs
WHERE job_id = $1::uuid AND ($2::text IS NULL OR org_id = $2::text) AND status = 'completed'
"""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt to run a job; times are the database's.

    Attributes:
        attempt: its number, from 1. One that did not count has the same number as the one that followed it.
        outcome: "running", "completed", or one of `tables.ATTEMPT_OUTCOMES`.
        started_at: when it was claimed.
        ended_at: None while it runs.
        worker_id: the worker that ran it.
        worker_name: its host and process; empty when that is not known any more.
        error_code: why it did not complete the job, for programs; None: it has no error.
        error_message: the same for people.
        position: where it stands in the list, to go on behind it.

    """

    attempt: int
    outcome: str
    started_at: datetime | None
    ended_at: datetime | None
    worker_id: UUID | None
    worker_name: str
    error_code: str | None
    error_message: str | None
    position: int


async def list_attempts(
    conn: asyncpg.Connection, org_id: str | None, job_id: UUID, after: int | None, limit: int
) -> list[AttemptRecord]:
    """Return the attempts of a job, the latest first; none when the organisation has no such job.

    Args:
        conn: an open connection.
        org_id: whose job it is; None: anybody's.
        job_id: the job.
        after: the last `position` of the page before; None: from the latest.
        limit: how many at most.

    """
    return [AttemptRecord(**row) for row in await conn.fetch(_LIST, job_id, org_id, after, limit)]


async def count_attempts(conn: asyncpg.Connection, org_id: str | None, job_id: UUID) -> Mapping[str, int]:
    """Return how many attempts of a job ended in which way; 0 of those that are missing."""
    return {row[0]: row[1] for row in await conn.fetch(_COUNT, job_id, org_id)}

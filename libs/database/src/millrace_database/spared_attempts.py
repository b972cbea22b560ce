"""Attempts that did not count because something that their jobs need was away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

# $1 jobs, $2 an error code. What a worker handed back because it stopped says nothing of what is away. A job that is tried again
# after it was cancelled, or after its deadline, has the attempts of its earlier entry still.
_READ = """
SELECT job.job_id, spared.*
FROM unnest($1::uuid[]) AS job (job_id) CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT fence
        FROM job_attempts
        WHERE job_attempts.job_id = job.job_id AND outcome <> 'handed_back'
            AND (outcome <> 'snoozed' OR error_code IS DISTINCT FROM $2::text)
        ORDER BY fence DESC
        LIMIT 1
    ), 0) AS fence, (SELECT enqueued_at FROM queue WHERE queue.id = job.job_id LIMIT 1) AS enqueued_at
) AS other CROSS JOIN LATERAL (
    SELECT count(*)::integer AS count, now() - min(ended_at) AS since
    FROM job_attempts
    WHERE job_attempts.job_id = job.job_id AND job_attempts.fence > other.fence AND outcome = 'snoozed'
        AND ended_at >= other.enqueued_at
) AS spared
WHERE spared.count > 0
"""


@dataclass(frozen=True, slots=True)
class SparedAttempts:
    """The latest attempts of a job in a row that did not count: how many, and how long ago the first of them ended."""

    count: int
    since: timedelta


async def read_spared_attempts(
    conn: asyncpg.Connection, job_ids: Sequence[UUID], error_code: str
) -> Mapping[UUID, SparedAttempts]:
    """Return the attempts that did not count because of an error, up to the latest one that ended otherwise.

    Those that were handed back are passed over, and those from before a job was last retried. Jobs that have none are missing. As long as the caller's claim of a job
    holds, the answer does not change.
    """
    rows = await conn.fetch(_READ, job_ids, error_code)
    return {row["job_id"]: SparedAttempts(row["count"], row["since"]) for row in rows}

"""Dead letters: jobs made for others that failed for good."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from millrace_database.follow_up_jobs import enqueue_follow_up_jobs
from millrace_database.ids import new_id
from millrace_database.job_flow import JobCounts
from millrace_database.job_types_repository import DEFAULT_MAX_ATTEMPTS

# $1 the jobs that failed, $2 the ids of their dead letters, $3 the attempts of those whose type nobody has published. What
# a dead letter was made for, and what that was made for, goes before it: none of them, nor itself, is of a type that
# its own dead letter has, or they would go on without end.
_INSERT = """
WITH RECURSIVE failed AS MATERIALIZED (
    SELECT jobs.*, given.dead_letter_id, wanted.dead_letter_type
    FROM unnest($1::uuid[], $2::uuid[]) AS given (job_id, dead_letter_id)
    JOIN jobs ON jobs.job_id = ANY (ARRAY[given.job_id])
    LEFT JOIN job_types ON job_types.type = jobs.type
    CROSS JOIN LATERAL (
        SELECT coalesce(
            jobs.options ->> 'dead_letter_type', job_types.overrides ->> 'dead_letter_type',
            job_types.options ->> 'dead_letter_type'
        ) AS dead_letter_type
    ) AS wanted
    WHERE wanted.dead_letter_type IS NOT NULL
), cause AS (
    SELECT dead_letter_id, type, parent_job_id FROM failed
    UNION ALL
    SELECT cause.dead_letter_id, jobs.type, jobs.parent_job_id
    FROM cause JOIN jobs ON jobs.job_id = ANY (ARRAY[cause.parent_job_id])
)
INSERT INTO jobs (job_id, org_id, type, input, created_by, max_attempts, parent_job_id)
SELECT failed.dead_letter_id, failed.org_id, failed.dead_letter_type,
    jsonb_build_object(
        'job_id', 'job_' || translate(failed.job_id::text, '-', ''), 'type', failed.type, 'input', failed.input,
        'metadata', failed.metadata, 'attempts', failed.attempt,
        'error', jsonb_build_object('code', failed.error_code, 'message', failed.error_message)
    ),
    failed.created_by, coalesce(job_types.max_attempts, $3::integer), failed.job_id
FROM failed LEFT JOIN job_types ON job_types.type = failed.dead_letter_type
WHERE NOT EXISTS (
    SELECT FROM cause
    WHERE cause.dead_letter_id = failed.dead_letter_id AND cause.type = failed.dead_letter_type
)
RETURNING job_id, org_id, type, max_attempts, priority, options::text AS options_json
"""


async def create_dead_letters(conn: asyncpg.Connection, failed: Sequence[UUID]) -> JobCounts:
    """Create the dead letters of jobs that failed for good, in the transaction in which they did, after they were changed.

    Returns:
        How many were created, by type and organisation.

    """
    if not failed:
        return Counter()
    rows = await conn.fetch(_INSERT, failed, [new_id() for _ in failed], DEFAULT_MAX_ATTEMPTS)
    return await enqueue_follow_up_jobs(conn, rows)

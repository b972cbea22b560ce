"""Deliveries: jobs made for others that ended, to send their results where their schedules say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from millrace_database.follow_up_jobs import enqueue_follow_up_jobs
from millrace_database.ids import new_id
from millrace_database.job_flow import JobCounts
from millrace_database.job_types_repository import DEFAULT_MAX_ATTEMPTS

EVENT_TYPE = "deliveries:event"
"""Jobs of this type post an event to a subscription."""
NOTICE_TYPE = "deliveries:notice"
"""Jobs of this type tell people that a subscription has been disabled."""
DELIVERY_TYPES = frozenset(
    {"deliveries:webhook", "deliveries:email", "deliveries:storage", EVENT_TYPE, NOTICE_TYPE}
)
"""The types of jobs that the system alone makes, because something has ended. They have no events themselves."""

# $1 jobs that have just completed, or failed for good, $2 the ids of their deliveries, $3 the attempts of those whose type nobody
# has published. The input names the job and nothing else: where its result goes, and with which secret, is read from
# the schedule when it is sent, since whoever may read jobs may read their inputs.
#
# LIMIT keeps the look for a job apart from what follows. Of a join that wants a schedule_id the planner knows that jobs_by_schedule
# has all such jobs, and may go through all of them.
CREATE_DELIVERIES = """
WITH ended AS MATERIALIZED (
    SELECT job.job_id, job.org_id, job.created_by, given.delivery_id, 'deliveries:' || method.name AS type
    FROM unnest($1::uuid[], $2::uuid[]) AS given (job_id, delivery_id)
    CROSS JOIN LATERAL (
        SELECT job_id, org_id, created_by, status, options, schedule_id FROM jobs WHERE jobs.job_id = given.job_id LIMIT 1
    ) AS job
    CROSS JOIN LATERAL (
        SELECT org_id, delivery FROM scheduled_jobs WHERE scheduled_jobs.schedule_id = job.schedule_id LIMIT 1
    ) AS schedule
    JOIN unnest(ARRAY['webhook', 'email', 'storage']) AS method (name) ON schedule.delivery ? method.name
    WHERE job.options @> '{"delivers": true}' AND schedule.org_id = job.org_id
        AND (
            job.status = 'completed'
            OR (schedule.delivery @> '{"on_failure": true}' AND method.name <> 'storage')
        )
)
INSERT INTO jobs (job_id, org_id, type, input, created_by, max_attempts, parent_job_id)
SELECT ended.delivery_id, ended.org_id, ended.type,
    jsonb_build_object('job_id', 'job_' || translate(ended.job_id::text, '-', '')),
    ended.created_by, coalesce(job_types.max_attempts, $3::integer), ended.job_id
FROM ended LEFT JOIN job_types ON job_types.type = ended.type
RETURNING job_id, org_id, type, max_attempts, priority, options::text AS options_json
"""

# A delivery is as old as the end that it was made for.
_GET = """
SELECT jobs.job_id, jobs.org_id, jobs.type, jobs.status, jobs.output::text AS output_json,
    jobs.output ->> 'file_id' AS file_id, jobs.error_code,
    jobs.error_message, jobs.completed_at, jobs.metadata ->> 'scheduled_time' AS scheduled_time, jobs.schedule_id,
    scheduled_jobs.name AS schedule_name, scheduled_jobs.delivery::text AS delivery_json,
    coalesce(jobs.completed_at > (SELECT created_at FROM jobs WHERE job_id = $3::uuid), false) AS ended_again
FROM jobs JOIN scheduled_jobs USING (schedule_id, org_id)
WHERE jobs.job_id = $1::uuid AND jobs.org_id = $2::text AND scheduled_jobs.delivery IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a job came to, and where its schedule has that delivered.

    Attributes:
        job_id: the job.
        org_id: its organisation.
        type: its type.
        status: its status.
        output_json: the JSON text of its output; None: it has none.
        file_id: what its output says of that, as text, which may be anything; None: nothing.
        error_code: why it failed, for programs; None: it did not.
        error_message: the same for people.
        completed_at: when it ended; None: it has not.
        scheduled_time: the time of the schedule that it was made for, in RFC 3339; None: its metadata does not tell.
        schedule_id: its schedule.
        schedule_name: the name of that.
        ended_again: the job has been retried and has ended again since the delivery that asks was made.
        delivery_json: the Delivery message of the schedule as JSON, its secret included: for no log and no output.

    """

    job_id: UUID
    org_id: str
    type: str
    status: str
    output_json: str | None
    file_id: str | None
    error_code: str | None
    error_message: str | None
    completed_at: datetime | None
    scheduled_time: str | None
    schedule_id: UUID
    schedule_name: str
    delivery_json: str
    ended_again: bool


async def create_deliveries(conn: asyncpg.Connection, ended: Sequence[UUID]) -> JobCounts:
    """Create the deliveries of jobs that completed, or failed for good, in the transaction in which they did, after they were changed.

    Those whose creator did not say that they deliver have none, nor have those whose schedule says nothing of it.

    Returns:
        How many were created, by type and organisation.

    """
    if not ended:
        return Counter()
    rows = await conn.fetch(CREATE_DELIVERIES, ended, [new_id() for _ in ended], DEFAULT_MAX_ATTEMPTS)
    return await enqueue_follow_up_jobs(conn, rows)


async def get_result(
    conn: asyncpg.Connection, org_id: str, job_id: UUID, *, delivery_id: UUID
) -> Result | None:
    """Return what a job of an organisation came to, for one of its deliveries.

    None: there is no such job, or its schedule delivers nothing.
    """
    row = await conn.fetchrow(_GET, job_id, org_id, delivery_id)
    return None if row is None else Result(**row)

"""What became of the times of schedules: recorded by callers, read with the jobs, and removed when it is old.

What became of the times that were fired, or were not, is recorded by `firing_repository`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

RUNS_KEPT = timedelta(days=90)
"""How long runs are kept, and a deleted schedule."""

_RECORD_FIRED = """
INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome, job_id)
SELECT $1::uuid, time, $2::text, 'fired', job_id
FROM unnest($3::timestamptz[], $4::uuid[]) AS run (time, job_id)
ORDER BY time
ON CONFLICT DO NOTHING
"""

_KEPT = "SELECT EXISTS (SELECT FROM scheduled_jobs WHERE schedule_id = $1::uuid AND org_id = $2::text)"

# The index of the primary key read backwards: its first rows are the page.
LIST = """
SELECT run.scheduled_time, run.cause, run.outcome, run.recorded_at, run.job_id, run.reason, jobs.status AS job_status,
    jobs.error_code, jobs.error_message, jobs.error_retryable
FROM (
    SELECT * FROM schedule_runs
    WHERE schedule_id = $1::uuid
        AND (scheduled_time, cause) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    ORDER BY scheduled_time DESC, cause DESC
    LIMIT $4::integer
) AS run LEFT JOIN jobs ON jobs.job_id = run.job_id
ORDER BY run.scheduled_time DESC, run.cause DESC
"""

# A time may have been fired, and asked for as well.
_FIRED_AT = """
SELECT DISTINCT ON (run.scheduled_time)
    run.scheduled_time, run.cause, run.outcome, run.recorded_at, run.job_id, run.reason, jobs.status AS job_status,
    jobs.error_code, jobs.error_message, jobs.error_retryable
FROM schedule_runs AS run LEFT JOIN jobs ON jobs.job_id = run.job_id
WHERE run.schedule_id = $1::uuid AND run.scheduled_time = ANY ($2::timestamptz[])
    AND run.cause IN ('schedule', 'backfill') AND run.outcome = 'fired' AND run.job_id IS NOT NULL
ORDER BY run.scheduled_time, run.cause DESC
"""

REMOVE_OLD_RUNS = """
WITH old AS MATERIALIZED (
    SELECT schedule_id, scheduled_time, cause
    FROM schedule_runs
    WHERE recorded_at < now() - $1::interval
    ORDER BY recorded_at
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM schedule_runs USING old
WHERE schedule_runs.schedule_id = old.schedule_id AND schedule_runs.scheduled_time = old.scheduled_time
    AND schedule_runs.cause = old.cause
"""

# With its last run: the removal of many more at once would take long.
_REMOVE_DELETED = """
WITH gone AS MATERIALIZED (
    SELECT schedule_id
    FROM scheduled_jobs
    WHERE deleted_at < now() - $1::interval
        AND NOT EXISTS (SELECT FROM schedule_runs AS run WHERE run.schedule_id = scheduled_jobs.schedule_id)
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM scheduled_jobs WHERE schedule_id = ANY (ARRAY(SELECT schedule_id FROM gone))
"""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What became of one time of a schedule; the last four tell of its job, as far as it is still kept."""

    scheduled_time: datetime
    cause: str
    outcome: str
    recorded_at: datetime
    job_id: UUID | None
    reason: str
    job_status: str | None
    error_code: str | None
    error_message: str | None
    error_retryable: bool | None


async def record_fired_runs(
    conn: asyncpg.Connection, schedule_id: UUID, cause: str, jobs: Mapping[datetime, UUID]
) -> None:
    """Record the jobs that were created for times of a schedule for another cause than that they came.

    What is recorded already stays as it is.
    """
    await conn.execute(_RECORD_FIRED, schedule_id, cause, list(jobs), list(jobs.values()))


async def has_runs_kept(conn: asyncpg.Connection, org_id: str, schedule_id: UUID) -> bool:
    """Return whether there is such a schedule, or was: its runs are kept for a while after it was deleted."""
    kept: bool = await conn.fetchval(_KEPT, schedule_id, org_id)
    return kept


async def list_runs(
    conn: asyncpg.Connection, schedule_id: UUID, after: tuple[datetime, str] | None, limit: int
) -> list[RunRecord]:
    """Return runs of a schedule, the latest time first; `after`: time and cause of the last one of the page before."""
    time, cause = after or (None, None)
    return [RunRecord(**row) for row in await conn.fetch(LIST, schedule_id, time, cause, limit)]


async def fired_at(
    conn: asyncpg.Connection, schedule_id: UUID, times: Sequence[datetime]
) -> dict[datetime, RunRecord]:
    """Return those of the times for which a job was created, because they came or by a backfill."""
    rows = await conn.fetch(_FIRED_AT, schedule_id, times)
    return {row["scheduled_time"]: RunRecord(**row) for row in rows}


async def remove_old_runs(conn: asyncpg.Connection, *, limit: int) -> int:
    """Remove up to `limit` runs that were recorded longer ago than `RUNS_KEPT`, and return how many there were."""
    return int((await conn.execute(REMOVE_OLD_RUNS, RUNS_KEPT, limit)).split()[1])


async def remove_deleted_schedules(conn: asyncpg.Connection, *, limit: int) -> int:
    """Remove up to `limit` schedules that were deleted longer ago than `RUNS_KEPT`, and return how many there were."""
    return int((await conn.execute(_REMOVE_DELETED, RUNS_KEPT, limit)).split()[1])

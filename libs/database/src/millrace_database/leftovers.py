"""What nobody needs any more, and what may lie about for a day: found and removed in batches."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from millrace_database.schedule_runs_repository import RUNS_KEPT
from millrace_database.system_schedules_repository import SYSTEM_TENANT, queue_type

_FIRST = UUID(int=0)

# Attempts go with their job, in the statement that removes it. Some stay nevertheless: an older release, a hand, an attempt
# that was written while its job was removed. Whatever waits or runs in the queue is not over, whether it has a record or not.
#
# Behind the place of $1 and $2, $3 rows; $4: remove nothing.
WALK_ATTEMPTS = """
WITH visited AS MATERIALIZED (
    SELECT job_id, fence
    FROM job_attempts
    WHERE (job_id, fence) > ($1::uuid, $2::bigint)
    ORDER BY job_id, fence
    LIMIT $3::integer
), orphans AS MATERIALIZED (
    SELECT job_id, fence
    FROM visited
    LEFT JOIN LATERAL (SELECT true AS found FROM jobs WHERE jobs.job_id = visited.job_id LIMIT 1) AS job ON true
    LEFT JOIN LATERAL (SELECT true AS found FROM queue WHERE queue.id = visited.job_id LIMIT 1) AS entry ON true
    WHERE job.found IS NULL AND entry.found IS NULL
), removed AS (
    DELETE FROM job_attempts USING orphans
    WHERE NOT $4::boolean AND job_attempts.job_id = ANY (ARRAY[orphans.job_id])
        AND job_attempts.fence = ANY (ARRAY[orphans.fence])
)
SELECT (SELECT count(*) FROM visited) AS visited, (SELECT count(*) FROM orphans) AS found, last.job_id, last.fence
FROM (SELECT) AS one
LEFT JOIN (SELECT job_id, fence FROM visited ORDER BY job_id DESC, fence DESC LIMIT 1) AS last ON true
"""

# A run that waits although nobody declares its schedule: it was given back when the row of its schedule was gone already.
# $1 the tenant of system runs, $2 what their types begin with.
_ABANDONED_RUN = """
tenant = $1::text AND state IN ('ready', 'scheduled') AND enqueued_at < now() - interval '1 day'
    AND NOT EXISTS (SELECT FROM system_schedules AS schedule WHERE $2::text || schedule.type = queue.type)
"""

COUNT_ABANDONED_RUNS = f"SELECT count(*) FROM queue WHERE state <> 'running' AND {_ABANDONED_RUN}"  # noqa: S608

REMOVE_ABANDONED_RUNS = f"""
WITH abandoned AS MATERIALIZED (
    SELECT id FROM queue WHERE state <> 'running' AND {_ABANDONED_RUN} ORDER BY id LIMIT $3::integer FOR UPDATE SKIP LOCKED
)
DELETE FROM queue WHERE id = ANY (ARRAY(SELECT id FROM abandoned))
"""  # noqa: S608 - put together of constants

# Deliveries have not been signed with it since. The table has as many rows as people made subscriptions.
_IS_OVER = "previous_secret IS NOT NULL AND previous_secret_until < now()"

COUNT_OLD_SECRETS = f"SELECT count(*) FROM job_subscriptions WHERE {_IS_OVER}"  # noqa: S608 - put together of constants

FORGET_OLD_SECRETS = f"""
WITH over AS MATERIALIZED (
    SELECT subscription_id
    FROM job_subscriptions
    WHERE {_IS_OVER}
    ORDER BY subscription_id
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE job_subscriptions SET previous_secret = NULL, previous_secret_until = NULL
WHERE subscription_id = ANY (ARRAY(SELECT subscription_id FROM over))
"""  # noqa: S608 - put together of constants

COUNT_OLD_RUNS = "SELECT count(*) FROM schedule_runs WHERE recorded_at < now() - $1::interval"

# With the runs that are old themselves, which go before them.
COUNT_DELETED_SCHEDULES = """
SELECT count(*)
FROM scheduled_jobs
WHERE deleted_at < now() - $1::interval AND NOT EXISTS (
    SELECT FROM schedule_runs AS run
    WHERE run.schedule_id = scheduled_jobs.schedule_id AND run.recorded_at >= now() - $1::interval
)
"""


@dataclass(frozen=True, slots=True)
class AttemptsWalk:
    """A batch of attempts: how many were looked at, how many belong to no job, and the place of the last one."""

    visited: int
    found: int
    last: tuple[UUID, int]


FIRST_ATTEMPT = (_FIRST, 0)
"""The place before all attempts."""


async def walk_attempts(
    conn: asyncpg.Connection, after: tuple[UUID, int], *, limit: int, dry_run: bool
) -> AttemptsWalk:
    """Look at up to `limit` attempts behind a place, and remove those whose job is gone. Fewer: there are no more."""
    (row,) = await conn.fetch(WALK_ATTEMPTS, *after, limit, dry_run)
    last = after if row["job_id"] is None else (row["job_id"], row["fence"])
    return AttemptsWalk(row["visited"], row["found"], last)


async def count_abandoned_runs(conn: asyncpg.Connection) -> int:
    """Return how many runs of system schedules have waited for a day although nobody knows their schedule."""
    return await _count(conn, COUNT_ABANDONED_RUNS, SYSTEM_TENANT, queue_type(""))


async def remove_abandoned_runs(conn: asyncpg.Connection, *, limit: int) -> int:
    """Remove up to `limit` of them, and return how many there were."""
    return await _changed(conn, REMOVE_ABANDONED_RUNS, SYSTEM_TENANT, queue_type(""), limit)


async def count_old_secrets(conn: asyncpg.Connection) -> int:
    """Return how many subscriptions have a previous secret that is good for nothing any more."""
    return await _count(conn, COUNT_OLD_SECRETS)


async def forget_old_secrets(conn: asyncpg.Connection, *, limit: int) -> int:
    """Forget up to `limit` of these secrets, and return how many there were."""
    return await _changed(conn, FORGET_OLD_SECRETS, limit)


async def count_old_runs(conn: asyncpg.Connection) -> int:
    """Return how many runs of schedules `remove_old_runs` would remove."""
    return await _count(conn, COUNT_OLD_RUNS, RUNS_KEPT)


async def count_deleted_schedules(conn: asyncpg.Connection) -> int:
    """Return how many schedules `remove_deleted_schedules` would remove once old runs are gone."""
    return await _count(conn, COUNT_DELETED_SCHEDULES, RUNS_KEPT)


async def _count(conn: asyncpg.Connection, statement: str, *arguments: object) -> int:
    count: int = await conn.fetchval(statement, *arguments)
    return count


async def _changed(conn: asyncpg.Connection, statement: str, *arguments: object) -> int:
    return int((await conn.execute(statement, *arguments)).split()[1])

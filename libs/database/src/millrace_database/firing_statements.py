"""The SQL statements of firing: what is due, what became of it, and which schedules have failed too often."""

from millrace_database.schedule_statements import with_columns

# Of the schedules that are due each organisation gets one, then each a second one, and so on; what it has under way
# counts. Those that make up for times of long ago come last among those of their organisation, as there may be a
# thousand of these.
#
# So many are looked at that several schedulers at once find enough which another has not just taken. The last
# condition of `taken` is looked at again under the lock.
RESERVE_DUE = with_columns("""
WITH due AS MATERIALIZED (
    SELECT schedule_id, org_id, next_run_at,
        catch_up_policy = 'run_all' AND next_run_at < now() - interval '1 minute' AS catches_up
    FROM scheduled_jobs
    WHERE NOT paused AND next_run_at IS NOT NULL AND next_run_at <= now()
        AND (reserved_until IS NULL OR reserved_until <= now())
    ORDER BY next_run_at
    LIMIT $3::integer
), busy AS MATERIALIZED (
    SELECT org_id, count(*) AS places FROM unnest($4::text[]) AS busy (org_id) GROUP BY org_id
), ranked AS MATERIALIZED (
    SELECT schedule_id, next_run_at,
        coalesce(places, 0)
            + row_number() OVER (PARTITION BY org_id ORDER BY catches_up, next_run_at, schedule_id) AS rank
    FROM due LEFT JOIN busy USING (org_id)
    ORDER BY rank, next_run_at, schedule_id
    LIMIT 4 * $2::integer
), taken AS MATERIALIZED (
    SELECT scheduled_jobs.schedule_id AS due_id, ranked.rank, scheduled_jobs.reserved_until IS NOT NULL AS tried_before
    FROM ranked JOIN scheduled_jobs USING (schedule_id)
    WHERE NOT scheduled_jobs.paused AND scheduled_jobs.deleted_at IS NULL AND scheduled_jobs.next_run_at <= now()
        AND (scheduled_jobs.reserved_until IS NULL OR scheduled_jobs.reserved_until <= now())
    ORDER BY ranked.rank, ranked.next_run_at, ranked.schedule_id
    LIMIT $2::integer
    FOR NO KEY UPDATE OF scheduled_jobs SKIP LOCKED
), reserved AS (
    UPDATE scheduled_jobs SET reserved_until = now() + $1::interval
    FROM taken
    WHERE schedule_id = due_id
    RETURNING taken.rank, taken.tried_before, <columns>
)
SELECT * FROM reserved ORDER BY rank, next_run_at, schedule_id
""")

# What is reserved is due: it comes back when its reservation ends.
SECONDS_UNTIL_DUE = """
SELECT greatest(extract(epoch FROM due_at - now()), 0)::double precision
FROM (
    SELECT least(
        (
            SELECT next_run_at FROM scheduled_jobs
            WHERE NOT paused AND next_run_at IS NOT NULL AND (reserved_until IS NULL OR reserved_until <= now())
            ORDER BY next_run_at
            LIMIT 1
        ),
        (
            SELECT min(reserved_until) FROM scheduled_jobs
            WHERE NOT paused AND next_run_at <= now() AND reserved_until > now()
        )
    ) AS due_at
) AS next
WHERE due_at IS NOT NULL
"""

# A job that was created is recorded even when its schedule was changed or deleted in the meantime. Everything else is
# true only of a schedule that is still at the time it was decided for. It may have got a shorter jitter and be there
# all the same: then the next time is not later than that allows.
RECORD = """
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::uuid[], $6::text[], $7::text[],
        $8::timestamptz[], $9::timestamptz[], $10::integer[], $11::interval[]
    ) AS given (
        schedule_id, due_at, scheduled_time, outcome, job_id, reason, pause_reason,
        upcoming_at, upcoming_scheduled, missed, retry_delay
    )
), kept AS MATERIALIZED (
    SELECT scheduled_jobs.schedule_id AS kept_id,
        scheduled_jobs.next_run_at IS NOT DISTINCT FROM given.due_at AS is_there
    FROM given JOIN scheduled_jobs USING (schedule_id)
    ORDER BY scheduled_jobs.schedule_id
    FOR NO KEY UPDATE OF scheduled_jobs
), moved AS (
    UPDATE scheduled_jobs
    SET last_run_at = CASE WHEN outcome = 'fired' THEN scheduled_time ELSE last_run_at END,
        last_job_id = CASE WHEN outcome = 'fired' THEN job_id ELSE last_job_id END,
        fired_count = fired_count + (outcome = 'fired')::integer,
        skipped_count = skipped_count + (outcome = 'skipped')::integer,
        missed_count = missed_count + missed,
        next_run_at = CASE
            WHEN outcome = 'failed' THEN next_run_at
            WHEN max_runs > 0 AND fired_count + (outcome = 'fired')::integer >= max_runs THEN NULL
            ELSE least(upcoming_at, upcoming_scheduled + jitter_seconds * interval '1 second')
        END,
        next_scheduled_time = CASE
            WHEN outcome = 'failed' THEN next_scheduled_time
            WHEN max_runs > 0 AND fired_count + (outcome = 'fired')::integer >= max_runs THEN NULL
            ELSE upcoming_scheduled
        END,
        consecutive_failures = CASE
            WHEN outcome = 'failed' THEN consecutive_failures + 1
            WHEN outcome IN ('fired', 'skipped') THEN 0
            ELSE consecutive_failures
        END,
        reserved_until = CASE WHEN outcome = 'failed' THEN now() + retry_delay END,
        paused = paused OR outcome = 'failed' AND consecutive_failures + 1 >= $12::integer,
        pause_reason = CASE
            WHEN NOT paused AND outcome = 'failed' AND consecutive_failures + 1 >= $12::integer
            THEN given.pause_reason ELSE scheduled_jobs.pause_reason
        END,
        version = version
            + (NOT paused AND outcome = 'failed' AND consecutive_failures + 1 >= $12::integer)::integer,
        updated_at = CASE
            WHEN NOT paused AND outcome = 'failed' AND consecutive_failures + 1 >= $12::integer
            THEN now() ELSE updated_at
        END
    FROM kept, given
    WHERE scheduled_jobs.schedule_id = kept_id AND is_there AND given.schedule_id = kept_id
    RETURNING kept_id AS moved_id, consecutive_failures, paused
), runs AS (
    INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome, job_id, reason)
    SELECT schedule_id, scheduled_time, 'schedule', outcome, job_id, reason
    FROM given
    WHERE outcome = 'fired' AND schedule_id IN (SELECT kept_id FROM kept)
        OR outcome IN ('skipped', 'failed') AND schedule_id IN (SELECT moved_id FROM moved)
    UNION ALL
    SELECT schedule_id, missed_time, 'schedule', 'missed', NULL, ''
    FROM unnest($13::uuid[], $14::timestamptz[]) AS missed (schedule_id, missed_time)
    WHERE schedule_id IN (SELECT moved_id FROM moved)
    ON CONFLICT (schedule_id, scheduled_time, cause) DO UPDATE
    SET outcome = excluded.outcome, job_id = excluded.job_id, reason = excluded.reason, recorded_at = now()
    WHERE schedule_runs.outcome <> 'fired'
)
SELECT moved_id, consecutive_failures, paused FROM moved
"""

_FAILING = """, failing AS MATERIALIZED (
    SELECT watched.schedule_id AS failing_id, runs.wanted, runs.error
    FROM watched CROSS JOIN LATERAL (
        SELECT watched.pause_after_failed_runs AS wanted, count(*) FILTER (WHERE jobs.status = 'failed') AS failed,
            (
                array_agg(concat_ws(': ', jobs.error_code, jobs.error_message) ORDER BY latest.scheduled_time DESC)
            )[1] AS error
        FROM (
            SELECT job_id, scheduled_time
            FROM schedule_runs
            WHERE schedule_runs.schedule_id = watched.schedule_id AND cause = 'schedule' AND outcome = 'fired'
                AND recorded_at > watched.watched_since
            ORDER BY scheduled_time DESC
            LIMIT watched.pause_after_failed_runs
        ) AS latest
        LEFT JOIN jobs USING (job_id)
    ) AS runs
    WHERE runs.failed >= runs.wanted
), locked AS MATERIALIZED (
    SELECT schedule_id AS locked_id
    FROM scheduled_jobs
    WHERE schedule_id IN (SELECT failing_id FROM failing) AND NOT paused AND deleted_at IS NULL
    ORDER BY schedule_id
    FOR NO KEY UPDATE
), stopped AS (
    UPDATE scheduled_jobs
    SET paused = true, version = version + 1, updated_at = now(), reserved_until = NULL,
        pause_reason = CASE
            WHEN wanted = 1 THEN left('its last job failed: ' || error, 500)
            ELSE left('its last ' || wanted || ' jobs failed, the last one with ' || error, 500)
        END
    FROM locked, failing
    WHERE schedule_id = locked_id AND failing_id = locked_id
    RETURNING locked_id
)
"""


def _of_failing(statement: str) -> str:
    """Put in `failing` and `stopped`, made of `watched`, where the statement says ``<stopped>``."""
    return statement.replace("<stopped>", _FAILING.strip())


# Both name the condition of the index `scheduled_jobs_watched`. The first also tells of those that somebody else has
# paused before, or pauses in this moment: they are not to be fired either.
PAUSE_FAILED_OF = _of_failing("""
WITH watched AS MATERIALIZED (
    SELECT schedule_id, pause_after_failed_runs, watched_since
    FROM scheduled_jobs
    WHERE schedule_id = ANY ($1::uuid[]) AND NOT paused AND next_run_at IS NOT NULL AND pause_after_failed_runs > 0
)
<stopped>
SELECT failing_id FROM failing
UNION
SELECT schedule_id FROM scheduled_jobs WHERE schedule_id = ANY ($1::uuid[]) AND paused
""")

PAUSE_FAILED_PAGE = _of_failing("""
WITH watched AS MATERIALIZED (
    SELECT schedule_id, pause_after_failed_runs, watched_since
    FROM scheduled_jobs
    WHERE NOT paused AND next_run_at IS NOT NULL AND pause_after_failed_runs > 0 AND schedule_id > $1::uuid
    ORDER BY schedule_id
    LIMIT $2::integer
)
<stopped>
SELECT ARRAY(SELECT locked_id FROM stopped) AS stopped,
    (SELECT schedule_id FROM watched ORDER BY schedule_id OFFSET $2::integer - 1 LIMIT 1) AS last_id
""")

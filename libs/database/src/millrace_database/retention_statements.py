"""The SQL statements that remove what is kept no longer."""

ADD_SWEEPS = """
INSERT INTO retention_sweeps (age) SELECT DISTINCT age FROM unnest($1::interval[]) AS sweep (age) ORDER BY age
ON CONFLICT DO NOTHING
"""

# The row of age 0 is the lock of all sweeps. No row: somebody else is at work, or it is too early for each of them.
TAKE_TURN = """
SELECT age FROM retention_sweeps
WHERE age = interval '0'
    AND EXISTS (SELECT FROM retention_sweeps AS sweep WHERE sweep.age = ANY ($1::interval[]) AND sweep.next_at <= now())
FOR UPDATE SKIP LOCKED
"""

# Those of the jobs that were `visited` whose time is over. $2 to $5 the types with rules of their own, and what is kept how
# long, $6 to $8 what holds for all others. What waits behind a job that blocks its key waits for that one to be retried,
# so it is kept.
_EXPIRED = """
expired AS MATERIALIZED (
    SELECT visited.job_id, visited.version
    FROM visited LEFT JOIN unnest($2::text[], $3::interval[], $4::interval[], $5::interval[])
        AS rule (type, completed, failed, cancelled) ON rule.type = visited.type
    WHERE visited.completed_at <= now() - CASE visited.status
            WHEN 'completed' THEN coalesce(rule.completed, $6::interval)
            WHEN 'failed' THEN coalesce(rule.failed, $7::interval)
            WHEN 'cancelled' THEN coalesce(rule.cancelled, $8::interval)
        END
        AND NOT EXISTS (SELECT FROM queue_blocked_keys AS blocked WHERE blocked.id = visited.job_id)
)
"""

# A job is locked as it was read: one that is just being retried stays.
#
# Files that are kept as long as their job expire with it. Of jobs with very many files, and of what somebody has locked, the
# clean-up of the storage finds the others.
_REMOVED = """
locked AS MATERIALIZED (
    SELECT job.job_id
    FROM expired CROSS JOIN LATERAL (
        SELECT jobs.job_id
        FROM jobs
        WHERE jobs.job_id = expired.job_id AND jobs.version = expired.version
        FOR UPDATE SKIP LOCKED
    ) AS job
), removed AS (
    DELETE FROM jobs WHERE job_id = ANY (ARRAY(SELECT locked.job_id FROM locked)) RETURNING job_id
), attempts AS (
    DELETE FROM job_attempts WHERE job_id = ANY (ARRAY(SELECT locked.job_id FROM locked)) RETURNING job_id
), files_of_jobs AS MATERIALIZED (
    SELECT file_id FROM files
    WHERE job_id = ANY (ARRAY(SELECT locked.job_id FROM locked)) AND state = 'with_job' AND expires_at IS NULL
    LIMIT 10 * $9::integer
    FOR UPDATE SKIP LOCKED
), files_expired AS (
    UPDATE files SET expires_at = now()
    WHERE file_id = ANY (ARRAY(SELECT files_of_jobs.file_id FROM files_of_jobs))
)
"""

# One step of the sweep whose turn it is, in the transaction that took the turn and after that, so that it sees where
# the last step came to. $1 the sweeps that there are, $2 to $5 the types with rules of their own, and what is kept how
# long, $6 to $8 what holds for all others, $9 how many jobs to look at, $10 how long a sweep rests that has come to its
# end and $11 the one of all jobs, $12 the share of the time that steps may take. The sweep that made a step comes last in the next
# round.
SWEEP = f"""
WITH sweep AS MATERIALIZED (
    SELECT age, position,
        CASE WHEN age = interval '0' THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid ELSE (
            lpad(to_hex((extract(epoch FROM now() - age) * 1000)::bigint), 12, '0') || repeat('0', 20)
        )::uuid END AS until
    FROM retention_sweeps
    WHERE age = ANY ($1::interval[]) AND next_at <= now()
    ORDER BY next_at, age
    LIMIT 1
), visited AS MATERIALIZED (
    SELECT job.*
    FROM sweep CROSS JOIN LATERAL (
        SELECT job_id, version, type, status, completed_at
        FROM jobs
        WHERE job_id > sweep.position AND job_id < sweep.until
        ORDER BY job_id
        LIMIT $9::integer
    ) AS job
), {_EXPIRED}, {_REMOVED}, done AS MATERIALIZED (
    SELECT sweep.age, (SELECT count(*) FROM visited) AS visited, (SELECT count(*) FROM removed) AS removed,
        (SELECT count(*) FROM attempts) AS attempts,
        (SELECT visited.job_id FROM visited ORDER BY visited.job_id DESC LIMIT 1) AS last
    FROM sweep
), moved AS (
    UPDATE retention_sweeps AS sweep
    SET position = CASE
            WHEN sweep.age <> done.age OR done.visited = 0 AND sweep.age <> interval '0' THEN sweep.position
            WHEN done.visited < $9::integer AND sweep.age = interval '0' THEN '00000000-0000-0000-0000-000000000000'
            ELSE done.last
        END,
        next_at = CASE
            WHEN sweep.age <> done.age OR done.visited = $9::integer
            THEN greatest(sweep.next_at, clock_timestamp() + (clock_timestamp() - now()) * (1 / $12::float8 - 1))
                + CASE WHEN sweep.age = done.age THEN interval '1 ms' ELSE interval '0' END
            WHEN sweep.age = interval '0' THEN now() + $11::interval
            ELSE now() + $10::interval
        END
    FROM done
    WHERE sweep.age = ANY ($1::interval[])
    RETURNING sweep.next_at
)
SELECT visited, removed, (
    SELECT greatest(extract(epoch FROM min(next_at) - clock_timestamp()), 0)::float8 FROM moved
) AS next_in
FROM done
"""  # noqa: S608 - put together of constants

# A batch of all jobs that may be due, whatever the sweeps have passed by: those behind $1 that were created longer than $10
# ago, $9 at a time.
_VISITED = """
visited AS MATERIALIZED (
    SELECT job_id, version, type, status, completed_at
    FROM jobs
    WHERE job_id > $1::uuid AND job_id < (
        lpad(to_hex((extract(epoch FROM now() - $10::interval) * 1000)::bigint), 12, '0') || repeat('0', 20)
    )::uuid
    ORDER BY job_id
    LIMIT $9::integer
)
"""
_LAST_VISITED = "(SELECT job_id FROM visited ORDER BY job_id DESC LIMIT 1) AS last"

REMOVE_EXPIRED = f"""
WITH {_VISITED}, {_EXPIRED}, {_REMOVED}
SELECT (SELECT count(*) FROM visited) AS visited, (SELECT count(*) FROM removed) AS found, {_LAST_VISITED}
"""  # noqa: S608 - put together of constants

COUNT_EXPIRED = f"""
WITH {_VISITED}, {_EXPIRED}
SELECT (SELECT count(*) FROM visited) AS visited, (SELECT count(*) FROM expired) AS found, {_LAST_VISITED}
"""  # noqa: S608 - put together of constants

# The rows of an import that was never finished are in nobody's sight; once its job is gone nobody goes on with it. A job
# without a record is known by its entry in the queue.
_ABANDONED_IMPORTS = """
FROM dataset_imports
WHERE completed_at IS NULL
    AND NOT EXISTS (SELECT FROM jobs WHERE jobs.job_id = dataset_imports.job_id)
    AND NOT EXISTS (SELECT FROM queue WHERE queue.id = dataset_imports.job_id)
"""

COUNT_ABANDONED_IMPORTS = f"SELECT count(*) {_ABANDONED_IMPORTS}"

REMOVE_ABANDONED_IMPORT = f"""
WITH abandoned AS MATERIALIZED (
    SELECT dataset_id, job_id {_ABANDONED_IMPORTS} LIMIT 1 FOR UPDATE SKIP LOCKED
), doomed AS MATERIALIZED (
    SELECT row.dataset_id, row.job_id, row.row_number
    FROM abandoned CROSS JOIN LATERAL (
        SELECT dataset_id, job_id, row_number
        FROM dataset_rows
        WHERE dataset_rows.dataset_id = abandoned.dataset_id AND dataset_rows.job_id = abandoned.job_id
        LIMIT $1::integer
    ) AS row
), removed AS (
    DELETE FROM dataset_rows USING doomed
    WHERE dataset_rows.dataset_id = doomed.dataset_id AND dataset_rows.job_id = doomed.job_id
        AND dataset_rows.row_number = doomed.row_number
), gone AS (
    DELETE FROM dataset_imports USING abandoned
    WHERE dataset_imports.job_id = abandoned.job_id AND (SELECT count(*) FROM doomed) < $1::integer
)
SELECT count(*) AS imports, (SELECT count(*) FROM doomed) AS rows FROM abandoned
"""  # noqa: S608 - put together of constants

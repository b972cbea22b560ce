"""The SQL statements that write jobs, and those that read jobs in a fixed way.

A job that is not finished has a queue entry. Whoever changes such a job locks its entry first, so nobody waits
here while he holds what the other needs. `version` grows with every change of the row.

`= ANY (ARRAY[…])` instead of `=`: with plain equality Postgres may go through a whole index and look for each row among
those given, when statistics say that the table is empty. A plan that is kept would still do so when it is full. An id alone
is looked up in the primary key: the other indexes that have it are partial, see tables.py.
"""

from millrace_database.subscription_event_statements import IS_SUBSCRIBED, SUBSCRIBERS
from millrace_queue import CLAIMED, COMPLETED, ENTER_PLAIN

# Sorted, so that two batches with the same request ids meet in one order and do not wait for each other in a circle.
INSERT_JOBS = """
INSERT INTO jobs (
    job_id, org_id, type, input, metadata, created_by, max_attempts, priority, run_at, schedule_id, request_id, options
)
SELECT job_id, org_id, type, input::jsonb, metadata::jsonb, created_by, max_attempts, priority,
    coalesce(run_at, now() + coalesce(delay, interval '0')), schedule_id, request_id, options::jsonb
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::smallint[],
    $9::timestamptz[], $10::interval[], $11::uuid[], $12::text[], $13::text[]
) WITH ORDINALITY AS job (
    job_id, org_id, type, input, metadata, created_by, max_attempts, priority, run_at, delay, schedule_id, request_id,
    options, place
)
ORDER BY org_id, request_id, place
ON CONFLICT DO NOTHING
RETURNING job_id, created_at, run_at
"""

FIND_OWN = "SELECT job_id, created_at, run_at FROM jobs WHERE job_id = ANY ($1::uuid[])"

# One statement, which may commit by itself, instead of two in a transaction: what a job costs over gRPC is mostly the
# service's time, and this takes a fourth of it for each job and three round trips of four.
CREATE_PLAIN_JOBS = f"""
WITH given AS (
    {INSERT_JOBS}, type, org_id AS tenant, max_attempts, priority, job_id AS id
), {ENTER_PLAIN}
SELECT job_id, created_at, run_at FROM given
"""  # noqa: S608 - put together of constants

FIND_OWNERS = "SELECT job_id, type, org_id FROM jobs WHERE job_id = ANY ($1::uuid[])"

# Of jobs that this transaction has made and that turned out to be one too many.
DELETE_JOBS = "DELETE FROM jobs WHERE job_id = ANY ($1::uuid[])"

# Of jobs that wait, those that have been started before, whether that attempt counts or not.
FIND_BEGUN = """
SELECT job.job_id
FROM unnest($1::uuid[]) AS job (job_id) CROSS JOIN LATERAL (
    SELECT FROM job_attempts WHERE job_attempts.job_id = job.job_id LIMIT 1
) AS attempt
"""

# Their entries are locked. A repetition of the request that replaced a job finds it by its request id.
REPLACE_JOBS = """
UPDATE jobs
SET input = given.input::jsonb, metadata = given.metadata::jsonb, max_attempts = given.max_attempts,
    priority = given.priority, run_at = coalesce(given.run_at, now()), options = given.options::jsonb,
    request_id = coalesce(given.request_id, jobs.request_id), version = version + 1
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::integer[], $5::smallint[], $6::timestamptz[], $7::text[], $8::text[]
) AS given (job_id, input, metadata, max_attempts, priority, run_at, options, request_id)
WHERE jobs.job_id = ANY (ARRAY[given.job_id])
"""

# In a statement of its own: only a new snapshot sees the job whose transaction the insertion waited for.
FIND_BY_REQUEST = """
SELECT wanted.place, found.job_id, found.type <> wanted.type OR found.input <> wanted.input::jsonb AS conflict
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS wanted (place, org_id, request_id, type, input)
CROSS JOIN LATERAL (
    SELECT jobs.job_id, jobs.org_id, jobs.request_id, jobs.type, jobs.input
    FROM jobs
    WHERE (jobs.org_id, jobs.request_id) >= (wanted.org_id, wanted.request_id) AND jobs.request_id IS NOT NULL
    ORDER BY jobs.org_id, jobs.request_id
    LIMIT 1
) AS found
WHERE found.org_id = wanted.org_id AND found.request_id = wanted.request_id
"""

_START = """
UPDATE jobs
SET status = 'processing', attempt = claimed.attempt, started_at = now(), progress = 0, message = '',
    total_items = 0, processed_items = 0, error_code = NULL, error_message = NULL, error_retryable = NULL,
    worker_id = {worker}, version = version + 1
FROM {claimed}
WHERE jobs.job_id = ANY (ARRAY[claimed.id])
"""
_STARTED = "jobs.org_id, jobs.input::text, jobs.metadata::text, jobs.created_by, jobs.options::text"

START_JOBS = f"""
{_START.format(worker="$3::uuid", claimed="unnest($1::uuid[], $2::integer[]) AS claimed (id, attempt)")}
RETURNING jobs.job_id, {_STARTED}
"""

# The claim and its START_JOBS in one statement, which may commit by itself: an idle system starts a job in half the time.
# What has been claimed and has no job comes last, with NULL for what is the job's.
CLAIM_JOBS = f"""
WITH {CLAIMED}, started AS (
    {_START.format(worker="$1::uuid", claimed="claimed")}
    RETURNING claimed.id, claimed.type, claimed.tenant, claimed.attempt, claimed.max_attempts, claimed.fence,
        claimed.priority, claimed.rank, {_STARTED}
)
SELECT * FROM started
UNION ALL
SELECT id, type, tenant, attempt, max_attempts, fence, priority, rank, NULL, NULL, NULL, NULL, NULL
FROM claimed
WHERE (SELECT count(*) FROM claimed) > (SELECT count(*) FROM started)
    AND NOT EXISTS (SELECT FROM started WHERE started.id = claimed.id)
"""  # noqa: S608 - put together of constants

_COMPLETE = """
UPDATE jobs
SET status = 'completed', progress = 100, output = done.output::jsonb, completed_at = now(), version = version + 1
FROM {done}
WHERE jobs.job_id = ANY (ARRAY[done.id])
"""

# Which of them deliver their results, and which subscriptions want to know. Those of a job's end are returned by the statement
# that writes it: without any, nobody asks for them.
COMPLETE_JOBS = f"""
{_COMPLETE.format(done="unnest($1::uuid[], $2::text[]) AS done (id, output)")}
RETURNING jobs.job_id, coalesce(jobs.options @> '{{"delivers": true}}', false) AS delivers, {SUBSCRIBERS}
"""

# Jobs of organisations with subscriptions are left alone: their ends may have events.
COMPLETE_PLAIN_JOBS = f"""
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS lease (id, fence, output)
), {COMPLETED.replace("<unless>", IS_SUBSCRIBED)}
{_COMPLETE.format(done="held AS done")}
RETURNING jobs.job_id
"""  # noqa: S608 - put together of constants

FIND_COMPLETED = """
SELECT job.job_id
FROM unnest($1::uuid[], $2::integer[], $3::uuid[]) AS claimed (job_id, attempt, worker_id) CROSS JOIN LATERAL (
    SELECT jobs.job_id
    FROM jobs
    WHERE jobs.job_id = claimed.job_id AND jobs.status = 'completed' AND jobs.attempt = claimed.attempt
        AND jobs.worker_id = claimed.worker_id
    LIMIT 1
) AS job
"""

FAIL_JOBS = f"""
UPDATE jobs
SET status = failed.status, run_at = coalesce(failed.run_at, jobs.run_at),
    completed_at = CASE WHEN failed.status = 'pending' THEN NULL ELSE now() END,
    error_code = failed.code, error_message = failed.message, error_retryable = failed.retryable,
    attempt = CASE WHEN failed.counts THEN attempt ELSE attempt - 1 END,
    started_at = CASE WHEN failed.counts THEN started_at END, version = version + 1
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::boolean[], $7::boolean[])
    AS failed (job_id, status, run_at, code, message, retryable, counts)
WHERE jobs.job_id = ANY (ARRAY[failed.job_id])
RETURNING jobs.job_id, {SUBSCRIBERS}
"""  # noqa: S608 - put together of constants

CANCEL_JOBS = f"""
UPDATE jobs SET status = 'cancelled', completed_at = now(), version = version + 1 WHERE job_id = ANY ($1::uuid[])
RETURNING job_id, {SUBSCRIBERS}
"""  # noqa: S608 - put together of constants

REQUEST_CANCELLATION = """
UPDATE jobs SET status = 'cancelling', version = version + 1
WHERE job_id = ANY ($1::uuid[]) AND status = 'processing'
RETURNING job_id, org_id
"""

HAND_BACK_JOBS = """
UPDATE jobs
SET status = 'pending', attempt = attempt - 1, started_at = NULL, version = version + 1
WHERE job_id = ANY ($1::uuid[])
"""

SNOOZE_JOBS = """
UPDATE jobs
SET status = 'pending', attempt = attempt - 1, started_at = NULL, run_at = now() + snoozed.delay,
    message = coalesce(snoozed.message, jobs.message), version = version + 1
FROM unnest($1::uuid[], $2::interval[], $3::text[]) AS snoozed (job_id, delay, message)
WHERE jobs.job_id = ANY (ARRAY[snoozed.job_id])
"""

# Locks the job: it has no entry that could be locked. A deadline that is over does not hold for a job that is retried.
LOCK_RETRYABLE_JOB = """
SELECT type, status, priority, attempt,
    CASE WHEN (options ->> 'deadline')::timestamptz <= now() THEN options - 'deadline' ELSE options END::text
        AS options_json
FROM jobs
WHERE job_id = $1::uuid AND org_id = $2::text AND status IN ('failed', 'cancelled')
FOR UPDATE
"""

RETRY_JOB = """
UPDATE jobs
SET status = 'pending', completed_at = NULL, run_at = now(), max_attempts = $2::integer, version = version + 1
WHERE job_id = $1::uuid
"""

GET_WAITING_FAILED_TYPE = """
SELECT type
FROM jobs
WHERE job_id = $1::uuid AND org_id = $2::text AND status = 'pending' AND error_code IS NOT NULL
"""

HASTEN_JOB = "UPDATE jobs SET run_at = now(), version = version + 1 WHERE job_id = $1::uuid"

# NULL leaves a value as it is.
REPORT_PROGRESS = """
UPDATE jobs
SET progress = coalesce(report.progress, jobs.progress), message = coalesce(report.message, jobs.message),
    total_items = coalesce(report.total_items, jobs.total_items),
    processed_items = coalesce(report.processed_items, jobs.processed_items), version = version + 1
FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::bigint[], $5::bigint[])
    AS report (job_id, progress, message, total_items, processed_items)
WHERE jobs.job_id = ANY (ARRAY[report.job_id])
"""

GET_STATUS = "SELECT status FROM jobs WHERE job_id = $1::uuid AND org_id = $2::text"

GET_JOB = """
SELECT job_id, org_id, type, status, progress, message, total_items, processed_items, input::text AS input_json,
    output::text AS output_json, metadata::text AS metadata_json, error_code, error_message, error_retryable,
    created_by, created_at, run_at, started_at, completed_at, attempt, max_attempts, priority, schedule_id,
    request_id, version, now() AS read_at, options::text AS options_json, worker_id, parent_job_id
FROM jobs
WHERE job_id = $1::uuid AND ($2::text IS NULL OR org_id = $2::text)
"""

GET_CHANGED_JOBS = """
SELECT jobs.job_id, org_id, type, status, progress, message, total_items, processed_items,
    input::text AS input_json, output::text AS output_json, metadata::text AS metadata_json, error_code,
    error_message, error_retryable, created_by, created_at, run_at, started_at, completed_at, attempt, max_attempts,
    priority, schedule_id, request_id, jobs.version, now() AS read_at, options::text AS options_json, worker_id,
    parent_job_id
FROM unnest($1::uuid[], $2::bigint[]) AS seen (job_id, version)
JOIN jobs ON jobs.job_id = ANY (ARRAY[seen.job_id]) AND jobs.version > seen.version
"""

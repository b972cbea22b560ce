"""The SQL statements of schedules."""

_COLUMNS = """
schedule_id, org_id, name, type, input::text AS input_json, metadata::text AS metadata_json,
recurrence::text AS recurrence_json, time_zone, start_at, end_at, paused, pause_reason, next_run_at, last_run_at,
last_job_id, consecutive_failures, created_by, created_at, updated_at, now() AS read_at
"""


def _with_columns(statement: str) -> str:
    """Put the columns of a ScheduleRecord where the statement says ``<columns>``."""
    return statement.replace("<columns>", _COLUMNS.strip())


INSERT = _with_columns("""
INSERT INTO scheduled_jobs (
    schedule_id, org_id, name, type, input, metadata, recurrence, time_zone, start_at, end_at, next_run_at,
    created_by, request_id
)
VALUES (
    $1::uuid, $2::text, $3::text, $4::text, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text,
    $9::timestamptz, $10::timestamptz, $11::timestamptz, $12::text, $13::text
)
ON CONFLICT (org_id, request_id) WHERE request_id IS NOT NULL DO NOTHING
RETURNING <columns>
""")

# In a statement of its own: only a new snapshot sees the schedule whose transaction the insertion waited for.
GET_BY_REQUEST = _with_columns("""
SELECT <columns> FROM scheduled_jobs WHERE org_id = $1::text AND request_id = $2::text AND request_id IS NOT NULL
""")

GET = _with_columns("""
SELECT <columns> FROM scheduled_jobs WHERE schedule_id = $1::uuid AND ($2::text IS NULL OR org_id = $2::text)
""")

# The first page too has a bound, so that one plan, with the bound as an index condition, is right for all pages.
LIST_OF_ORG = _with_columns("""
SELECT <columns>
FROM scheduled_jobs
WHERE org_id = $1::text AND schedule_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY schedule_id DESC
LIMIT $3::integer
""")

LIST_ALL = _with_columns("""
SELECT <columns>
FROM scheduled_jobs
WHERE schedule_id < coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY schedule_id DESC
LIMIT $2::integer
""")

DELETE = "DELETE FROM scheduled_jobs WHERE schedule_id = $1::uuid AND org_id = $2::text RETURNING schedule_id"

PAUSE = _with_columns("""
UPDATE scheduled_jobs SET paused = true, pause_reason = $3::text, updated_at = now()
WHERE schedule_id = $1::uuid AND org_id = $2::text
RETURNING <columns>
""")

RESUME = _with_columns("""
UPDATE scheduled_jobs
SET paused = false, pause_reason = '', next_run_at = $3::timestamptz, consecutive_failures = 0,
    reserved_until = NULL, updated_at = now()
WHERE schedule_id = $1::uuid AND org_id = $2::text AND paused
RETURNING <columns>
""")

RESERVE_DUE = _with_columns("""
WITH due AS MATERIALIZED (
    SELECT schedule_id AS due_id
    FROM scheduled_jobs
    WHERE NOT paused AND next_run_at <= now() AND (reserved_until IS NULL OR reserved_until <= now())
    ORDER BY next_run_at
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
), reserved AS (
    UPDATE scheduled_jobs SET reserved_until = now() + $1::interval
    WHERE schedule_id = ANY (ARRAY(SELECT due_id FROM due))
    RETURNING <columns>
)
SELECT * FROM reserved ORDER BY next_run_at, schedule_id
""")

RECORD_FIRED = """
UPDATE scheduled_jobs
SET last_run_at = next_run_at, last_job_id = $4::uuid, next_run_at = $3::timestamptz, consecutive_failures = 0,
    reserved_until = NULL
WHERE schedule_id = $1::uuid AND next_run_at = $2::timestamptz
RETURNING schedule_id
"""

RECORD_FAILURE = """
UPDATE scheduled_jobs
SET consecutive_failures = consecutive_failures + 1,
    reserved_until = now() + $3::interval,
    paused = paused OR consecutive_failures + 1 >= $4::integer,
    pause_reason = CASE WHEN consecutive_failures + 1 >= $4::integer THEN $5::text ELSE pause_reason END,
    updated_at = CASE WHEN consecutive_failures + 1 >= $4::integer THEN now() ELSE updated_at END
WHERE schedule_id = $1::uuid AND next_run_at = $2::timestamptz
RETURNING consecutive_failures, paused
"""

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

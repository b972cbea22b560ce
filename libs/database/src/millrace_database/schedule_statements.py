"""The SQL statements of schedules."""

_COLUMNS = """
schedule_id, org_id, name, type, input::text AS input_json, metadata::text AS metadata_json,
recurrence::text AS recurrence_json, time_zone, start_at, end_at, paused, pause_reason, next_run_at, last_run_at,
last_job_id, consecutive_failures, created_by, created_at, updated_at, next_scheduled_time, jitter_seconds,
overlap_policy, catch_up_policy, catch_up_seconds, max_runs, pause_after_failed_runs, delivery::text AS delivery_json,
version, fired_count, missed_count, skipped_count, watched_since, reserved_until, deleted_at, now() AS read_at
"""


def with_columns(statement: str) -> str:
    """Put the columns of a ScheduleRecord where the statement says ``<columns>``."""
    return statement.replace("<columns>", _COLUMNS.strip())


INSERT = with_columns("""
INSERT INTO scheduled_jobs (
    schedule_id, org_id, name, type, input, metadata, recurrence, time_zone, start_at, end_at, next_run_at,
    created_by, request_id, next_scheduled_time, jitter_seconds, overlap_policy, catch_up_policy, catch_up_seconds,
    max_runs, pause_after_failed_runs, delivery
)
VALUES (
    $1::uuid, $2::text, $3::text, $4::text, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text,
    $9::timestamptz, $10::timestamptz, $11::timestamptz, $12::text, $13::text, $14::timestamptz, $15::integer,
    $16::text, $17::text, $18::integer, $19::integer, $20::integer, $21::text::jsonb
)
ON CONFLICT (org_id, request_id) WHERE request_id IS NOT NULL DO NOTHING
RETURNING <columns>
""")

# In a statement of its own: only a new snapshot sees the schedule whose transaction the insertion waited for.
GET_BY_REQUEST = with_columns("""
SELECT <columns> FROM scheduled_jobs WHERE org_id = $1::text AND request_id = $2::text AND request_id IS NOT NULL
""")

GET = with_columns("""
SELECT <columns> FROM scheduled_jobs
WHERE schedule_id = $1::uuid AND ($2::text IS NULL OR org_id = $2::text) AND deleted_at IS NULL
""")

# What is worked out from a schedule as it was read, and then written, is read so.
LOCK = with_columns("""
SELECT <columns> FROM scheduled_jobs
WHERE schedule_id = $1::uuid AND org_id = $2::text AND deleted_at IS NULL
FOR NO KEY UPDATE
""")

# A filter reads the schedules of one organisation at most, in their order. The first page too has a bound, so that one
# plan, with the bound as an index condition, is right for all pages.
_FILTERS = """
deleted_at IS NULL AND schedule_id < coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND ($3::text IS NULL OR type = $3::text)
    AND ($4::text IS NULL OR recurrence ? $4::text)
    AND ($5::boolean IS NULL OR (NOT paused AND next_run_at IS NOT NULL) = $5::boolean)
    AND ($6::text IS NULL OR CASE $6::text WHEN 'none' THEN delivery IS NULL ELSE coalesce(delivery ? $6::text, false) END)
    AND ($7::text IS NULL OR name ILIKE $7::text OR type ILIKE $7::text)
""".strip()

LIST_OF_ORG = with_columns(f"""
SELECT <columns>
FROM scheduled_jobs
WHERE org_id = $8::text AND {_FILTERS}
ORDER BY schedule_id DESC
LIMIT $2::integer
""")  # noqa: S608 - put together of constants

LIST_ALL = with_columns(f"""
SELECT <columns>
FROM scheduled_jobs
WHERE {_FILTERS}
ORDER BY schedule_id DESC
LIMIT $2::integer
""")  # noqa: S608 - put together of constants

# The row stays for the sake of its runs. Its request id is free again, as its id is not found any more.
DELETE = """
UPDATE scheduled_jobs
SET deleted_at = now(), updated_at = now(), paused = true, next_run_at = NULL, next_scheduled_time = NULL,
    reserved_until = NULL, request_id = NULL, version = version + 1
WHERE schedule_id = $1::uuid AND org_id = $2::text AND deleted_at IS NULL
RETURNING schedule_id
"""

PAUSE = with_columns("""
UPDATE scheduled_jobs
SET paused = true, pause_reason = $3::text, updated_at = now(),
    version = CASE WHEN paused AND pause_reason = $3::text THEN version ELSE version + 1 END
WHERE schedule_id = $1::uuid AND org_id = $2::text AND deleted_at IS NULL
RETURNING <columns>
""")

RESUME = with_columns("""
UPDATE scheduled_jobs
SET paused = false, pause_reason = '', next_run_at = $3::timestamptz, next_scheduled_time = $4::timestamptz,
    consecutive_failures = 0, reserved_until = NULL, watched_since = now(), updated_at = now(), version = version + 1
WHERE schedule_id = $1::uuid AND org_id = $2::text AND paused AND deleted_at IS NULL
RETURNING <columns>
""")

# With another jitter a time that waited for its own may be late at once. It is no more missed for that than one that
# a scheduler has begun with.
UPDATE = with_columns("""
UPDATE scheduled_jobs
SET name = $2::text, type = $3::text, input = $4::text::jsonb, metadata = $5::text::jsonb,
    recurrence = $6::text::jsonb, time_zone = $7::text, start_at = $8::timestamptz, end_at = $9::timestamptz,
    jitter_seconds = $10::integer, overlap_policy = $11::text, catch_up_policy = $12::text,
    catch_up_seconds = $13::integer, max_runs = $14::integer, pause_after_failed_runs = $15::integer,
    delivery = $16::text::jsonb, next_run_at = $17::timestamptz, next_scheduled_time = $18::timestamptz,
    reserved_until = CASE
        WHEN next_run_at IS NOT DISTINCT FROM $17::timestamptz THEN reserved_until
        WHEN $17::timestamptz <= now() AND (next_run_at > now() OR reserved_until IS NOT NULL) THEN now()
    END,
    updated_at = now(), version = version + 1
WHERE schedule_id = $1::uuid AND deleted_at IS NULL
RETURNING <columns>
""")

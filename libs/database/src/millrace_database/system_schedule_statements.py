"""The SQL statements of system schedules."""

# Whether a worker that takes work lists the schedule.
_IS_LIVE = """EXISTS (
    SELECT FROM queue_workers
    WHERE NOT draining AND heartbeat_at >= now() - lease AND details -> 'system_types' ? system_schedules.type
)"""

_HAS_ENTRY = "EXISTS (SELECT FROM queue WHERE queue.id = system_schedules.last_run_id)"

_COLUMNS = f"""
type, cron, time_zone, description, next_run_at, published_at, last_run_at, last_run_id, last_outcome, last_error,
last_ended_at, {_IS_LIVE} AS is_live, now() AS read_at
"""

_STALE = f"published_at < now() - $1::interval AND NOT {_IS_LIVE}"

# In one order, as several workers start at the same time. A schedule whose times are others has no next one until a scheduler
# has worked it out, which counts from the time at which they were published first.
PUBLISH = """
INSERT INTO system_schedules AS known (type, cron, time_zone, description)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS published (type, cron, time_zone, description)
ORDER BY type
ON CONFLICT (type) DO UPDATE SET
    cron = excluded.cron, time_zone = excluded.time_zone, description = excluded.description,
    published_at = CASE WHEN (known.cron, known.time_zone) = (excluded.cron, excluded.time_zone)
        AND known.next_run_at IS NULL THEN known.published_at ELSE now() END,
    next_run_at = CASE WHEN (known.cron, known.time_zone) = (excluded.cron, excluded.time_zone)
        THEN known.next_run_at END
"""

# What is known is left as it is, but for the time: it is not to be removed just now.
PUBLISH_MISSING = """
INSERT INTO system_schedules AS known (type, cron, time_zone, description)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS published (type, cron, time_zone, description)
ORDER BY type
ON CONFLICT (type) DO UPDATE SET published_at = CASE WHEN known.next_run_at IS NULL THEN known.published_at ELSE now() END
"""

LIST = f"SELECT {_COLUMNS} FROM system_schedules ORDER BY type"  # noqa: S608 - put together of constants

UNPLANNED = f"SELECT {_COLUMNS} FROM system_schedules WHERE next_run_at IS NULL ORDER BY type"  # noqa: S608

DUE = f"""
SELECT {_COLUMNS} FROM system_schedules WHERE next_run_at <= now() AND {_IS_LIVE} ORDER BY next_run_at, type
"""  # noqa: S608 - put together of constants

PLAN = """
UPDATE system_schedules
SET next_run_at = $4::timestamptz,
    last_error = CASE WHEN starts_with(last_error, $5::text) THEN '' ELSE last_error END
WHERE type = $1::text AND cron = $2::text AND time_zone = $3::text AND next_run_at IS NULL
"""

RECORD_FAULT = """
UPDATE system_schedules SET last_error = $4::text
WHERE type = $1::text AND cron = $2::text AND time_zone = $3::text AND next_run_at IS NULL
    AND last_error <> $4::text
RETURNING type
"""

SECONDS_UNTIL_DUE = f"""
SELECT greatest(extract(epoch FROM due_at - now()), 0)::double precision
FROM (SELECT min(next_run_at) AS due_at FROM system_schedules WHERE type <> ALL ($1::text[]) AND {_IS_LIVE}) AS next
WHERE due_at IS NOT NULL
"""  # noqa: S608 - put together of constants

LOCK = f"SELECT {_COLUMNS} FROM system_schedules WHERE type = $1::text FOR UPDATE"  # noqa: S608

# In a statement after LOCK: only a new snapshot sees the entry of who had the row locked.
IS_BUSY = f"SELECT {_HAS_ENTRY} FROM system_schedules WHERE type = $1::text"  # noqa: S608

START = """
UPDATE system_schedules
SET next_run_at = $2::timestamptz, last_run_at = coalesce($3::timestamptz, now()), last_run_id = $4::uuid,
    last_outcome = 'running', last_error = '', last_ended_at = NULL
WHERE type = $1::text
"""

SKIP = "UPDATE system_schedules SET next_run_at = $2::timestamptz WHERE type = $1::text"

FIND_RUNS = """
SELECT last_run_id, last_run_at FROM system_schedules WHERE last_run_id = ANY ($1::uuid[])
"""

END = """
UPDATE system_schedules SET last_outcome = $2::text, last_error = $3::text, last_ended_at = now()
WHERE last_run_id = $1::uuid
"""

# The entry of a run is gone and its end was not written: by a rescue, after the last attempt.
FIND_LOST_RUNS = f"""
SELECT type, last_run_id FROM system_schedules WHERE last_outcome = 'running' AND NOT {_HAS_ENTRY} ORDER BY type
"""  # noqa: S608 - put together of constants

# One at a time, as what writes several rows in another order might wait for this. Another run may have begun meanwhile.
END_LOST_RUN = """
UPDATE system_schedules SET last_outcome = 'failed', last_error = $2::text, last_ended_at = now()
WHERE last_run_id = $1::uuid AND last_outcome = 'running'
RETURNING type
"""

# What a worker lists is as good as published now. Once an hour is often enough, and waits for nobody.
KEEP_LISTED = f"""
UPDATE system_schedules SET published_at = now()
WHERE type IN (
    SELECT type FROM system_schedules
    WHERE published_at < now() - interval '1 hour' AND next_run_at IS NOT NULL AND {_IS_LIVE}
    FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - put together of constants

FIND_STALE = f"SELECT type FROM system_schedules WHERE {_STALE} ORDER BY type"  # noqa: S608

FIND_LAST_RUN = "SELECT last_run_id FROM system_schedules WHERE type = $1::text"

DELETE_STALE = f"""
DELETE FROM system_schedules
WHERE {_STALE} AND type = $2::text AND last_run_id IS NOT DISTINCT FROM $3::uuid
RETURNING type
"""  # noqa: S608 - put together of constants

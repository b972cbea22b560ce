"""The SQL statements that find who has a unique key, and those of throttled keys."""

FIND_HOLDERS = """
SELECT wanted.place, holder.*
FROM unnest($1::integer[], $2::text[], $3::text[]) AS wanted (place, unique_key, unique_slot) CROSS JOIN LATERAL (
    SELECT queue.id, queue.type, queue.tenant, queue.state <> 'running' AND queue.attempt = 0
    FROM queue
    WHERE queue.unique_key = wanted.unique_key AND queue.unique_slot = wanted.unique_slot
        AND queue.unique_slot IS NOT NULL
    LIMIT 1
) AS holder
"""

# In one order, as the entries with unique keys. A key is given at most once.
ENTER_THROTTLES = """
INSERT INTO queue_throttles (unique_key, id, ends_at)
SELECT unique_key, id, now() + lasts
FROM unnest($1::text[], $2::uuid[], $3::interval[]) AS entering (unique_key, id, lasts)
ORDER BY unique_key
ON CONFLICT (unique_key) DO UPDATE SET id = excluded.id, ends_at = excluded.ends_at
WHERE queue_throttles.ends_at <= now()
RETURNING id
"""

FIND_THROTTLES = """
SELECT throttle.unique_key, throttle.id, throttle.ends_at
FROM unnest($1::text[]) AS wanted (unique_key) CROSS JOIN LATERAL (
    SELECT queue_throttles.unique_key, id, ends_at
    FROM queue_throttles
    WHERE queue_throttles.unique_key = wanted.unique_key
    LIMIT 1
) AS throttle
WHERE throttle.ends_at > now()
"""

REMOVE_ENDED_THROTTLES = """
WITH ended AS MATERIALIZED (
    SELECT unique_key FROM queue_throttles WHERE ends_at <= now() ORDER BY ends_at LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM queue_throttles
WHERE unique_key = ANY (ARRAY(SELECT ended.unique_key FROM ended)) AND ends_at <= now()
RETURNING 1
"""

"""The SQL statement that claims while there are gates, or something is paused."""

from millrace_queue.rate_statements import LATEST_START

# As CLAIM, which claims faster and only when there are none.
#
# Of a type with gates nothing is taken here. Its row has no id: `places` says how many of the first $4 are its own, and
# `opens_in` in how many seconds its rate lets the next one start, unless the clock was set back: then its starts are looked at.
# With any gate of a tenant all types have gates.
CLAIM_BESIDE_GATES = f"""
WITH type AS MATERIALIZED (
    SELECT wanted.type, wanted.capacity, queue_types.max_running,
        coalesce(queue_types.gated, false) OR (SELECT EXISTS (SELECT FROM queue_tenants WHERE gated)) AS gated,
        CASE WHEN queue_types.rate_count IS NOT NULL THEN (
            SELECT extract(epoch FROM next_at - now()) FROM queue_rates
            WHERE queue_rates.type = wanted.type AND queue_rates.tenant = '' AND next_at > now()
                AND NOT coalesce(start_times[cardinality(start_times)] > {LATEST_START}, false)
        ) END AS opens_in
    FROM unnest($2::text[], $3::integer[]) AS wanted (type, capacity)
    LEFT JOIN queue_types ON queue_types.type = ANY (ARRAY[wanted.type])
    WHERE queue_types.paused IS NOT TRUE AND EXISTS (SELECT FROM queue_workers WHERE worker_id = $1::uuid)
), room AS MATERIALIZED (
    SELECT type.type, type.gated,
        CASE
            WHEN type.opens_in IS NOT NULL THEN 0
            WHEN type.max_running IS NULL THEN type.capacity
            ELSE greatest(least(type.capacity, type.max_running - (
                SELECT count(*) FROM queue WHERE queue.gated AND queue.type = type.type
            )), 0)
        END AS capacity
    FROM type
), wanted AS MATERIALIZED (
    SELECT room.type, room.gated, line.priority, line.start, room.capacity
    FROM room JOIN queue_lines AS line ON line.type = ANY (ARRAY[room.type])
), best AS MATERIALIZED (
    SELECT type, gated, priority, start
    FROM (
        SELECT wanted.type, wanted.gated, wanted.capacity, wanted.priority, wanted.start, entry.id,
            row_number() OVER (PARTITION BY wanted.type ORDER BY -wanted.priority, entry.rank, entry.id) AS place
        FROM wanted CROSS JOIN LATERAL (
            SELECT queue.rank, queue.id
            FROM queue
            WHERE queue.state = 'ready' AND queue.type = wanted.type AND -queue.priority = -wanted.priority
                AND queue.rank >= wanted.start AND (queue.expires_at IS NULL OR queue.expires_at > now())
                AND queue.tenant <> ALL (ARRAY(SELECT tenant FROM queue_tenants WHERE paused))
            ORDER BY queue.rank, queue.id
            LIMIT wanted.capacity
        ) AS entry
    ) AS entry
    WHERE place <= capacity
    ORDER BY -priority, place, id
    LIMIT $4::integer
), share AS MATERIALIZED (
    SELECT type, gated, priority, start, count(*) AS places FROM best GROUP BY type, gated, priority, start
), picked AS MATERIALIZED (
    SELECT entry.id
    FROM share CROSS JOIN LATERAL (
        SELECT queue.id
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = share.type AND -queue.priority = -share.priority
            AND queue.rank >= share.start AND (queue.expires_at IS NULL OR queue.expires_at > now())
            AND queue.tenant <> ALL (ARRAY(SELECT tenant FROM queue_tenants WHERE paused))
        ORDER BY queue.rank, queue.id
        LIMIT share.places
        FOR UPDATE SKIP LOCKED
    ) AS entry
    WHERE NOT share.gated
), claimed AS (
    UPDATE queue
    SET state = 'running', attempt = attempt + 1, fence = nextval('queue_fence'), worker_id = $1::uuid,
        unique_slot = CASE WHEN unique_while = 'unfinished' THEN unique_slot END
    WHERE id = ANY (ARRAY(SELECT picked.id FROM picked))
    RETURNING id, type, tenant, attempt, max_attempts, fence, priority, rank
)
SELECT id, type, tenant, attempt, max_attempts, fence, priority, rank, NULL::bigint AS places,
    NULL::double precision AS opens_in
FROM claimed
UNION ALL
SELECT NULL, type.type, NULL, NULL, NULL, NULL, NULL, NULL,
    (SELECT coalesce(sum(places), 0) FROM share WHERE share.type = type.type), opens_in
FROM type
WHERE gated
"""  # noqa: S608 - put together of constants

"""The SQL statements that let entries through the gates, or hold them there.

Locks are taken in this order: entries, the rows of types, the rows of tenants, each sorted. Who holds the row of a
type takes further entries only where they are free. Counts are made in a statement after the one that took the lock:
it sees what whoever had the lock before has done.
"""

# How long after a limit was set what was claimed before is looked for: a claim of that moment has ended by then.
_SETTLES = "interval '1 minute'"

_TYPE_SETTINGS = f"""
SELECT queue_types.*, now() AS now, EXISTS (SELECT FROM queue_tenants WHERE gated) AS has_gated_tenants,
    coalesce(gated_since > now() - {_SETTLES}, false)
        OR EXISTS (SELECT FROM queue_tenants WHERE gated AND gated_since > now() - {_SETTLES}) AS settling
"""  # noqa: S608 - put together of constants

# Of a type for which nothing is set the row says only that.
READ_TYPES = f"""{_TYPE_SETTINGS}, wanted.type AS type
FROM unnest($1::text[]) AS wanted (type) LEFT JOIN queue_types ON queue_types.type = wanted.type
"""

LOCK_TYPES = f"{_TYPE_SETTINGS} FROM queue_types WHERE type = ANY ($1::text[]) ORDER BY type FOR UPDATE"

# Who has locked tenants, or other types, waits for none any more.
LOCK_FREE_TYPES = f"{LOCK_TYPES} SKIP LOCKED"

# Of types at whose gates an entry that ends makes room for one that is parked.
READ_PARKING_TYPES = f"""{_TYPE_SETTINGS}
FROM queue_types
WHERE type = ANY ($1::text[])
    AND (keyed OR max_running_per_tenant IS NOT NULL OR EXISTS (SELECT FROM queue_tenants WHERE gated))
"""

READ_TENANTS = """
SELECT tenant, paused, weight, max_running, rate_count, rate_period, rate_smooth
FROM queue_tenants
WHERE tenant = ANY ($1::text[])
"""

READ_GATED_TENANTS = "SELECT tenant FROM queue_tenants WHERE tenant = ANY ($1::text[]) AND gated"

LOCK_GATED_TENANTS = """
SELECT tenant FROM queue_tenants WHERE tenant = ANY ($1::text[]) AND gated ORDER BY tenant FOR UPDATE
"""

LOCK_FREE_GATED_TENANTS = f"{LOCK_GATED_TENANTS} SKIP LOCKED"

_CANDIDATES = """
SELECT entry.*
FROM wanted CROSS JOIN LATERAL (
    SELECT entry.*
    FROM (
        SELECT priority, start FROM queue_lines WHERE queue_lines.type = wanted.type ORDER BY -priority
    ) AS line CROSS JOIN LATERAL (
        SELECT queue.id, queue.type, queue.tenant, queue.priority, queue.rank, queue.concurrency_key,
            queue.concurrency_limit, queue.key_order
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = wanted.type AND -queue.priority = -line.priority
            AND queue.rank >= line.start AND (queue.expires_at IS NULL OR queue.expires_at > now())
            AND queue.tenant <> ALL (ARRAY(SELECT tenant FROM queue_tenants WHERE paused))
        ORDER BY queue.rank, queue.id
        LIMIT wanted.places
        FOR UPDATE SKIP LOCKED
    ) AS entry
    LIMIT wanted.places
) AS entry
"""

# $1 types, $2 how many of each. The first of each line, those of higher priorities first.
CANDIDATES = f"""
WITH wanted AS MATERIALIZED (
    SELECT type, places FROM unnest($1::text[], $2::integer[]) AS wanted (type, places)
), candidate AS MATERIALIZED ({_CANDIDATES})
SELECT * FROM candidate ORDER BY type, -priority, rank, id
"""  # noqa: S608 - put together of constants

_START = """
UPDATE queue
SET state = 'running', gated = true, attempt = attempt + 1, fence = nextval('queue_fence'), worker_id = $1::uuid,
    unique_slot = CASE WHEN unique_while = 'unfinished' THEN unique_slot END
"""

_STARTED = "RETURNING id, type, tenant, attempt, max_attempts, fence, priority, rank"

# $1 the worker, $2 types that have no other gate than a limit of what runs at once, $3 how many of each, $4 as $8 of RUNNING.
START_FIRST = f"""
WITH wanted AS MATERIALIZED (
    SELECT type, greatest(least(wanted.places, queue_types.max_running - (
        SELECT count(*) FROM queue WHERE queue.gated AND queue.type = wanted.type
    ) - (
        SELECT count(*) FROM queue
        WHERE $4::boolean AND queue.state = 'running' AND NOT queue.gated AND queue.type = wanted.type
    )), 0) AS places
    FROM unnest($2::text[], $3::integer[]) AS wanted (type, places) JOIN queue_types USING (type)
), candidate AS MATERIALIZED ({_CANDIDATES})
{_START}
WHERE id = ANY (ARRAY(SELECT candidate.id FROM candidate))
{_STARTED}
"""  # noqa: S608 - put together of constants

# How many run within each gate. $1 types, $2 and $3 tenants of types, $4 tenants, $5 to $7 keys, $8 whether what was
# claimed before a limit was set may be there. `head`: who is at the front of a key in strict order.
RUNNING = """
WITH unmarked AS MATERIALIZED (
    SELECT type, tenant, concurrency_key FROM queue WHERE $8::boolean AND state = 'running' AND NOT gated
)
SELECT wanted.type, NULL AS tenant, NULL AS concurrency_key,
    (SELECT count(*) FROM queue WHERE gated AND queue.type = wanted.type)
    + (SELECT count(*) FROM unmarked WHERE unmarked.type = wanted.type) AS running,
    NULL::uuid AS head, false AS blocked
FROM unnest($1::text[]) AS wanted (type)
UNION ALL
SELECT wanted.type, wanted.tenant, NULL,
    (SELECT count(*) FROM queue WHERE gated AND queue.type = wanted.type AND queue.tenant = wanted.tenant)
    + (SELECT count(*) FROM unmarked WHERE unmarked.type = wanted.type AND unmarked.tenant = wanted.tenant),
    NULL, false
FROM unnest($2::text[], $3::text[]) AS wanted (type, tenant)
UNION ALL
SELECT NULL, wanted.tenant, NULL,
    (
        SELECT count(*)
        FROM queue_types JOIN queue ON queue.gated AND queue.type = queue_types.type
        WHERE queue.tenant = wanted.tenant
    ) + (SELECT count(*) FROM unmarked WHERE unmarked.tenant = wanted.tenant),
    NULL, false
FROM unnest($4::text[]) AS wanted (tenant)
UNION ALL
SELECT wanted.type, wanted.tenant, wanted.concurrency_key,
    (
        SELECT count(*) FROM queue
        WHERE gated AND queue.type = wanted.type AND queue.tenant = wanted.tenant
            AND queue.concurrency_key = wanted.concurrency_key
    ) + (
        SELECT count(*) FROM unmarked
        WHERE unmarked.type = wanted.type AND unmarked.tenant = wanted.tenant
            AND unmarked.concurrency_key = wanted.concurrency_key
    ),
    (
        SELECT id FROM queue
        WHERE queue.type = wanted.type AND queue.tenant = wanted.tenant
            AND queue.concurrency_key = wanted.concurrency_key
            AND key_order IS NOT NULL AND (state <> 'scheduled' OR attempt > 0 OR rank > 0)
            AND (state = 'running' OR expires_at IS NULL OR expires_at > now())
        ORDER BY enqueued_at, id
        LIMIT 1
    ),
    EXISTS (
        SELECT FROM queue_blocked_keys AS blocked
        WHERE blocked.type = wanted.type AND blocked.tenant = wanted.tenant
            AND blocked.concurrency_key = wanted.concurrency_key
    )
FROM unnest($5::text[], $6::text[], $7::text[]) AS wanted (type, tenant, concurrency_key)
"""

READ_RATES = """
SELECT type, tenant, start_times, start_counts, next_at
FROM queue_rates
WHERE (type, tenant) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""

SAVE_RATES = """
INSERT INTO queue_rates (type, tenant, start_times, start_counts, next_at, waiting, idle_at)
SELECT type, tenant, ARRAY(SELECT time::timestamptz FROM jsonb_array_elements_text(times) AS time),
    ARRAY(SELECT count::integer FROM jsonb_array_elements_text(counts) AS count), next_at, waiting, idle_at
FROM unnest(
    $1::text[], $2::text[], $3::text[]::jsonb[], $4::text[]::jsonb[], $5::timestamptz[], $6::boolean[], $7::timestamptz[]
) AS rate (type, tenant, times, counts, next_at, waiting, idle_at)
ORDER BY type, tenant
ON CONFLICT (type, tenant) DO UPDATE
SET start_times = excluded.start_times, start_counts = excluded.start_counts, next_at = excluded.next_at,
    waiting = excluded.waiting, idle_at = excluded.idle_at
"""

# $1 the worker, $2 what starts, $3 and $4 what is parked, and by what.
START = f"""
WITH parked AS (
    UPDATE queue SET state = 'parked', parked_by = held.parked_by
    FROM unnest($3::uuid[], $4::text[]) AS held (id, parked_by)
    WHERE queue.id = ANY (ARRAY[held.id])
)
{_START}
WHERE id = ANY ($2::uuid[])
{_STARTED}
"""  # noqa: S608 - put together of constants

# The place in line of entries that are let go: where they were, or at the head of the line if it has gone on, but a stride
# behind what runs of their tenant, as if they had been waiting in line all the time. `behind`: many at once, who stand behind what
# their tenant has in line.
_LET_GO = """
place AS MATERIALIZED (
    SELECT share.*, greatest(
        coalesce(line.next_start, 0),
        (
            SELECT queue.rank
            FROM queue
            WHERE queue.state = 'ready' AND queue.type = share.type AND -queue.priority = -share.priority
                AND queue.rank >= coalesce(line.start, 0)
            ORDER BY queue.rank
            LIMIT 1
        ),
        (
            SELECT max(queue.rank) + share.stride
            FROM queue
            WHERE gated AND queue.type = share.type AND queue.tenant = share.tenant AND queue.priority = share.priority
        ),
        CASE WHEN share.behind THEN (
            SELECT queue.rank + share.stride
            FROM queue
            WHERE queue.state = 'ready' AND queue.type = share.type AND queue.tenant = share.tenant
                AND queue.priority = share.priority
            ORDER BY queue.rank DESC
            LIMIT 1
        ) END
    ) AS rank
    FROM (SELECT DISTINCT type, tenant, priority, stride, behind FROM parked) AS share
    LEFT JOIN queue_lines AS line ON line.type = share.type AND line.priority = share.priority
), numbered AS MATERIALIZED (
    SELECT parked.id, greatest(
        parked.rank,
        place.rank + place.stride * (row_number() OVER (
            PARTITION BY parked.type, parked.tenant, parked.priority ORDER BY parked.rank, parked.id
        ) - 1)
    ) AS rank
    FROM parked JOIN place USING (type, tenant, priority)
)
UPDATE queue SET state = 'ready', parked_by = NULL, rank = numbered.rank
FROM numbered
WHERE queue.id = ANY (ARRAY[numbered.id]) AND queue.parked_by IS NOT NULL
RETURNING queue.type, queue.tenant, queue.concurrency_key
"""

# $1 types, $2 tenants, $3 how many may be in line: those there before the first one parked are enough. $4: `behind`.
LET_TENANTS_GO = f"""
WITH wanted AS MATERIALIZED (
    SELECT wanted.*, 1000000 / coalesce(queue_tenants.weight, 1) AS stride
    FROM unnest($1::text[], $2::text[], $3::integer[], $4::boolean[]) AS wanted (type, tenant, places, behind)
    LEFT JOIN queue_tenants ON queue_tenants.tenant = wanted.tenant
), parked AS MATERIALIZED (
    SELECT entry.*, wanted.stride, wanted.behind
    FROM wanted CROSS JOIN LATERAL (
        SELECT queue.priority, queue.rank
        FROM queue
        WHERE queue.parked_by = 'tenant' AND queue.tenant = wanted.tenant AND queue.type = wanted.type
            AND (queue.expires_at IS NULL OR queue.expires_at > now())
        ORDER BY -queue.priority, queue.rank, queue.id
        LIMIT 1
    ) AS first CROSS JOIN LATERAL (
        SELECT count(*) AS waiting
        FROM (
            SELECT FROM queue
            WHERE NOT wanted.behind AND queue.state = 'ready' AND queue.type = wanted.type
                AND queue.tenant = wanted.tenant AND queue.priority = first.priority AND queue.rank <= first.rank
            LIMIT wanted.places
        ) AS waiting
    ) AS front CROSS JOIN LATERAL (
        SELECT count(*) AS waiting
        FROM (
            SELECT FROM queue
            WHERE NOT wanted.behind AND queue.state = 'ready' AND queue.type = wanted.type
                AND queue.tenant = wanted.tenant AND queue.priority > first.priority
            LIMIT wanted.places
        ) AS waiting
    ) AS above CROSS JOIN LATERAL (
        SELECT queue.id, queue.type, queue.tenant, queue.priority, queue.rank
        FROM queue
        WHERE queue.parked_by = 'tenant' AND queue.tenant = wanted.tenant AND queue.type = wanted.type
            AND (queue.expires_at IS NULL OR queue.expires_at > now())
        ORDER BY -queue.priority, queue.rank, queue.id
        LIMIT greatest(wanted.places - front.waiting - above.waiting, 0)
        FOR UPDATE SKIP LOCKED
    ) AS entry
), {_LET_GO}"""  # noqa: S608 - put together of constants

# $1 types, $2 tenants, $3 keys, $4 how many of each run. The first one parked says how many may.
LET_KEYS_GO = f"""
WITH wanted AS MATERIALIZED (
    SELECT wanted.*, 1000000 / coalesce(queue_tenants.weight, 1) AS stride
    FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[]) AS wanted (type, tenant, concurrency_key, running)
    LEFT JOIN queue_tenants ON queue_tenants.tenant = wanted.tenant
), parked AS MATERIALIZED (
    SELECT entry.*, wanted.stride, false AS behind
    FROM wanted CROSS JOIN LATERAL (
        SELECT queue.priority, queue.rank, queue.concurrency_limit - wanted.running AS places
        FROM queue
        WHERE queue.parked_by = 'key' AND queue.type = wanted.type AND queue.tenant = wanted.tenant
            AND queue.concurrency_key = wanted.concurrency_key AND queue.key_order IS NULL
            AND (queue.expires_at IS NULL OR queue.expires_at > now())
        ORDER BY -queue.priority, queue.rank, queue.id
        LIMIT 1
    ) AS first CROSS JOIN LATERAL (
        SELECT count(*) AS waiting
        FROM (
            SELECT FROM queue
            WHERE queue.state = 'ready' AND queue.concurrency_key IS NOT NULL AND queue.type = wanted.type
                AND queue.tenant = wanted.tenant AND queue.concurrency_key = wanted.concurrency_key
                AND (-queue.priority, queue.rank) <= (-first.priority, first.rank)
            LIMIT greatest(first.places, 0)
        ) AS waiting
    ) AS front CROSS JOIN LATERAL (
        SELECT queue.id, queue.type, queue.tenant, queue.priority, queue.rank
        FROM queue
        WHERE queue.parked_by = 'key' AND queue.type = wanted.type AND queue.tenant = wanted.tenant
            AND queue.concurrency_key = wanted.concurrency_key AND queue.key_order IS NULL
            AND (queue.expires_at IS NULL OR queue.expires_at > now())
        ORDER BY -queue.priority, queue.rank, queue.id
        LIMIT greatest(first.places - front.waiting, 0)
        FOR UPDATE SKIP LOCKED
    ) AS entry
), {_LET_GO}"""  # noqa: S608 - put together of constants

# $1 those at the front of keys in strict order.
LET_HEADS_GO = f"""
WITH parked AS MATERIALIZED (
    SELECT entry.*, 1000000 / coalesce(queue_tenants.weight, 1) AS stride, false AS behind
    FROM (
        SELECT id, type, tenant, priority, rank
        FROM queue
        WHERE id = ANY ($1::uuid[]) AND parked_by = 'key'
        FOR UPDATE SKIP LOCKED
    ) AS entry LEFT JOIN queue_tenants ON queue_tenants.tenant = entry.tenant
), {_LET_GO}"""  # noqa: S608 - put together of constants

# $1 and $2 types and tenants, $3 to $5 keys, $6 tenants that have a gate of their own over all types. By the first entry
# of each in the index, in its order: without one the table might be searched.
PARKED_AT = """
SELECT wanted.type, wanted.tenant, NULL AS concurrency_key
FROM (
    SELECT type, tenant FROM unnest($1::text[], $2::text[]) AS share (type, tenant)
    UNION
    SELECT line.type, tenant
    FROM unnest($6::text[]) AS gated (tenant) CROSS JOIN (SELECT DISTINCT type FROM queue_lines) AS line
) AS wanted CROSS JOIN LATERAL (
    SELECT FROM queue
    WHERE queue.parked_by = 'tenant' AND queue.tenant = wanted.tenant AND queue.type = wanted.type
    ORDER BY -queue.priority, queue.rank, queue.id
    LIMIT 1
) AS first
UNION ALL
SELECT wanted.type, wanted.tenant, wanted.concurrency_key
FROM unnest($3::text[], $4::text[], $5::text[]) AS wanted (type, tenant, concurrency_key) CROSS JOIN LATERAL (
    SELECT FROM queue
    WHERE queue.parked_by = 'key' AND queue.type = wanted.type AND queue.tenant = wanted.tenant
        AND queue.concurrency_key = wanted.concurrency_key
    ORDER BY -queue.priority, queue.rank, queue.id
    LIMIT 1
) AS first
"""

BLOCK_KEYS = """
INSERT INTO queue_blocked_keys (type, tenant, concurrency_key, id, enqueued_at)
SELECT type, tenant, concurrency_key, id, coalesce(enqueued_at, now())
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[])
    AS failed (type, tenant, concurrency_key, id, enqueued_at)
ORDER BY type, tenant, concurrency_key
ON CONFLICT DO NOTHING
"""

UNBLOCK_KEY = """
DELETE FROM queue_blocked_keys WHERE type = $1::text AND tenant = $2::text AND concurrency_key = $3::text
RETURNING id
"""

# An entry that is tried again is at the front of its key, as it was before it failed.
UNBLOCK_RETRIED = """
WITH retried AS (
    DELETE FROM queue_blocked_keys WHERE id = ANY ($1::uuid[]) RETURNING id, enqueued_at
)
UPDATE queue SET enqueued_at = retried.enqueued_at FROM retried WHERE queue.id = ANY (ARRAY[retried.id])
"""

# The rows that are keyed already are left alone, and not locked.
MARK_KEYED = """
INSERT INTO queue_types (type, keyed, gated_since)
SELECT type, true, now()
FROM unnest($1::text[]) AS entering (type)
WHERE NOT EXISTS (SELECT FROM queue_types WHERE queue_types.type = entering.type AND keyed)
ORDER BY type
ON CONFLICT (type) DO UPDATE
SET keyed = true, gated_since = CASE WHEN queue_types.gated THEN queue_types.gated_since ELSE now() END
"""

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
FROM unnest($1::text[]) AS wanted (type) LEFT JOIN queue_types ON queue_types.type = ANY (ARRAY[wanted.type])
"""

LOCK_TYPES = f"{_TYPE_SETTINGS} FROM queue_types WHERE type = ANY ($1::text[]) ORDER BY type FOR UPDATE"

# Who has locked tenants, or other types, waits for none any more.
LOCK_FREE_TYPES = f"{LOCK_TYPES} SKIP LOCKED"

_PARKS = "(keyed OR max_running_per_tenant IS NOT NULL OR EXISTS (SELECT FROM queue_tenants WHERE gated))"

# Of types at whose gates an entry that ends makes room for another one. `parks`: for one that may be parked; `waits`: for one
# that stands in line.
READ_LEFT_TYPES = f"""{_TYPE_SETTINGS}, {_PARKS} AS parks, max_running IS NOT NULL AND (
    SELECT head.rank
    FROM queue_lines AS line CROSS JOIN LATERAL (
        SELECT queue.rank
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = line.type AND -queue.priority = -line.priority
            AND queue.rank >= line.start
        ORDER BY queue.rank, queue.id
        LIMIT 1
    ) AS head
    WHERE line.type = queue_types.type
    LIMIT 1
) IS NOT NULL AS waits
FROM queue_types
WHERE type = ANY ($1::text[]) AND (max_running IS NOT NULL OR {_PARKS})
"""  # noqa: S608 - put together of constants

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
    SELECT wanted.type, greatest(least(wanted.places, queue_types.max_running - (
        SELECT count(*) FROM queue WHERE queue.gated AND queue.type = wanted.type
    ) - (
        SELECT count(*) FROM queue
        WHERE $4::boolean AND queue.state = 'running' AND NOT queue.gated AND queue.type = wanted.type
    )), 0) AS places
    FROM unnest($2::text[], $3::integer[]) AS wanted (type, places)
    JOIN queue_types ON queue_types.type = ANY (ARRAY[wanted.type])
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
        SELECT coalesce(sum(counted.running), 0)::bigint
        FROM queue_types CROSS JOIN LATERAL (
            SELECT count(*) AS running FROM queue
            WHERE gated AND queue.type = queue_types.type AND queue.tenant = wanted.tenant
        ) AS counted
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
    (
        SELECT blocked.id FROM queue_blocked_keys AS blocked
        WHERE blocked.type = wanted.type AND blocked.tenant = wanted.tenant
            AND blocked.concurrency_key = wanted.concurrency_key
    ) IS NOT NULL
FROM unnest($5::text[], $6::text[], $7::text[]) AS wanted (type, tenant, concurrency_key)
"""

READ_RATES = """
SELECT rate.*
FROM unnest($1::text[], $2::text[]) AS wanted (type, tenant) CROSS JOIN LATERAL (
    SELECT queue_rates.type, queue_rates.tenant, start_times, start_counts, next_at
    FROM queue_rates
    WHERE queue_rates.type = wanted.type AND queue_rates.tenant = wanted.tenant
    LIMIT 1
) AS rate
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

_STRIDE = "1000000 / coalesce((SELECT weight FROM queue_tenants WHERE queue_tenants.tenant = {}), 1)"

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
            ORDER BY queue.rank, queue.id
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
    LEFT JOIN LATERAL (
        SELECT start, next_start FROM queue_lines
        WHERE queue_lines.type = share.type AND queue_lines.priority = share.priority
        LIMIT 1
    ) AS line ON true
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
    SELECT wanted.*, {_STRIDE.format("wanted.tenant")} AS stride
    FROM unnest($1::text[], $2::text[], $3::integer[], $4::boolean[]) AS wanted (type, tenant, places, behind)
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
    SELECT wanted.*, {_STRIDE.format("wanted.tenant")} AS stride
    FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[]) AS wanted (type, tenant, concurrency_key, running)
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
            ORDER BY -queue.priority, queue.rank
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

# $1 those at the front of keys in strict order. `coalesce` keeps the index of what is parked, in which the id comes last, out
# of the choice.
LET_HEADS_GO = f"""
WITH parked AS MATERIALIZED (
    SELECT entry.*, {_STRIDE.format("entry.tenant")} AS stride, false AS behind
    FROM unnest($1::uuid[]) AS head (id) CROSS JOIN LATERAL (
        SELECT queue.id, queue.type, queue.tenant, queue.priority, queue.rank
        FROM queue
        WHERE queue.id = head.id AND coalesce(queue.parked_by, '') = 'key'
        FOR UPDATE SKIP LOCKED
    ) AS entry
), {_LET_GO}"""  # noqa: S608 - put together of constants

# $1 and $2 types and tenants, $3 to $5 keys, $6 tenants that have a gate of their own over all types. By the first entry
# of each in the index, in its order: without one the table might be searched.
PARKED_AT = """
SELECT wanted.type, wanted.tenant, NULL AS concurrency_key
FROM (
    SELECT type, tenant FROM unnest($1::text[], $2::text[]) AS share (type, tenant)
    UNION
    SELECT line.type, tenant
    FROM unnest($6::text[]) AS gated (tenant) CROSS JOIN (
        SELECT DISTINCT type FROM queue_lines WHERE cardinality($6::text[]) > 0
    ) AS line
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

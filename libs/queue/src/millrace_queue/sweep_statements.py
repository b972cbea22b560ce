"""The SQL statements that keep gates in order when something happened that no claim and no release has seen to."""

BATCH = 1_000
"""So many entries, or groups of parked entries, are dealt with in one sweep."""

PAUSED_AT_ONCE = 200
"""What so many paused tenants have in line is looked for in one sweep."""

# One sweep at a time is enough; the lock ends with the transaction. The number is as good as any other.
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(7093162540031)"

# What there is to do at all, found by the first entry of each index; without an order the table might be searched.
OVERVIEW = """
SELECT
    EXISTS (SELECT FROM queue_types WHERE gated) OR EXISTS (SELECT FROM queue_tenants WHERE gated) AS has_gates,
    ARRAY(SELECT tenant FROM queue_tenants WHERE paused AND tenant > $1::text ORDER BY tenant LIMIT $2::integer) AS paused,
    (SELECT tenant FROM queue WHERE parked_by = 'tenant' ORDER BY tenant, type LIMIT 1) IS NOT NULL AS parked_by_tenant,
    (SELECT type FROM queue WHERE parked_by = 'key' ORDER BY type, tenant LIMIT 1) IS NOT NULL AS parked_by_key,
    EXISTS (SELECT FROM queue_rates) AS has_rates,
    greatest((SELECT max(changed_at) FROM queue_types), (SELECT max(changed_at) FROM queue_tenants)) AS changed_at
"""

# What was claimed before its type had gates, or by a release that knows none; `marked` is false of what somebody has locked.
# `coalesce` leaves only the primary key to look an entry up: the index of all that run would be gone through for each one.
MARK_GATED = """
WITH unmarked AS MATERIALIZED (
    SELECT id, type, tenant
    FROM queue
    WHERE state = 'running' AND NOT gated AND (
        type = ANY (ARRAY(SELECT type FROM queue_types WHERE queue_types.gated))
        OR EXISTS (SELECT FROM queue_tenants WHERE queue_tenants.gated)
    )
    LIMIT $1::integer
), tried AS MATERIALIZED (
    SELECT unmarked.*, entry.id IS NOT NULL AS marked
    FROM unmarked LEFT JOIN LATERAL (
        SELECT queue.id FROM queue
        WHERE queue.id = unmarked.id AND coalesce(queue.state, '') = 'running' AND NOT queue.gated
        FOR UPDATE SKIP LOCKED
    ) AS entry ON true
), marked AS (
    UPDATE queue SET gated = true WHERE id = ANY (ARRAY(SELECT tried.id FROM tried WHERE tried.marked))
)
SELECT type, tenant, marked FROM tried
"""

_SOON_SETTLED = "gated AND coalesce(gated_since, '-infinity') < now() - interval '30 seconds'"

# $1 and $2: types and tenants of what could not be marked. It is counted for another minute; the next sweep tries again.
KEEP_SETTLING = f"""
WITH type AS (
    UPDATE queue_types SET gated_since = now()
    WHERE type IN (
        SELECT type FROM queue_types WHERE type = ANY ($1::text[]) AND {_SOON_SETTLED}
        ORDER BY type FOR UPDATE SKIP LOCKED
    )
)
UPDATE queue_tenants SET gated_since = now()
WHERE tenant IN (
    SELECT tenant FROM queue_tenants WHERE tenant = ANY ($2::text[]) AND {_SOON_SETTLED}
    ORDER BY tenant FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - put together of constants

# What paused tenants have in line stands in the way of others. Those with strict keys keep their order all the same.
PARK_PAUSED = """
WITH ready AS MATERIALIZED (
    SELECT entry.id
    FROM queue_tenants AS tenant CROSS JOIN (SELECT DISTINCT type FROM queue_lines) AS line CROSS JOIN LATERAL (
        SELECT queue.id
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = line.type AND queue.tenant = tenant.tenant
        LIMIT $2::integer
        FOR UPDATE SKIP LOCKED
    ) AS entry
    WHERE tenant.tenant = ANY ($1::text[]) AND tenant.paused
    LIMIT $2::integer
)
UPDATE queue SET state = 'parked', parked_by = 'tenant' WHERE id = ANY (ARRAY(SELECT ready.id FROM ready))
RETURNING 1
"""

# $1, $2: the last group of the sweep before. From one group to the next by one probe of the index each.
SHARES_WITH_PARKED = """
WITH RECURSIVE share AS (
    (
        SELECT tenant, type FROM queue
        WHERE parked_by = 'tenant' AND (tenant, type) > ($1::text, $2::text)
        ORDER BY tenant, type LIMIT 1
    )
    UNION ALL
    SELECT next.tenant, next.type
    FROM share CROSS JOIN LATERAL (
        SELECT queue.tenant, queue.type FROM queue
        WHERE parked_by = 'tenant' AND (queue.tenant, queue.type) > (share.tenant, share.type)
        ORDER BY queue.tenant, queue.type LIMIT 1
    ) AS next
)
SELECT tenant, type FROM share LIMIT $3::integer
"""

KEYS_WITH_PARKED = """
WITH RECURSIVE key AS (
    (
        SELECT type, tenant, concurrency_key FROM queue
        WHERE parked_by = 'key' AND (type, tenant, concurrency_key) > ($1::text, $2::text, $3::text)
        ORDER BY type, tenant, concurrency_key LIMIT 1
    )
    UNION ALL
    SELECT next.type, next.tenant, next.concurrency_key
    FROM key CROSS JOIN LATERAL (
        SELECT queue.type, queue.tenant, queue.concurrency_key FROM queue
        WHERE parked_by = 'key'
            AND (queue.type, queue.tenant, queue.concurrency_key) > (key.type, key.tenant, key.concurrency_key)
        ORDER BY queue.type, queue.tenant, queue.concurrency_key LIMIT 1
    ) AS next
)
SELECT type, tenant, concurrency_key FROM key LIMIT $4::integer
"""

# Rates of tenants that are open again. A claim that uses them up says so anew.
TAKE_OPENED_RATES = """
WITH opened AS MATERIALIZED (
    SELECT type, tenant FROM queue_rates WHERE waiting AND next_at <= now() ORDER BY next_at LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE queue_rates SET waiting = false
FROM opened
WHERE queue_rates.type = ANY (ARRAY[opened.type]) AND queue_rates.tenant = ANY (ARRAY[opened.tenant])
RETURNING queue_rates.type, queue_rates.tenant
"""

SECONDS_UNTIL_RATE = """
SELECT greatest(extract(epoch FROM next_at - clock_timestamp()), 0)::double precision
FROM queue_rates WHERE waiting ORDER BY next_at LIMIT 1
"""

REMOVE_IDLE_RATES = """
WITH idle AS MATERIALIZED (
    SELECT type, tenant FROM queue_rates
    WHERE idle_at < now() - interval '1 minute' AND NOT waiting
    ORDER BY idle_at LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM queue_rates USING idle
WHERE queue_rates.type = ANY (ARRAY[idle.type]) AND queue_rates.tenant = ANY (ARRAY[idle.tenant])
"""

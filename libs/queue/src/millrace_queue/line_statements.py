"""The SQL statements by which entries come into a line, and those that keep the lines.

A line is what waits of a type and priority. Its order is fixed by a rank that an entry gets when it becomes ready:
start-time fair queueing (Goyal, Vin, Cheng 1996), where the virtual time is the rank at the head of the line.
"""

# Of the entries in `entering`, those not `later` become ready. `share` gives, for each line and tenant, the rank of
# the next one: that at the head of the line, or a stride behind the tenant's own last one. Two transactions that do not see each
# other may give out the same ranks, which does no harm. Neither probe passes over what served entries left in
# the index before the start of the line.
_SHARES = """
line AS MATERIALIZED (
    SELECT line.type, line.priority, queue_lines.start IS NULL AS is_new,
        greatest(queue_lines.next_start, head.rank, 0) AS head
    FROM (SELECT DISTINCT type, priority FROM entering) AS line
    LEFT JOIN queue_lines ON queue_lines.type = line.type AND queue_lines.priority = line.priority
    LEFT JOIN LATERAL (
        SELECT queue.rank
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = line.type AND -queue.priority = -line.priority
            AND queue.rank >= coalesce(queue_lines.start, 0)
        ORDER BY queue.rank
        LIMIT 1
    ) AS head ON true
), share AS MATERIALIZED (
    SELECT share.type, share.priority, share.tenant, line.head, stride.stride,
        greatest(line.head, last.rank + stride.stride) AS next
    FROM (SELECT DISTINCT type, priority, tenant FROM entering WHERE NOT later) AS share
    JOIN line ON line.type = share.type AND line.priority = share.priority
    LEFT JOIN queue_tenants ON queue_tenants.tenant = share.tenant
    CROSS JOIN LATERAL (SELECT 1000000 / coalesce(queue_tenants.weight, 1) AS stride) AS stride
    LEFT JOIN LATERAL (
        SELECT queue.rank
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = share.type AND queue.tenant = share.tenant
            AND queue.priority = share.priority AND queue.rank >= line.head
        ORDER BY queue.rank DESC
        LIMIT 1
    ) AS last ON true
)
"""

_COLUMNS = """
    SELECT *, coalesce(run_at > now(), false) AS later
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::integer[], $5::smallint[], $6::integer[], $7::timestamptz[],
        $8::timestamptz[], $9::text[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::text[]
    ) WITH ORDINALITY AS entry (
        id, type, tenant, max_attempts, priority, attempt, run_at, expires_at, concurrency_key, concurrency_limit,
        key_order, unique_key, unique_while, unique_slot, place
    )
"""

# A claim knows a line by its row. While another transaction adds the same row, this one waits for it: once in the
# life of a type and priority.
_NEW_LINES = """
new_line AS (
    INSERT INTO queue_lines (type, priority)
    SELECT type, priority FROM line WHERE is_new ORDER BY type, priority
    ON CONFLICT DO NOTHING
), new_type AS (
    INSERT INTO queue_types (type) SELECT DISTINCT type FROM line WHERE is_new ORDER BY type
    ON CONFLICT DO NOTHING
)
"""

ENQUEUE = f"""
WITH entering AS MATERIALIZED ({_COLUMNS}), {_SHARES}, {_NEW_LINES}
INSERT INTO queue (
    id, type, tenant, max_attempts, priority, attempt, run_at, state, rank, expires_at, concurrency_key,
    concurrency_limit, key_order, unique_key, unique_while, unique_slot
)
SELECT id, type, tenant, max_attempts, priority, attempt, coalesce(run_at, now()),
    CASE WHEN later THEN 'scheduled' ELSE 'ready' END,
    CASE WHEN later THEN 0 ELSE next + stride * (row_number() OVER same_share - 1) END,
    expires_at, concurrency_key, concurrency_limit, key_order, unique_key, unique_while, unique_slot
FROM entering LEFT JOIN share USING (type, priority, tenant)
WINDOW same_share AS (PARTITION BY type, priority, tenant, later ORDER BY place)
"""  # noqa: S608 - put together of constants

# In one order, so that two transactions with the same keys do not wait for each other in a circle. What has no key
# goes without: an insertion that may meet a conflict costs a quarter more.
ENQUEUE_UNIQUE = f"""{ENQUEUE}
ORDER BY unique_key, unique_slot, place
ON CONFLICT (unique_key, unique_slot) WHERE unique_slot IS NOT NULL DO NOTHING
RETURNING id
"""

# Takes what ENQUEUE takes. Constraints are checked on the entry as the statement's snapshot has it, and then again as
# it was locked: in the snapshot it may still run, so all that belongs to a running one is said to be gone.
REPLACE_WAITING = f"""
WITH wanted AS MATERIALIZED ({_COLUMNS} ORDER BY id), entering AS MATERIALIZED (
    SELECT wanted.*
    FROM wanted CROSS JOIN LATERAL (
        SELECT FROM queue
        WHERE queue.id = wanted.id AND queue.type = wanted.type AND queue.tenant = wanted.tenant
            AND queue.state <> 'running' AND queue.attempt = 0
            AND queue.unique_key = wanted.unique_key AND queue.unique_slot = wanted.unique_slot
        FOR UPDATE
    ) AS entry
), {_SHARES}, {_NEW_LINES}, placed AS MATERIALIZED (
    SELECT *, CASE WHEN later THEN 0 ELSE next + stride * (row_number() OVER same_share - 1) END AS rank
    FROM entering LEFT JOIN share USING (type, priority, tenant)
    WINDOW same_share AS (PARTITION BY type, priority, tenant, later ORDER BY place)
)
UPDATE queue
SET state = CASE WHEN placed.later THEN 'scheduled' ELSE 'ready' END, rank = placed.rank,
    run_at = coalesce(placed.run_at, now()), expires_at = placed.expires_at, priority = placed.priority,
    max_attempts = placed.max_attempts, attempt = 0, concurrency_key = placed.concurrency_key,
    concurrency_limit = placed.concurrency_limit, key_order = placed.key_order, unique_while = placed.unique_while,
    parked_by = NULL, fence = NULL, worker_id = NULL, gated = false, cancel_requested = false
FROM placed
WHERE queue.id = ANY (ARRAY[placed.id])
RETURNING queue.id
"""  # noqa: S608 - put together of constants

# What has been served before stands behind the head, not behind all that its tenant has waiting.
PROMOTE = (
    """
WITH due AS MATERIALIZED (
    SELECT id, type, tenant, priority, attempt, rank, run_at
    FROM queue
    WHERE state = 'scheduled' AND run_at <= now()
    ORDER BY run_at
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
), entering AS MATERIALIZED (
    SELECT *, false AS later, attempt > 0 OR rank > 0 AS served_before FROM due
), """  # noqa: S608 - put together of constants
    + _SHARES
    + """
, ranked AS MATERIALIZED (
    SELECT id,
        CASE WHEN served_before THEN head ELSE next END + stride * (row_number() OVER (
            PARTITION BY type, priority, tenant, served_before ORDER BY run_at, id
        ) - 1) AS rank
    FROM entering JOIN share USING (type, priority, tenant)
)
UPDATE queue SET state = 'ready', rank = ranked.rank
FROM ranked
WHERE queue.id = ANY (ARRAY[ranked.id])
RETURNING type
"""
)

# $1 to $3: the last rank claimed of lines, $4 whether to search from the very beginning. `next_start` moves to the
# first entry there is, or behind the last one claimed when there is none; nothing that comes in afterwards gets a lower
# rank. `start` becomes what `next_start` was before: what has its rank from before is in by now. Searching from the
# beginning finds what was not: its transaction took longer, or its entry was written by a release without ranks.
KEEP_LINES = """
WITH kept AS MATERIALIZED (
    SELECT type, priority, start, next_start, kept_at <= now() - interval '0.7 s' AS is_due
    FROM queue_lines
    WHERE $4::boolean OR type = ANY ($1::text[])
    ORDER BY type, priority
    FOR UPDATE SKIP LOCKED
), found AS MATERIALIZED (
    SELECT kept.*, head.rank AS head, claimed.rank AS claimed
    FROM kept
    LEFT JOIN (
        SELECT type, priority, max(rank) AS rank
        FROM unnest($1::text[], $2::smallint[], $3::bigint[]) AS claimed (type, priority, rank)
        GROUP BY type, priority
    ) AS claimed ON claimed.type = kept.type AND claimed.priority = kept.priority
    LEFT JOIN LATERAL (
        SELECT queue.rank
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = kept.type AND -queue.priority = -kept.priority
            AND queue.rank >= CASE WHEN $4::boolean THEN 0 ELSE kept.start END
        ORDER BY queue.rank
        LIMIT 1
    ) AS head ON true
), moved AS MATERIALIZED (
    SELECT type, priority, start AS old_start, next_start AS old_next_start, least(next_start, head) AS start,
        greatest(next_start, coalesce(head, claimed + 1)) AS next_start
    FROM found
    WHERE is_due OR head < start
)
UPDATE queue_lines SET start = moved.start, next_start = moved.next_start, kept_at = now()
FROM moved
WHERE queue_lines.type = moved.type AND queue_lines.priority = moved.priority
    AND (moved.start, moved.next_start) <> (moved.old_start, moved.old_next_start)
RETURNING moved.start < moved.old_start AS moved_back
"""

ADD_ORDINARY_LINES = """
INSERT INTO queue_lines (type, priority)
SELECT type, 0 FROM unnest($1::text[]) AS wanted (type) ORDER BY type
ON CONFLICT DO NOTHING
"""

# Lines that have entries and no row, because a release without lines wrote them.
ADD_LINES = """
WITH RECURSIVE line AS (
    (SELECT type, -priority AS rank FROM queue WHERE state = 'ready' ORDER BY type, -priority LIMIT 1)
    UNION ALL
    SELECT next.type, next.rank
    FROM line CROSS JOIN LATERAL (
        SELECT queue.type, -queue.priority AS rank
        FROM queue
        WHERE queue.state = 'ready' AND (queue.type, -queue.priority) > (line.type, line.rank)
        ORDER BY queue.type, -queue.priority
        LIMIT 1
    ) AS next
)
, new_type AS (
    INSERT INTO queue_types (type)
    SELECT DISTINCT type FROM line
    WHERE NOT EXISTS (SELECT FROM queue_types WHERE queue_types.type = line.type)
    ORDER BY type
    ON CONFLICT DO NOTHING
)
INSERT INTO queue_lines (type, priority)
SELECT type, -rank FROM line
WHERE NOT EXISTS (
    SELECT FROM queue_lines WHERE queue_lines.type = line.type AND queue_lines.priority = -line.rank
)
ON CONFLICT DO NOTHING
RETURNING type
"""

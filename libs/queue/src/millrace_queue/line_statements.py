"""The SQL statements by which entries come into a line, and those that keep the lines.

A line is what waits of a type and priority. Its order is fixed by a rank that an entry gets when it becomes ready:
start-time fair queueing (Goyal, Vin, Cheng 1996), where the virtual time is the rank at the head of the line.
"""

# The order of heads by rank and id is that of one index only; by the rank alone another one, with a tenant before it, might be
# searched. Neither probe passes over what served entries left in the index before the start of the line.
#
# The entries in `entering` get places behind `next`: the rank at the head of the line, or a stride behind the tenant's own last
# one in it. Those <apart> stand behind the head. Only the first entry of each tenant in each line looks for it, the second one, if
# there is one, for the stride, and the window gives it to the others: joined to a list of tenants, each entry would be compared with
# all of them. Two transactions that do not see each other may give out the same ranks, which does no harm.
_PLACED = """
line AS MATERIALIZED (
    SELECT line.type, line.priority, queue_lines.start IS NULL AS is_new,
        greatest(queue_lines.next_start, head.rank, 0) AS head
    FROM (SELECT DISTINCT type, priority FROM entering) AS line
    LEFT JOIN LATERAL (
        SELECT start, next_start FROM queue_lines
        WHERE queue_lines.type = line.type AND queue_lines.priority = line.priority
        LIMIT 1
    ) AS queue_lines ON true
    LEFT JOIN LATERAL (
        SELECT queue.rank
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = line.type AND -queue.priority = -line.priority
            AND queue.rank >= coalesce(queue_lines.start, 0)
        ORDER BY queue.rank, queue.id
        LIMIT 1
    ) AS head ON true
), placed AS (
    SELECT *, max(CASE WHEN nth = 2 THEN <stride> END) OVER share AS stride,
        max(CASE WHEN nth = 1 THEN (
            SELECT greatest(line.head, CASE WHEN NOT numbered.<apart> THEN (
                SELECT queue.rank
                FROM queue
                WHERE queue.state = 'ready' AND queue.type = numbered.type AND queue.tenant = numbered.tenant
                    AND queue.priority = numbered.priority AND queue.rank >= line.head
                ORDER BY queue.rank DESC
                LIMIT 1
            ) + <stride> END)
            FROM line
            WHERE line.type = numbered.type AND line.priority = numbered.priority
            LIMIT 1
        ) END) OVER share AS next
    FROM (
        SELECT *, row_number() OVER (PARTITION BY type, priority, tenant, <apart> ORDER BY <order>) AS nth
        FROM entering
    ) AS numbered
    WINDOW share AS (PARTITION BY type, priority, tenant, <apart>)
)
""".replace(
    "<stride>",
    "1000000 / coalesce((SELECT weight FROM queue_tenants WHERE queue_tenants.tenant = numbered.tenant), 1)",
)
_COMING_IN = _PLACED.replace("<apart>", "later").replace("<order>", "place")
_RANK = "CASE WHEN later THEN 0 ELSE next + coalesce(stride * (nth - 1), 0) END"

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
WITH entering AS MATERIALIZED ({_COLUMNS}), {_COMING_IN}, {_NEW_LINES}
INSERT INTO queue (
    id, type, tenant, max_attempts, priority, attempt, run_at, state, rank, expires_at, concurrency_key,
    concurrency_limit, key_order, unique_key, unique_while, unique_slot
)
SELECT id, type, tenant, max_attempts, priority, attempt, coalesce(run_at, now()),
    CASE WHEN later THEN 'scheduled' ELSE 'ready' END, {_RANK}, expires_at, concurrency_key, concurrency_limit,
    key_order, unique_key, unique_while, unique_slot
FROM placed
"""  # noqa: S608 - put together of constants

ENTER_PLAIN = f"""
entering AS MATERIALIZED (SELECT *, run_at > now() AS later, id AS place FROM given), {_COMING_IN}, {_NEW_LINES}, entered AS (
    INSERT INTO queue (id, type, tenant, max_attempts, priority, run_at, state, rank)
    SELECT id, type, tenant, max_attempts, priority, run_at, CASE WHEN later THEN 'scheduled' ELSE 'ready' END, {_RANK}
    FROM placed
)
"""  # noqa: S608 - put together of constants
"""ENQUEUE for entries without keys and attempts, to be part of the WITH clause of a statement that makes something else, too.

A CTE `given` before it has their id, type, tenant, max_attempts, priority and run_at. They come in by their ids.
"""

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
), {_COMING_IN}, {_NEW_LINES}
UPDATE queue
SET state = CASE WHEN placed.later THEN 'scheduled' ELSE 'ready' END, rank = {_RANK},
    run_at = coalesce(placed.run_at, now()), expires_at = placed.expires_at, priority = placed.priority,
    max_attempts = placed.max_attempts, attempt = 0, concurrency_key = placed.concurrency_key,
    concurrency_limit = placed.concurrency_limit, key_order = placed.key_order, unique_while = placed.unique_while,
    parked_by = NULL, fence = NULL, worker_id = NULL, gated = false, cancel_requested = false
FROM placed
WHERE queue.id = ANY (ARRAY[placed.id])
RETURNING queue.id
"""  # noqa: S608 - put together of constants

# What has been served before stands behind the head, not behind all that its tenant has waiting.
_PROMOTED = _PLACED.replace("<apart>", "served_before").replace("<order>", "run_at, id")

PROMOTE = f"""
WITH due AS MATERIALIZED (
    SELECT id, type, tenant, priority, attempt, rank, run_at
    FROM queue
    WHERE state = 'scheduled' AND run_at <= now()
    ORDER BY run_at
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
), entering AS MATERIALIZED (
    SELECT id, type, tenant, priority, run_at, attempt > 0 OR rank > 0 AS served_before FROM due
), {_PROMOTED}
UPDATE queue SET state = 'ready', rank = placed.next + coalesce(placed.stride * (placed.nth - 1), 0)
FROM placed
WHERE queue.id = ANY (ARRAY[placed.id])
RETURNING queue.type
"""  # noqa: S608 - put together of constants

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
        ORDER BY queue.rank, queue.id
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
WHERE queue_lines.type = ANY (ARRAY[moved.type]) AND queue_lines.priority = ANY (ARRAY[moved.priority])
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

"""SQL statements of the queue engine; those of lines, gates and of attempts that failed have files of their own.

How locks are taken, so that operations on the same entries never wait for each other in a circle:

- What may wait locks its entries first and in the order of their ids. The lateral subquery with FOR UPDATE sees
  to it: it cannot be turned into another join, so its rows are visited in the order of the sorted leases.
- What can do without an entry (claim, promote, rescue, expire, confirm_free, cancel_free) skips locked ones and never waits.
- Whoever changes other rows along with an entry locks the entry first.
- A handler may hold its own entry for as long as its transaction lasts: FOR KEY SHARE keeps out whoever would end the
  attempt, who locks FOR UPDATE, and lets a cancellation pass, which locks FOR NO KEY UPDATE.

Where rows are joined by ids, `= ANY (ARRAY[…])` stands instead of `=`: with plain equality Postgres may go through a whole
index when statistics say that the table is empty, and a kept plan would do so for ever. This one can only be probed.

A LIMIT with FOR UPDATE SKIP LOCKED stands in a materialized subquery; evaluated twice, it would take twice as many.
"""

# A part of a WITH clause. $1 the worker, $2 types, $3 the capacity of each, $4 the limit over all of them.
#
# `best` finds, without locking, how many of the first $4 entries over all types are of which line; `picked` then
# locks so many of each. Locking the candidates of all lines and keeping $4 of them would hide the others from
# every other worker that claims at this moment. Ranks of different types do not compare: types take turns.
#
# Nothing is found when any of the types, or any tenant, has limits or is paused: CLAIM_BESIDE_GATES sees to that.
CLAIMED = """
wanted AS MATERIALIZED (
    SELECT wanted.type, wanted.capacity, line.priority, line.start
    FROM unnest($2::text[], $3::integer[]) AS wanted (type, capacity)
    JOIN queue_lines AS line ON line.type = ANY (ARRAY[wanted.type])
    WHERE EXISTS (SELECT FROM queue_workers WHERE worker_id = $1::uuid)
        AND NOT EXISTS (SELECT FROM queue_types WHERE queue_types.type = ANY ($2::text[]) AND (gated OR paused))
        AND NOT EXISTS (SELECT FROM queue_tenants WHERE gated OR paused)
), best AS MATERIALIZED (
    SELECT type, priority, start
    FROM (
        SELECT wanted.type, wanted.capacity, wanted.priority, wanted.start, entry.id,
            row_number() OVER (PARTITION BY wanted.type ORDER BY -wanted.priority, entry.rank, entry.id) AS place
        FROM wanted CROSS JOIN LATERAL (
            SELECT queue.rank, queue.id
            FROM queue
            WHERE queue.state = 'ready' AND queue.type = wanted.type AND -queue.priority = -wanted.priority
                AND queue.rank >= wanted.start AND (queue.expires_at IS NULL OR queue.expires_at > now())
            ORDER BY queue.rank, queue.id
            LIMIT wanted.capacity
        ) AS entry
    ) AS entry
    WHERE place <= capacity
    ORDER BY -priority, place, id
    LIMIT $4::integer
), share AS MATERIALIZED (
    SELECT type, priority, start, count(*) AS places FROM best GROUP BY type, priority, start
), picked AS MATERIALIZED (
    SELECT entry.id
    FROM share CROSS JOIN LATERAL (
        SELECT queue.id
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = share.type AND -queue.priority = -share.priority
            AND queue.rank >= share.start AND (queue.expires_at IS NULL OR queue.expires_at > now())
        ORDER BY queue.rank, queue.id
        LIMIT share.places
        FOR UPDATE SKIP LOCKED
    ) AS entry
), claimed AS (
    UPDATE queue
    SET state = 'running', attempt = attempt + 1, fence = nextval('queue_fence'), worker_id = $1::uuid,
        unique_slot = CASE WHEN unique_while = 'unfinished' THEN unique_slot END
    WHERE id = ANY (ARRAY(SELECT picked.id FROM picked))
    RETURNING id, type, tenant, attempt, max_attempts, fence, priority, rank
)
"""

CLAIM = f"WITH {CLAIMED} SELECT id, type, tenant, attempt, max_attempts, fence, priority, rank FROM claimed"  # noqa: S608

CONFIRM = """
SELECT entry.id
FROM (
    SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
) AS lease CROSS JOIN LATERAL (
    SELECT queue.id FROM queue WHERE queue.id = lease.id AND queue.fence = lease.fence FOR KEY SHARE
) AS entry
"""

CONFIRM_ALONE = """
SELECT entry.id
FROM (
    SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
) AS lease CROSS JOIN LATERAL (
    SELECT queue.id FROM queue WHERE queue.id = lease.id AND queue.fence = lease.fence FOR UPDATE
) AS entry
"""

# Without waiting: `locked` is false of an entry that somebody else has locked at this moment.
_CONFIRM_FREE = """
SELECT lease.id, entry.id IS NOT NULL AS locked
FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence)
JOIN queue AS held ON held.id = ANY (ARRAY[lease.id]) AND held.fence = lease.fence
LEFT JOIN LATERAL (
    SELECT queue.id FROM queue WHERE queue.id = lease.id AND queue.fence = lease.fence FOR {} SKIP LOCKED
) AS entry ON true
"""

# Who has confirmed the lease, the handler say, may go on.
CONFIRM_FREE = _CONFIRM_FREE.format("NO KEY UPDATE")

CONFIRM_ALONE_FREE = _CONFIRM_FREE.format("UPDATE")

COMPLETE = """
WITH held AS MATERIALIZED (
    SELECT entry.id
    FROM (
        SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
    ) AS lease CROSS JOIN LATERAL (
        SELECT queue.id FROM queue WHERE queue.id = lease.id AND queue.fence = lease.fence FOR UPDATE
    ) AS entry
)
DELETE FROM queue WHERE id = ANY (ARRAY(SELECT held.id FROM held))
RETURNING id, gated, CASE WHEN gated THEN type END AS type, CASE WHEN gated THEN tenant END AS tenant,
    CASE WHEN gated THEN concurrency_key END AS concurrency_key, CASE WHEN gated THEN key_order END AS key_order
"""

# As COMPLETE, a part of a WITH clause. A CTE `given` before it has the leases' ids and fences, and whatever else; `held` is
# what holds of them. Entries that have passed a gate are left alone: who ends one has to let others through. So are those
# of which the caller's condition in place of <unless>, which may read their row as `queue`, holds.
COMPLETED = """
held AS MATERIALIZED (
    SELECT lease.*
    FROM (SELECT * FROM given ORDER BY id) AS lease CROSS JOIN LATERAL (
        SELECT FROM queue
        WHERE queue.id = lease.id AND queue.fence = lease.fence AND NOT queue.gated AND NOT <unless>
        FOR UPDATE
    ) AS entry
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT held.id FROM held))
)
"""

SETTLE_CANCELLED = """
WITH held AS MATERIALIZED (
    SELECT entry.id
    FROM (
        SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
    ) AS lease CROSS JOIN LATERAL (
        SELECT queue.id
        FROM queue
        WHERE queue.id = lease.id AND queue.fence = lease.fence AND queue.cancel_requested
        FOR UPDATE
    ) AS entry
)
DELETE FROM queue WHERE id = ANY (ARRAY(SELECT held.id FROM held))
RETURNING id, gated, CASE WHEN gated THEN type END AS type, CASE WHEN gated THEN tenant END AS tenant,
    CASE WHEN gated THEN concurrency_key END AS concurrency_key, CASE WHEN gated THEN key_order END AS key_order
"""

# $3 those that had not been started: whether they would have cost their worker its life is not known.
HAND_BACK = """
WITH held AS MATERIALIZED (
    SELECT entry.*
    FROM (
        SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
    ) AS lease CROSS JOIN LATERAL (
        SELECT queue.id, queue.cancel_requested, queue.gated, queue.type, queue.tenant, queue.concurrency_key,
            queue.key_order
        FROM queue
        WHERE queue.id = lease.id AND queue.fence = lease.fence
        FOR UPDATE
    ) AS entry
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT held.id FROM held WHERE held.cancel_requested))
), returned AS (
    UPDATE queue
    SET state = 'ready', attempt = attempt - 1, fence = NULL, worker_id = NULL, gated = false,
        leases_lost = CASE WHEN id = ANY ($3::uuid[]) THEN leases_lost ELSE 0 END,
        rank = greatest(rank, (
            SELECT next_start FROM queue_lines AS line
            WHERE line.type = queue.type AND line.priority = queue.priority
        ))
    WHERE id = ANY (ARRAY(SELECT held.id FROM held WHERE NOT held.cancel_requested))
)
SELECT id, cancel_requested, gated, type, tenant, concurrency_key, key_order FROM held
"""

REGISTER_WORKER = """
INSERT INTO queue_workers (worker_id, lease, details) VALUES ($1::uuid, $2::interval, $3::text::jsonb)
ON CONFLICT (worker_id) DO UPDATE
SET started_at = now(), heartbeat_at = now(), lease = excluded.lease, draining = false, details = excluded.details
"""

# No row: the worker is unknown. One row without an entry: it holds nothing.
HEARTBEAT = """
WITH beat AS (
    UPDATE queue_workers SET heartbeat_at = now(), draining = $2::boolean WHERE worker_id = $1::uuid
    RETURNING worker_id
)
SELECT held.id, held.fence, held.cancel_requested
FROM beat LEFT JOIN queue AS held ON held.worker_id = beat.worker_id AND held.state = 'running'
"""

HELD_LEASES = """
SELECT id, fence, cancel_requested FROM queue WHERE worker_id = $1::uuid AND state = 'running'
"""

# What a worker holds is taken back in batches, by any number of others, and says whose it was.
_REMEMBER = """
INSERT INTO queue_lost_workers (worker_id, details)
SELECT worker_id, details FROM lost
ON CONFLICT (worker_id) DO UPDATE SET details = excluded.details, removed_at = now()
"""

UNREGISTER_WORKER = f"""
WITH removed AS (
    DELETE FROM queue_workers WHERE worker_id = $1::uuid RETURNING worker_id, details
), lost AS (
    SELECT worker_id, details FROM removed
    WHERE EXISTS (SELECT FROM queue WHERE queue.worker_id = removed.worker_id AND queue.state = 'running')
)
{_REMEMBER}"""  # noqa: S608 - put together of constants

# When the clock of the database has been set back, a dead worker's last heartbeat lies in the future. Taking it
# for a heartbeat of now bounds the time until it is missed by one lease.
CLAMP_HEARTBEATS = """
UPDATE queue_workers SET heartbeat_at = now()
WHERE worker_id IN (
    SELECT worker_id FROM queue_workers WHERE heartbeat_at > now() + lease FOR UPDATE SKIP LOCKED
)
"""

REMOVE_LOST_WORKERS = f"""
WITH lost AS (
    DELETE FROM queue_workers
    WHERE worker_id IN (
        SELECT worker_id FROM queue_workers WHERE heartbeat_at < now() - lease FOR UPDATE SKIP LOCKED
    )
    RETURNING worker_id, details
)
{_REMEMBER}"""  # noqa: S608 - put together of constants

# Not at once: what a worker claimed at the moment it was removed may not be seen yet.
_FORGETTABLE = """
FROM queue_lost_workers AS lost
WHERE removed_at < now() - interval '1 hour'
    AND NOT EXISTS (SELECT FROM queue WHERE queue.worker_id = lost.worker_id AND queue.state = 'running')
"""

FORGET_LOST_WORKERS = f"""
DELETE FROM queue_lost_workers
WHERE worker_id IN (SELECT worker_id {_FORGETTABLE} FOR UPDATE SKIP LOCKED)
"""  # noqa: S608 - put together of constants

COUNT_FORGETTABLE_WORKERS = f"SELECT count(*) {_FORGETTABLE}"

SECONDS_UNTIL_DUE = """
SELECT greatest(extract(epoch FROM run_at - now()), 0)::double precision
FROM queue
WHERE state = 'scheduled'
ORDER BY run_at
LIMIT 1
"""

HASTEN = """
UPDATE queue SET run_at = now()
WHERE id = $1::uuid AND state = 'scheduled' AND run_at > now()
RETURNING id
"""

# Constraints are checked on the entry as the statement's snapshot has it, and then again as it was locked. In the
# snapshot it may still be ready, and must not be marked; hence no plain `true`.
_CANCEL_TARGETS = """
removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT target.id FROM target WHERE NOT target.running))
), flagged AS (
    UPDATE queue SET cancel_requested = (state = 'running')
    WHERE id = ANY (ARRAY(SELECT target.id FROM target WHERE target.running)) AND NOT cancel_requested
)
SELECT target.id, target.type, target.tenant, target.running, target.worker_id,
    queue_workers.details::text AS worker_details
FROM target LEFT JOIN queue_workers ON queue_workers.worker_id = target.worker_id
"""

CANCEL = f"""
WITH target AS MATERIALIZED (
    SELECT entry.*
    FROM (
        SELECT id FROM unnest($1::uuid[]) AS wanted (id) ORDER BY id
    ) AS wanted CROSS JOIN LATERAL (
        SELECT queue.id, queue.type, queue.tenant, queue.state = 'running' AS running, queue.worker_id
        FROM queue
        WHERE queue.id = wanted.id
        FOR NO KEY UPDATE
    ) AS entry
), {_CANCEL_TARGETS}"""  # noqa: S608 - put together of constants

# As CANCEL, without waiting: `running` is NULL of an entry that somebody else has locked at this moment.
CANCEL_FREE = f"""
WITH target AS MATERIALIZED (
    SELECT found.id, entry.type, entry.tenant, entry.running, entry.worker_id
    FROM unnest($1::uuid[]) AS wanted (id)
    CROSS JOIN LATERAL (SELECT queue.id FROM queue WHERE queue.id = wanted.id LIMIT 1) AS found
    LEFT JOIN LATERAL (
        SELECT queue.type, queue.tenant, queue.state = 'running' AS running, queue.worker_id
        FROM queue
        WHERE queue.id = wanted.id
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS entry ON true
), {_CANCEL_TARGETS}"""  # noqa: S608 - put together of constants

"""Every SQL statement of the queue engine.

How locks are taken, so that operations on the same entries never wait for each other in a circle:

- What may wait locks its entries first and in the order of their ids. The lateral subquery with FOR UPDATE sees
  to it: it cannot be turned into another join, so its rows are visited in the order of the sorted leases.
- What can do without an entry (claim, promote, rescue, confirm_free) skips locked ones and never waits.
- Whoever changes other rows along with an entry locks the entry first.

A LIMIT with FOR UPDATE SKIP LOCKED stands in a materialized subquery; evaluated twice, it would take twice as many.
"""

ENQUEUE = """
INSERT INTO queue (id, type, tenant, max_attempts, priority, attempt, run_at, state)
SELECT id, type, tenant, max_attempts, priority, attempt, coalesce(run_at, now()),
    CASE WHEN run_at > now() THEN 'scheduled' ELSE 'ready' END
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::smallint[], $6::integer[], $7::timestamptz[])
    AS entry (id, type, tenant, max_attempts, priority, attempt, run_at)
"""

# $1 the worker, $2 types, $3 the capacity of each, $4 the limit over all of them, $5 and $6 where the search begins in
# the order of each type.
#
# `best` finds, without locking, how many of the first $4 entries over all types are of which type; `picked` then
# locks so many of each. Locking the candidates of all types and keeping $4 of them would hide the others from
# every other worker that claims at this moment.
CLAIM = """
WITH wanted AS MATERIALIZED (
    SELECT type, capacity, rank, id
    FROM unnest($2::text[], $3::integer[], $5::integer[], $6::uuid[]) AS wanted (type, capacity, rank, id)
    WHERE EXISTS (SELECT FROM queue_workers WHERE worker_id = $1::uuid)
), best AS MATERIALIZED (
    SELECT wanted.type, wanted.rank, wanted.id
    FROM wanted CROSS JOIN LATERAL (
        SELECT -queue.priority AS rank, queue.id
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = wanted.type
            AND (-queue.priority, queue.id) > (wanted.rank, wanted.id)
        ORDER BY -queue.priority, queue.id
        LIMIT wanted.capacity
    ) AS entry
    ORDER BY entry.rank, entry.id
    LIMIT $4::integer
), share AS MATERIALIZED (
    SELECT type, rank, id, count(*) AS places FROM best GROUP BY type, rank, id
), picked AS MATERIALIZED (
    SELECT entry.id
    FROM share CROSS JOIN LATERAL (
        SELECT queue.id
        FROM queue
        WHERE queue.state = 'ready' AND queue.type = share.type
            AND (-queue.priority, queue.id) > (share.rank, share.id)
        ORDER BY -queue.priority, queue.id
        LIMIT share.places
        FOR UPDATE SKIP LOCKED
    ) AS entry
)
UPDATE queue
SET state = 'running', attempt = attempt + 1, fence = nextval('queue_fence'), worker_id = $1::uuid
WHERE id = ANY (ARRAY(SELECT picked.id FROM picked))
RETURNING id, type, tenant, attempt, max_attempts, fence, -priority AS rank
"""

CONFIRM = """
SELECT entry.id
FROM (
    SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
) AS lease CROSS JOIN LATERAL (
    SELECT queue.id FROM queue WHERE queue.id = lease.id AND queue.fence = lease.fence FOR UPDATE
) AS entry
"""

# As CONFIRM, without waiting: `locked` is false of an entry that somebody else has locked at this moment.
CONFIRM_FREE = """
SELECT lease.id, entry.id IS NOT NULL AS locked
FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence)
JOIN queue AS held ON held.id = lease.id AND held.fence = lease.fence
LEFT JOIN LATERAL (
    SELECT queue.id FROM queue WHERE queue.id = lease.id AND queue.fence = lease.fence FOR UPDATE SKIP LOCKED
) AS entry ON true
"""

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
RETURNING id
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
RETURNING id
"""

# $3 the delay of each; NULL: not to be retried.
FAIL = """
WITH failing AS MATERIALIZED (
    SELECT entry.id, entry.cancel_requested,
        now() + failure.retry_delay AS run_at,
        entry.cancel_requested OR entry.exhausted OR failure.retry_delay IS NULL AS final
    FROM (
        SELECT id, fence, retry_delay
        FROM unnest($1::uuid[], $2::bigint[], $3::interval[]) AS failure (id, fence, retry_delay)
        ORDER BY id
    ) AS failure CROSS JOIN LATERAL (
        SELECT queue.id, queue.cancel_requested, queue.attempt >= queue.max_attempts AS exhausted
        FROM queue
        WHERE queue.id = failure.id AND queue.fence = failure.fence
        FOR UPDATE
    ) AS entry
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT failing.id FROM failing WHERE failing.final))
), returned AS (
    UPDATE queue
    SET state = CASE WHEN failing.run_at > now() THEN 'scheduled' ELSE 'ready' END,
        run_at = failing.run_at, fence = NULL, worker_id = NULL
    FROM failing
    WHERE queue.id = failing.id AND NOT failing.final
)
SELECT id, cancel_requested, final, run_at FROM failing
"""

HAND_BACK = """
WITH held AS MATERIALIZED (
    SELECT entry.id, entry.cancel_requested
    FROM (
        SELECT id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lease (id, fence) ORDER BY id
    ) AS lease CROSS JOIN LATERAL (
        SELECT queue.id, queue.cancel_requested
        FROM queue
        WHERE queue.id = lease.id AND queue.fence = lease.fence
        FOR UPDATE
    ) AS entry
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT held.id FROM held WHERE held.cancel_requested))
), returned AS (
    UPDATE queue
    SET state = 'ready', attempt = attempt - 1, fence = NULL, worker_id = NULL
    WHERE id = ANY (ARRAY(SELECT held.id FROM held WHERE NOT held.cancel_requested))
)
SELECT id, cancel_requested FROM held
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

UNREGISTER_WORKER = "DELETE FROM queue_workers WHERE worker_id = $1::uuid"

# When the clock of the database has been set back, a dead worker's last heartbeat lies in the future. Taking it
# for a heartbeat of now bounds the time until it is missed by one lease.
CLAMP_HEARTBEATS = """
UPDATE queue_workers SET heartbeat_at = now()
WHERE worker_id IN (
    SELECT worker_id FROM queue_workers WHERE heartbeat_at > now() + lease FOR UPDATE SKIP LOCKED
)
"""

REMOVE_LOST_WORKERS = """
DELETE FROM queue_workers
WHERE worker_id IN (
    SELECT worker_id FROM queue_workers WHERE heartbeat_at < now() - lease FOR UPDATE SKIP LOCKED
)
"""

# Entries of workers that are not registered: those just removed, those left over from an earlier call by its
# limit, and what a removed worker claimed at the same moment. The fence makes sure that the entry locked is still
# held by that worker: if it has been rescued and claimed again meanwhile, it has another.
RESCUE = """
WITH orphan AS MATERIALIZED (
    SELECT entry.*
    FROM (
        SELECT id, fence
        FROM queue
        WHERE state = 'running' AND NOT EXISTS (
            SELECT FROM queue_workers WHERE queue_workers.worker_id = queue.worker_id
        )
    ) AS held CROSS JOIN LATERAL (
        SELECT id, type, worker_id, attempt, cancel_requested, cancel_requested OR attempt >= max_attempts AS final
        FROM queue
        WHERE queue.id = held.id AND queue.fence = held.fence
        FOR UPDATE SKIP LOCKED
    ) AS entry
    LIMIT $1::integer
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT orphan.id FROM orphan WHERE orphan.final))
), returned AS (
    UPDATE queue
    SET state = 'ready', fence = NULL, worker_id = NULL
    WHERE id = ANY (ARRAY(SELECT orphan.id FROM orphan WHERE NOT orphan.final))
)
SELECT id, type, worker_id, attempt, cancel_requested, final FROM orphan
"""

PROMOTE = """
WITH due AS MATERIALIZED (
    SELECT id
    FROM queue
    WHERE state = 'scheduled' AND run_at <= now()
    ORDER BY run_at
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE queue SET state = 'ready' WHERE id = ANY (ARRAY(SELECT due.id FROM due))
RETURNING type
"""

SECONDS_UNTIL_DUE = """
SELECT greatest(extract(epoch FROM run_at - now()), 0)::double precision
FROM queue
WHERE state = 'scheduled'
ORDER BY run_at
LIMIT 1
"""

# Constraints are checked on the entry as the statement's snapshot has it, and then again as it was locked. In the
# snapshot it may still be ready, and must not be marked; hence no plain `true`.
CANCEL = """
WITH target AS MATERIALIZED (
    SELECT entry.id, entry.running, entry.worker_id
    FROM (
        SELECT id FROM unnest($1::uuid[]) AS wanted (id) ORDER BY id
    ) AS wanted CROSS JOIN LATERAL (
        SELECT queue.id, queue.state = 'running' AS running, queue.worker_id
        FROM queue
        WHERE queue.id = wanted.id
        FOR UPDATE
    ) AS entry
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT target.id FROM target WHERE NOT target.running))
), flagged AS (
    UPDATE queue SET cancel_requested = (state = 'running')
    WHERE id = ANY (ARRAY(SELECT target.id FROM target WHERE target.running)) AND NOT cancel_requested
)
SELECT target.id, target.running, target.worker_id, queue_workers.details::text AS worker_details
FROM target LEFT JOIN queue_workers ON queue_workers.worker_id = target.worker_id
"""

"""The SQL statements that end attempts without completing their entries, and those that end entries that wait too long."""

LOST_IN_A_ROW = 3
"""So many leases lost in a row end an entry: it is taken for what kills its workers."""

# $1, $2 leases, $3 the delay of each until the next attempt; NULL: not to be retried. $4 whether the lease of each was lost with
# its worker. $5 whether places among the further attempts of a unique key are taken now: it may meet one that another
# transaction has just taken, so the entries in question are otherwise locked and left `undecided`. $6 whether the attempt of
# each counts; one that ends its entry does in any case.
#
# A further attempt that would come after the time until which the entry may wait is none.
FAIL = f"""
WITH failing AS MATERIALIZED (
    SELECT entry.*, failure.lost, failure.counts,
        CASE WHEN failure.lost THEN least(entry.old_run_at, now()) ELSE now() + failure.retry_delay END AS run_at,
        failure.lost AND entry.leases_lost + 1 >= {LOST_IN_A_ROW} AS quarantined,
        entry.cancel_requested OR entry.exhausted AND failure.counts OR failure.retry_delay IS NULL
            OR failure.lost AND entry.leases_lost + 1 >= {LOST_IN_A_ROW}
            OR coalesce(entry.expires_at <= now() + failure.retry_delay, false) AS final,
        NOT (entry.exhausted AND failure.counts)
            AND coalesce(entry.expires_at <= now() + failure.retry_delay, false) AS too_late
    FROM (
        SELECT id, fence, retry_delay, lost, counts
        FROM unnest($1::uuid[], $2::bigint[], $3::interval[], $4::boolean[], $6::boolean[])
            AS failure (id, fence, retry_delay, lost, counts)
        ORDER BY id
    ) AS failure CROSS JOIN LATERAL (
        SELECT queue.id, queue.cancel_requested, queue.attempt >= queue.max_attempts AS exhausted,
            queue.run_at AS old_run_at, queue.expires_at, queue.leases_lost, queue.unique_key, queue.unique_while,
            queue.gated, queue.type, queue.tenant, queue.concurrency_key, queue.key_order, queue.enqueued_at,
            (
                SELECT next_start FROM queue_lines AS line
                WHERE line.type = queue.type AND line.priority = queue.priority
            ) AS line_start
        FROM queue
        WHERE queue.id = failure.id AND queue.fence = failure.fence
        FOR UPDATE
    ) AS entry
), keyed AS MATERIALIZED (
    SELECT id, row_number() OVER (PARTITION BY unique_key ORDER BY id) > 1 OR EXISTS (
        SELECT FROM queue AS other
        WHERE other.unique_key = failing.unique_key AND other.unique_slot = 'retry' AND other.unique_slot IS NOT NULL
    ) AS taken
    FROM failing
    WHERE unique_while = 'each_state' AND NOT final
), decided AS MATERIALIZED (
    SELECT failing.*, keyed.id IS NOT NULL AND NOT $5::boolean AS undecided,
        coalesce(keyed.taken, false) AND $5::boolean AS key_taken
    FROM failing LEFT JOIN keyed ON keyed.id = failing.id
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT decided.id FROM decided WHERE final OR key_taken))
), returned AS (
    UPDATE queue
    SET state = CASE WHEN decided.run_at > now() THEN 'scheduled' ELSE 'ready' END,
        rank = greatest(queue.rank, decided.line_start) + CASE WHEN decided.lost THEN 0 ELSE 1000000 END,
        run_at = decided.run_at, fence = NULL, worker_id = NULL, gated = false,
        attempt = queue.attempt - CASE WHEN decided.counts THEN 0 ELSE 1 END,
        leases_lost = CASE WHEN decided.lost THEN queue.leases_lost + 1 ELSE 0 END,
        unique_slot = CASE WHEN queue.unique_while = 'each_state' THEN 'retry' ELSE queue.unique_slot END
    FROM decided
    WHERE queue.id = ANY (ARRAY[decided.id]) AND NOT decided.final AND NOT decided.key_taken AND NOT decided.undecided
)
SELECT id, cancel_requested, final, quarantined, too_late, key_taken, undecided, run_at, gated, type, tenant, concurrency_key,
    key_order, enqueued_at
FROM decided
"""  # noqa: S608 - put together of constants

# $3 the delay of each. What was served before has a rank above 0, by which its key knows it: its place is kept.
SNOOZE = """
WITH held AS MATERIALIZED (
    SELECT entry.*, now() + snooze.delay AS run_at
    FROM (
        SELECT id, fence, delay
        FROM unnest($1::uuid[], $2::bigint[], $3::interval[]) AS snooze (id, fence, delay)
        ORDER BY id
    ) AS snooze CROSS JOIN LATERAL (
        SELECT queue.id, queue.cancel_requested, queue.gated, queue.type, queue.tenant, queue.concurrency_key,
            queue.key_order, queue.enqueued_at,
            (
                SELECT next_start FROM queue_lines AS line
                WHERE line.type = queue.type AND line.priority = queue.priority
            ) AS line_start
        FROM queue
        WHERE queue.id = snooze.id AND queue.fence = snooze.fence
        FOR UPDATE
    ) AS entry
), removed AS (
    DELETE FROM queue WHERE id = ANY (ARRAY(SELECT held.id FROM held WHERE held.cancel_requested))
), returned AS (
    UPDATE queue
    SET state = CASE WHEN held.run_at > now() THEN 'scheduled' ELSE 'ready' END, attempt = attempt - 1,
        rank = greatest(queue.rank, held.line_start, 1), run_at = held.run_at, fence = NULL, worker_id = NULL,
        gated = false, leases_lost = 0
    FROM held
    WHERE queue.id = ANY (ARRAY[held.id]) AND NOT held.cancel_requested
)
SELECT id, cancel_requested, run_at, gated, type, tenant, concurrency_key, key_order, enqueued_at FROM held
"""

# Entries of workers that are not registered: those just removed, those left over from an earlier call by its
# limit, and what a removed worker claimed at the same moment. The fence makes sure that the entry locked is still
# held by that worker: if it has been rescued and claimed again meanwhile, it has another.
ORPHANS = """
SELECT entry.*, (
    SELECT details::text FROM queue_lost_workers AS lost WHERE lost.worker_id = entry.worker_id
) AS worker_details
FROM (
    SELECT id, fence
    FROM queue
    WHERE state = 'running' AND NOT EXISTS (
        SELECT FROM queue_workers WHERE queue_workers.worker_id = queue.worker_id
    )
) AS held CROSS JOIN LATERAL (
    SELECT id, fence, type, tenant, worker_id, attempt
    FROM queue
    WHERE queue.id = held.id AND queue.fence = held.fence
    FOR UPDATE SKIP LOCKED
) AS entry
LIMIT $1::integer
"""

EXPIRE = """
WITH overdue AS MATERIALIZED (
    SELECT id
    FROM queue
    WHERE expires_at <= now() AND state <> 'running'
    ORDER BY expires_at
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM queue WHERE id = ANY (ARRAY(SELECT overdue.id FROM overdue))
RETURNING id, type, tenant
"""

SECONDS_UNTIL_EXPIRY = """
SELECT greatest(extract(epoch FROM expires_at - now()), 0)::double precision
FROM queue
WHERE expires_at IS NOT NULL AND state <> 'running'
ORDER BY expires_at
LIMIT 1
"""

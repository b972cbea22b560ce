"""Forgetting how much was used of rates that nobody has used for long."""

from millrace_queue.entries import Connection

# No period is longer than 30 days: what was used before counts in none.
_REMOVE_UNUSED_RATES = """
WITH unused AS MATERIALIZED (
    SELECT type, tenant
    FROM queue_rates
    WHERE greatest(next_at, start_times[cardinality(start_times)]) < now() - interval '31 days'
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM queue_rates USING unused
WHERE queue_rates.type = unused.type AND queue_rates.tenant = unused.tenant
RETURNING 1
"""


async def remove_unused_rates(conn: Connection, *, limit: int) -> int:
    """Forget types and tenants of which nothing was started under a rate for 31 days, at most `limit`.

    Returns:
        How many were removed; fewer than `limit`: hardly any are left.

    """
    return len(await conn.fetch(_REMOVE_UNUSED_RATES, limit))

"""Why a job waits."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from millrace_database.job_entries import UNIQUE_KEY_PREFIX

MOST_BEFORE = 10_000
"""Of jobs that come before another no more are counted."""

# What need not be known of this entry is not looked up: a CASE evaluates the subquery of its branch only.
FACTS = """
SELECT
    CASE WHEN entry.state = 'scheduled' AND entry.run_at > now() THEN entry.run_at END AS scheduled_until,
    coalesce(type.paused, false) AS type_paused,
    coalesce(tenant.paused, false) AS organisation_paused,
    EXISTS (
        SELECT FROM queue_workers
        WHERE heartbeat_at >= now() - lease AND NOT draining AND details -> 'types' ? entry.type
    ) AS has_worker,
    CASE WHEN type.max_running IS NULL THEN false ELSE type.max_running <= (
        SELECT count(*) FROM queue WHERE gated AND queue.type = entry.type
    ) END AS type_full,
    CASE WHEN type.max_running_per_tenant IS NULL THEN false ELSE type.max_running_per_tenant <= (
        SELECT count(*) FROM queue WHERE gated AND queue.type = entry.type AND queue.tenant = entry.tenant
    ) END AS organisation_type_full,
    CASE WHEN tenant.max_running IS NULL THEN false ELSE tenant.max_running <= (
        SELECT count(*) FROM queue WHERE gated AND queue.tenant = entry.tenant
    ) END AS organisation_full,
    CASE WHEN type.rate_count IS NOT NULL OR type.tenant_rate_count IS NOT NULL OR tenant.rate_count IS NOT NULL THEN (
        SELECT max(next_at) FROM queue_rates
        WHERE next_at > now() AND (
            (type.rate_count IS NOT NULL AND queue_rates.type = entry.type AND queue_rates.tenant = '')
            OR (
                type.tenant_rate_count IS NOT NULL AND queue_rates.type = entry.type
                AND queue_rates.tenant = entry.tenant
            )
            OR (tenant.rate_count IS NOT NULL AND queue_rates.type = '' AND queue_rates.tenant = entry.tenant)
        )
    ) END AS rate_until,
    CASE WHEN entry.concurrency_key IS NULL THEN false ELSE
        entry.parked_by IS NOT DISTINCT FROM 'key' OR entry.concurrency_limit <= (
            SELECT count(*) FROM queue
            WHERE gated AND queue.type = entry.type AND queue.tenant = entry.tenant
                AND queue.concurrency_key = entry.concurrency_key
        )
    END AS key_full,
    coalesce(starts_with(entry.concurrency_key, $3::text), false) AS key_is_unique,
    (
        SELECT blocked.id FROM queue_blocked_keys AS blocked
        WHERE blocked.type = entry.type AND blocked.tenant = entry.tenant
            AND blocked.concurrency_key = entry.concurrency_key AND entry.key_order IS NOT NULL
    ) AS blocking_job_id,
    CASE WHEN entry.state = 'ready' THEN (
        SELECT count(*)
        FROM (
            SELECT
            FROM queue_lines AS line CROSS JOIN LATERAL (
                SELECT
                FROM queue
                WHERE queue.state = 'ready' AND queue.type = line.type AND -queue.priority = -line.priority
                    AND queue.rank >= line.start
                    AND queue.rank <= CASE WHEN line.priority > entry.priority THEN 9223372036854775807 ELSE entry.rank END
                    AND (line.priority > entry.priority OR queue.rank < entry.rank OR queue.id < entry.id)
                LIMIT $2::integer
            ) AS earlier
            WHERE line.type = entry.type AND line.priority >= entry.priority
            LIMIT $2::integer
        ) AS earlier
    ) WHEN entry.parked_by = 'key' THEN (
        SELECT count(*)
        FROM (
            SELECT FROM queue
            WHERE queue.parked_by = 'key' AND queue.type = entry.type AND queue.tenant = entry.tenant
                AND queue.concurrency_key = entry.concurrency_key
                AND (-queue.priority, queue.rank, queue.id) < (-entry.priority, entry.rank, entry.id)
            LIMIT $2::integer
        ) AS earlier
    ) WHEN entry.parked_by = 'tenant' THEN (
        SELECT count(*)
        FROM (
            SELECT FROM queue
            WHERE queue.parked_by = 'tenant' AND queue.tenant = entry.tenant AND queue.type = entry.type
                AND (-queue.priority, queue.rank, queue.id) < (-entry.priority, entry.rank, entry.id)
            LIMIT $2::integer
        ) AS earlier
    ) ELSE 0 END AS jobs_before
FROM queue AS entry
LEFT JOIN queue_types AS type ON type.type = entry.type
LEFT JOIN queue_tenants AS tenant ON tenant.tenant = entry.tenant
WHERE entry.id = $1::uuid AND entry.state <> 'running'
"""


@dataclass(frozen=True, slots=True)
class WaitingFacts:
    """What may keep a waiting job from being started.

    Attributes:
        scheduled_until: the time that it waits for.
        type_paused: none of its type is started.
        organisation_paused: none of its organisation is started.
        has_worker: some live worker runs its type.
        type_full: as many of its type run as may.
        organisation_type_full: as many of its type and organisation run as may.
        organisation_full: as many of its organisation run as may.
        rate_until: when the next start is possible; None: no rate is used up.
        key_full: as many with its concurrency key run as may, or others of its key come before it.
        key_is_unique: its key is not one that its creator gave for concurrency, but lets one job with its unique key run.
        blocking_job_id: the failed job that blocks its concurrency key.
        jobs_before: how many of its type come before it in line, or at the gate where it waits, at most `MOST_BEFORE`.

    """

    scheduled_until: datetime | None
    type_paused: bool
    organisation_paused: bool
    has_worker: bool
    type_full: bool
    organisation_type_full: bool
    organisation_full: bool
    rate_until: datetime | None
    key_full: bool
    key_is_unique: bool
    blocking_job_id: UUID | None
    jobs_before: int


async def get_waiting_facts(conn: asyncpg.Connection, job_id: UUID) -> WaitingFacts | None:
    """Return what may keep a job from being started, None when it does not wait."""
    row = await conn.fetchrow(FACTS, job_id, MOST_BEFORE, UNIQUE_KEY_PREFIX)
    return None if row is None else WaitingFacts(**row)

"""How the queue is, and what may slow it down."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from millrace_database.system_schedules_repository import SYSTEM_TENANT

HOT_TABLES = (
    "queue",
    "queue_workers",
    "queue_lines",
    "queue_rates",
    "queue_throttles",
    "jobs",
    "job_attempts",
    "job_flow",
    "scheduled_jobs",
)
"""The tables that are written often."""

MOST_DEPTHS = 1_000
"""How many types and organisations are told at most, the deepest ones."""

OLD_TRANSACTION = timedelta(minutes=1)
"""What has begun later holds back too little to be told of."""

# Of what Postgres does not know since when it holds back, this many transactions later stand for a while.
_MANY_TRANSACTIONS = 10_000

# Of a session, its snapshot and its own number hold back, whichever is older. A vacuum holds back nothing, and other
# databases nothing of this one's tables; a slot does with the rows it reads (`xmin`), not with those of the catalog.
# $1 the age of what is old, $2 how many transactions are many.
_OLDEST = """
holders AS MATERIALIZED (
    SELECT pid, concat_ws(' as ', nullif(application_name, ''), usename) AS owner, coalesce(state, '') AS state,
        xact_start AS since, greatest(age(backend_xid), age(backend_xmin)) AS behind
    FROM pg_stat_activity
    WHERE (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL) AND pid <> pg_backend_pid()
        AND (datname = current_database() OR datname IS NULL)
        AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    UNION ALL
    SELECT 0, slot_name, 'replication slot', NULL, age(xmin) FROM pg_replication_slots WHERE xmin IS NOT NULL
    UNION ALL
    SELECT 0, gid, 'prepared transaction', prepared, age(transaction)
    FROM pg_prepared_xacts
    WHERE database = current_database()
), oldest AS (
    SELECT pid, owner, state, since, behind
    FROM holders
    WHERE behind > 0 AND CASE WHEN since IS NULL THEN behind >= $2::integer ELSE since <= now() - $1::interval END
    ORDER BY behind DESC, since
    LIMIT 1
)
"""

# $3 and $4 the type and tenant, empty: all; $5 the most depths, $6 the tables, $7 the tenant whose entries are no jobs. Entries are
# counted in one pass over the table, which is as fast as over an index and needs none.
#
# What is ready and stands before a gate that is shut is held: an entry is parked only once a claim came to it, and never
# for a limit or a pause of its type.
#
# The counts of the last minute begin with a whole bucket, so that they span 60 to 70 s.
_HEALTH = f"""
WITH entries AS MATERIALIZED (
    SELECT type, tenant AS org_id, count(*) FILTER (WHERE state = 'ready') AS ready,
        count(*) FILTER (WHERE state = 'scheduled') AS scheduled, count(*) FILTER (WHERE state = 'parked') AS held,
        count(*) FILTER (WHERE state = 'running') AS running,
        now() - min(least(run_at, now())) FILTER (WHERE state IN ('ready', 'parked')) AS oldest_wait, count(*) AS depth
    FROM queue
    WHERE ($3::text = '' OR type = $3::text) AND ($4::text = '' OR tenant = $4::text) AND tenant <> $7::text
    GROUP BY type, tenant
), shut_types AS MATERIALIZED (
    SELECT type
    FROM queue_types
    WHERE paused
        OR CASE WHEN max_running IS NOT NULL THEN max_running <= (
            SELECT count(*) FROM queue WHERE gated AND queue.type = queue_types.type
        ) END
        OR rate_count IS NOT NULL AND EXISTS (
            SELECT FROM queue_rates AS used
            WHERE used.type = queue_types.type AND used.tenant = '' AND used.next_at > now()
        )
), shut_tenants AS MATERIALIZED (
    SELECT tenant
    FROM queue_tenants
    WHERE paused
        OR CASE WHEN max_running IS NOT NULL THEN max_running <= (
            SELECT count(*) FROM queue WHERE gated AND queue.tenant = queue_tenants.tenant
        ) END
        OR rate_count IS NOT NULL AND EXISTS (
            SELECT FROM queue_rates AS used
            WHERE used.type = '' AND used.tenant = queue_tenants.tenant AND used.next_at > now()
        )
), told AS MATERIALIZED (
    SELECT entries.*, type IN (SELECT type FROM shut_types) OR org_id IN (SELECT tenant FROM shut_tenants)
        OR coalesce(type_limits.max_running_per_tenant <= running, false)
        OR type_limits.tenant_rate_count IS NOT NULL AND EXISTS (
            SELECT FROM queue_rates AS used
            WHERE used.type = entries.type AND used.tenant = entries.org_id AND used.next_at > now()
        ) AS shut
    FROM entries LEFT JOIN queue_types AS type_limits USING (type)
), span AS (
    SELECT since, extract(epoch FROM now() - since)::float8 AS seconds
    FROM (SELECT date_bin('10 seconds', now() - interval '1 minute', 'epoch') AS since) AS span
), flow AS MATERIALIZED (
    SELECT type, org_id, sum(created) / min(seconds) AS created, sum(finished) / min(seconds) AS finished
    FROM job_flow JOIN span ON bucket >= since
    WHERE ($3::text = '' OR type = $3::text) AND ($4::text = '' OR org_id = $4::text) AND org_id <> $7::text
    GROUP BY type, org_id
), depths AS MATERIALIZED (
    SELECT type, org_id, CASE WHEN shut THEN 0 ELSE coalesce(ready, 0) END AS ready,
        coalesce(scheduled, 0) AS scheduled, coalesce(held + CASE WHEN shut THEN ready ELSE 0 END, 0) AS held,
        coalesce(running, 0) AS running, oldest_wait, coalesce(created, 0)::float8 AS created,
        coalesce(finished, 0)::float8 AS finished
    FROM told FULL JOIN flow USING (type, org_id)
    ORDER BY coalesce(depth, 0) DESC, created DESC NULLS LAST, type, org_id
    LIMIT $5::integer
), tables AS (
    SELECT hot.name, stat.n_live_tup, stat.n_dead_tup, pg_total_relation_size(stat.relid) AS size,
        greatest(stat.last_vacuum, stat.last_autovacuum) AS last_vacuum, hot.place
    FROM unnest($6::text[]) WITH ORDINALITY AS hot (name, place)
    JOIN pg_stat_user_tables AS stat ON stat.relid = to_regclass(hot.name)
), {_OLDEST}
SELECT
    ARRAY(
        SELECT ROW(type, org_id, ready, scheduled, held, running, oldest_wait, created, finished) FROM depths
    ) AS depths,
    ARRAY(
        SELECT ROW(name::text, n_live_tup, n_dead_tup, size, last_vacuum) FROM tables ORDER BY place
    ) AS tables,
    (SELECT ROW(pid, owner::text, state::text, since, behind::bigint) FROM oldest) AS oldest
"""  # noqa: S608 - put together of constants

_OLDEST_ALONE = f"""
WITH {_OLDEST}
SELECT pid, owner::text, state::text, since AS started_at, behind::bigint AS transactions_behind FROM oldest
"""  # noqa: S608 - put together of constants


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The unfinished jobs of a type and organisation, and how many come and go.

    Attributes:
        type: the type.
        org_id: the organisation.
        ready: they could start now if there were a free worker.
        scheduled: they wait for their time.
        held: they wait because of a limit, a key or a pause.
        running: a worker has them.
        oldest_wait: for how long the one that has been ready or held the longest could have run; None: there is none.
        created_per_second: over the last minute, by the Jobs service.
        finished_per_second: over the last minute, by workers, however they ended.

    """

    type: str
    org_id: str
    ready: int
    scheduled: int
    held: int
    running: int
    oldest_wait: timedelta | None
    created_per_second: float
    finished_per_second: float


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table that is written often: rows as Postgres estimates them, its size with all indexes in bytes."""

    table: str
    live_rows: int
    dead_rows: int
    size_bytes: int
    last_vacuum_at: datetime | None


@dataclass(frozen=True, slots=True)
class OldestTransaction:
    """What keeps Postgres from removing dead rows for the longest time.

    Attributes:
        pid: its server process; 0 for a replication slot or a prepared transaction.
        owner: application and user, or the name of the slot or of the prepared transaction.
        state: such as "active", "idle in transaction", "replication slot", "prepared transaction"; empty: Postgres does
            not tell, because it belongs to another user.
        started_at: since when; None: Postgres does not know, or does not tell.
        transactions_behind: how many transactions have begun since.

    """

    pid: int
    owner: str
    state: str
    started_at: datetime | None
    transactions_behind: int


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """The depths, the deepest first, at most `MOST_DEPTHS`; the hot tables; what holds vacuum back, if anything does."""

    depths: Sequence[QueueDepth]
    tables: Sequence[TableHealth]
    oldest_transaction: OldestTransaction | None


async def queue_health(
    conn: asyncpg.Connection, type_: str = "", org_id: str = "", *, old: timedelta = OLD_TRANSACTION
) -> QueueHealth:
    """Return how the queue is.

    Args:
        conn: a connection outside of any transaction.
        type_: counts only jobs of this type; empty: of all.
        org_id: counts only jobs of this organisation; empty: of all.
        old: what began longer ago than this is told of as the oldest transaction.

    """
    (row,) = await conn.fetch(
        _HEALTH, old, _MANY_TRANSACTIONS, type_, org_id, MOST_DEPTHS, HOT_TABLES, SYSTEM_TENANT
    )
    return QueueHealth(
        depths=[QueueDepth(*depth) for depth in row["depths"]],
        tables=[TableHealth(*table) for table in row["tables"]],
        oldest_transaction=row["oldest"] and OldestTransaction(*row["oldest"]),
    )


async def oldest_transaction(
    conn: asyncpg.Connection, *, old: timedelta = OLD_TRANSACTION
) -> OldestTransaction | None:
    """Return what has kept Postgres from removing dead rows for longer than `old`, and the longest; None: nothing has.

    The connection is outside of any transaction.
    """
    row = await conn.fetchrow(_OLDEST_ALONE, old, _MANY_TRANSACTIONS)
    return None if row is None else OldestTransaction(**row)

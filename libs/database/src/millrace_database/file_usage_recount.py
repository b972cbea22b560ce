"""What the files of organisations take up, counted anew: releases before `file_usage`, and hands, do not keep it."""

from collections.abc import Sequence

import asyncpg

COUNT_SECONDS = 300.0
"""How long the count of one organisation's files may take; while nothing is wrong it holds up nobody."""

LOCKED_SECONDS = 60.0
"""How long it may take while the organisation's uploads wait for it, because something was wrong."""

# Each organisation by one probe of the index of files, not by reading all files of each. $1 behind which one, $2 how many.
NEXT_ORGANISATIONS = """
WITH RECURSIVE owner AS (
    (SELECT org_id FROM files WHERE org_id > $1::text ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT next.org_id
    FROM owner CROSS JOIN LATERAL (
        SELECT files.org_id FROM files WHERE files.org_id > owner.org_id ORDER BY files.org_id LIMIT 1
    ) AS next
), owners AS MATERIALIZED (
    SELECT org_id FROM owner LIMIT $2::integer
), known AS MATERIALIZED (
    SELECT org_id FROM file_usage WHERE org_id > $1::text ORDER BY org_id LIMIT $2::integer
)
SELECT org_id FROM (SELECT org_id FROM owners UNION SELECT org_id FROM known) AS org ORDER BY org_id LIMIT $2::integer
"""

# Files change together with the row, so one snapshot shows both as they belong together.
DIFFERS = """
SELECT (counted.files, counted.total_bytes)
    IS DISTINCT FROM (coalesce(usage.files, 0), coalesce(usage.total_bytes, 0))
FROM (
    SELECT count(*) AS files, coalesce(sum(size_bytes), 0)::bigint AS total_bytes
    FROM files
    WHERE org_id = $1::text AND deleted_at IS NULL
) AS counted LEFT JOIN file_usage AS usage ON usage.org_id = $1::text
"""

ADD = "INSERT INTO file_usage (org_id) VALUES ($1::text) ON CONFLICT DO NOTHING"

LOCK = "SELECT FROM file_usage WHERE org_id = $1::text FOR UPDATE"

# In a statement after LOCK: its snapshot has what was committed while the lock was waited for.
CORRECT = """
UPDATE file_usage SET files = counted.files, total_bytes = counted.total_bytes
FROM (
    SELECT count(*) AS files, coalesce(sum(size_bytes), 0)::bigint AS total_bytes
    FROM files
    WHERE org_id = $1::text AND deleted_at IS NULL
) AS counted
WHERE org_id = $1::text
    AND (counted.files, counted.total_bytes) IS DISTINCT FROM (file_usage.files, file_usage.total_bytes)
"""


async def next_organisations(conn: asyncpg.Connection, after: str, *, limit: int) -> Sequence[str]:
    """Return up to `limit` organisations behind `after` that have files, or a count of them, in their order."""
    return [row["org_id"] for row in await conn.fetch(NEXT_ORGANISATIONS, after, limit)]


async def usage_differs(conn: asyncpg.Connection, org_id: str) -> bool:
    """Return whether the files of an organisation are others than its usage says. Locks nothing."""
    differs: bool = await conn.fetchval(DIFFERS, org_id, timeout=COUNT_SECONDS)
    return differs


async def recount_usage(conn: asyncpg.Connection, org_id: str) -> bool:
    """Let the usage of an organisation be what its files are, deleted ones left out; return whether it was not.

    On a connection in autocommit mode. What changes the organisation's files waits meanwhile, or has been waited for.
    """
    async with conn.transaction():
        await conn.execute(ADD, org_id)
        await conn.execute(LOCK, org_id)
        return bool(await conn.execute(CORRECT, org_id, timeout=LOCKED_SECONDS) == "UPDATE 1")

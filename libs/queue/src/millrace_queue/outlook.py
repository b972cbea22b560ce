"""What there is to do in the queue: one look instead of one for each duty, as long as there is nothing."""

from collections.abc import Collection
from dataclasses import dataclass

from millrace_queue.entries import Connection

# $1 types, $2 whether to search lines from the very beginning.
LOOK = """
SELECT
    EXISTS (
        SELECT FROM unnest($1::text[]) AS wanted (type)
        JOIN queue_lines AS line ON line.type = ANY (ARRAY[wanted.type])
        CROSS JOIN LATERAL (
            SELECT queue.rank
            FROM queue
            WHERE queue.state = 'ready' AND queue.type = line.type AND -queue.priority = -line.priority
                AND queue.rank >= line.start
            ORDER BY queue.rank, queue.id
            LIMIT 1
        ) AS head
        WHERE NOT EXISTS (SELECT FROM queue_types WHERE queue_types.type = line.type AND queue_types.paused)
    ) AS ready,
    $2::boolean AND EXISTS (
        SELECT FROM queue_lines AS line CROSS JOIN LATERAL (
            SELECT queue.rank
            FROM queue
            WHERE queue.state = 'ready' AND queue.type = line.type AND -queue.priority = -line.priority
            ORDER BY queue.rank, queue.id
            LIMIT 1
        ) AS head
        WHERE head.rank < line.start
    ) OR $2::boolean AND EXISTS (
        WITH RECURSIVE line AS (
            (SELECT type, -priority AS place FROM queue WHERE state = 'ready' ORDER BY type, -priority LIMIT 1)
            UNION ALL
            SELECT next.type, next.place
            FROM line CROSS JOIN LATERAL (
                SELECT queue.type, -queue.priority AS place
                FROM queue
                WHERE queue.state = 'ready' AND (queue.type, -queue.priority) > (line.type, line.place)
                ORDER BY queue.type, -queue.priority
                LIMIT 1
            ) AS next
        )
        SELECT FROM line
        WHERE NOT EXISTS (
            SELECT FROM queue_lines WHERE queue_lines.type = line.type AND queue_lines.priority = -line.place
        )
    ) AS behind,
    EXISTS (SELECT FROM queue_workers WHERE heartbeat_at < now() - lease OR heartbeat_at > now() + lease)
        OR EXISTS (
            SELECT FROM queue
            WHERE state = 'running' AND NOT EXISTS (
                SELECT FROM queue_workers WHERE queue_workers.worker_id = queue.worker_id
            )
        ) AS lost,
    EXISTS (SELECT FROM queue_types WHERE gated)
        OR EXISTS (SELECT FROM queue_tenants WHERE paused)
        OR EXISTS (SELECT FROM queue_tenants WHERE gated)
        OR EXISTS (SELECT FROM queue WHERE parked_by = 'tenant')
        OR EXISTS (SELECT FROM queue WHERE parked_by = 'key') AS gates,
    (
        SELECT greatest(extract(epoch FROM run_at - now()), 0)::double precision
        FROM queue WHERE state = 'scheduled' ORDER BY run_at LIMIT 1
    ) AS due_in,
    (
        SELECT greatest(extract(epoch FROM expires_at - now()), 0)::double precision
        FROM queue WHERE expires_at IS NOT NULL AND state <> 'running' ORDER BY expires_at LIMIT 1
    ) AS expires_in
"""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to do.

    Attributes:
        ready: a claim may find entries.
        behind: entries stand before the start of their line, or in one that has no row because a release without lines
            wrote them, for `keep_lines` to find.
        lost: `rescue` has something to do.
        gates: there are limits, or entries that wait at one: `sweep_gates` is wanted.
        due_in: the seconds until `promote` is wanted, None: nothing waits for its time.
        expires_in: the seconds until `expire` is wanted, None: nothing waits that may expire.

    """

    ready: bool
    behind: bool
    lost: bool
    gates: bool
    due_in: float | None
    expires_in: float | None


async def look(conn: Connection, types: Collection[str], *, from_beginning: bool) -> Outlook:
    """Tell what there is to do, for a worker that runs these types.

    `from_beginning` searches for entries that are `behind`, which takes long while an old transaction is open.
    """
    row = await conn.fetchrow(LOOK, list(types), from_beginning)
    if row is None:
        raise RuntimeError("a SELECT without FROM has a row")
    return Outlook(**row)

"""Records of attempts that ended without completing their jobs; one that completes its job at once leaves none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

import asyncpg

from millrace_queue import Lease

AttemptOutcome: TypeAlias = Literal[
    "failed", "timed_out", "worker_lost", "lease_lost", "handed_back", "snoozed", "cancelled"
]

# The row of the job still tells of the attempt.
_RECORD = """
INSERT INTO job_attempts (
    job_id, fence, attempt, outcome, started_at, worker_id, worker_name, error_code, error_message
)
SELECT jobs.job_id, ended.fence, jobs.attempt, ended.outcome, jobs.started_at, jobs.worker_id,
    coalesce(ended.worker_name, worker.details ->> 'name', ''), ended.code, ended.message
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
    AS ended (job_id, fence, outcome, code, message, worker_name)
JOIN jobs ON jobs.job_id = ANY (ARRAY[ended.job_id])
LEFT JOIN queue_workers AS worker ON worker.worker_id = ANY (ARRAY[jobs.worker_id])
"""

# In one order, as another worker may say the same of them at this moment.
_RECORD_LOST_LEASES = """
UPDATE job_attempts SET outcome = 'lease_lost', error_message = $3::text
FROM (
    SELECT attempt.job_id, attempt.fence
    FROM (
        SELECT job_id, fence FROM unnest($1::uuid[], $2::bigint[]) AS lost (job_id, fence) ORDER BY job_id, fence
    ) AS lost CROSS JOIN LATERAL (
        SELECT job_id, fence
        FROM job_attempts
        WHERE job_attempts.job_id = lost.job_id AND job_attempts.fence = lost.fence AND outcome = 'worker_lost'
        FOR UPDATE
    ) AS attempt
) AS known
WHERE job_attempts.job_id = ANY (ARRAY[known.job_id]) AND job_attempts.fence = ANY (ARRAY[known.fence])
"""

_STILL_HELD = """
SELECT queue.id, queue.fence
FROM unnest($1::uuid[], $2::bigint[]) AS lost (id, fence)
JOIN queue ON queue.id = ANY (ARRAY[lost.id]) AND queue.fence = lost.fence
"""

_LEASE_LOST_MESSAGE = "The worker lives, but was not heard of for longer than its lease."


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that ended without completing its job.

    Attributes:
        lease: the claim that it was made with.
        outcome: how it ended.
        code: its error for programs; None: it has none.
        message: its error for people.
        worker_name: the name of its worker; None: it is read from the worker's row.

    """

    lease: Lease
    outcome: AttemptOutcome
    code: str | None = None
    message: str | None = None
    worker_name: str | None = None


async def record_attempts(conn: asyncpg.Connection, attempts: Sequence[EndedAttempt]) -> None:
    """Record attempts, in the transaction that ends them, with their entries locked and before the jobs are changed."""
    if attempts:
        await conn.execute(
            _RECORD,
            [attempt.lease.id for attempt in attempts],
            [attempt.lease.fence for attempt in attempts],
            [attempt.outcome for attempt in attempts],
            [attempt.code for attempt in attempts],
            [attempt.message for attempt in attempts],
            [attempt.worker_name for attempt in attempts],
        )


async def record_lost_leases(conn: asyncpg.Connection, leases: Sequence[Lease]) -> set[Lease]:
    """Say of attempts whose worker counted as lost that it lives: the worker itself says so.

    Returns:
        Those leases that nobody has taken from the worker yet, though it is to lose them: to be said again later.

    """
    if not leases:
        return set()
    columns: tuple[list[UUID], list[int]] = (
        [lease.id for lease in leases],
        [lease.fence for lease in leases],
    )
    # First, so that one that is taken in between is found by the second.
    held = {Lease(*row) for row in await conn.fetch(_STILL_HELD, *columns)}
    await conn.execute(_RECORD_LOST_LEASES, *columns, _LEASE_LOST_MESSAGE)
    return held

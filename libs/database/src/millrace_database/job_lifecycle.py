"""The life of a user job, in one place: its queue entry and its row change together.

Each function takes an asyncpg connection inside a transaction; what it did holds once that commits. Times are the
database's. Where several leases or ids are given, each id occurs once.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.attempt_records import EndedAttempt, record_attempts, record_lost_leases
from millrace_database.deliveries import create_deliveries
from millrace_database.job_changes import (
    Cancellation,
    CancelledJob,
    ClaimedJob,
    CreatedJob,
    JobFailure,
    JobSnooze,
    NewJob,
    ProgressReport,
    RetriedJob,
    Retry,
)
from millrace_database.job_control import cancel_job, retry_job
from millrace_database.job_creation import create_jobs, create_plain_jobs
from millrace_database.job_failure import (
    DEADLINE_EXCEEDED,
    QUARANTINED,
    UNIQUE_CONFLICT,
    WORKER_LOST,
    expire_jobs,
    fail_jobs,
    lapse_jobs,
    rescue_jobs,
)
from millrace_database.job_flow import JobCounts
from millrace_database.storable_text import storable
from millrace_database.subscription_events import create_events
from millrace_queue import Claim, ClaimGates, Freed, HandBack, Lease, Snooze

__all__ = [
    "DEADLINE_EXCEEDED",
    "QUARANTINED",
    "UNIQUE_CONFLICT",
    "WORKER_LOST",
    "Cancellation",
    "CancelledJob",
    "ClaimedJob",
    "CreatedJob",
    "JobFailure",
    "JobSnooze",
    "NewJob",
    "ProgressReport",
    "RetriedJob",
    "Retry",
    "cancel_job",
    "cancelled_jobs",
    "claim_jobs",
    "complete_jobs",
    "complete_plain_jobs",
    "completed_by",
    "create_jobs",
    "create_plain_jobs",
    "expire_jobs",
    "fail_jobs",
    "hand_back_jobs",
    "lapse_jobs",
    "record_lost_leases",
    "report_progress",
    "report_progress_where_free",
    "rescue_jobs",
    "retry_job",
    "snooze_jobs",
]

_SNOOZED = "SNOOZED"

_logger = logging.getLogger(__name__)


async def claim_jobs(
    conn: asyncpg.Connection,
    worker_id: UUID,
    capacity: Mapping[str, int],
    limit: int,
    *,
    gates: ClaimGates | None = None,
) -> list[ClaimedJob]:
    """Claim jobs for a registered worker, as `millrace_queue.claim` does, and mark them as processing.

    The connection may be in autocommit mode. Progress and the error of the attempt before are cleared.
    """
    gates = gates or ClaimGates()
    room = {type_: min(places, limit) for type_, places in capacity.items() if min(places, limit) > 0}
    if not room:
        return []
    if not gates.likely:
        jobs = await _claim_without_gates(conn, worker_id, room, limit)
        if jobs:
            return jobs
        gates.likely = True
    async with millrace_queue.in_transaction(conn):
        claims = await millrace_queue.claim(conn, worker_id, room, limit, gates=gates)
        if not claims:
            return []
        ids = [claim.id for claim in claims]
        rows = await conn.fetch(
            job_statements.START_JOBS, ids, [claim.attempt for claim in claims], worker_id
        )
        jobs_of = {row[0]: row[1:] for row in rows}
        await _drop_strays(conn, [claim.lease for claim in claims if claim.id not in jobs_of])
    return [ClaimedJob(claim, *jobs_of[claim.id]) for claim in claims if claim.id in jobs_of]


async def _claim_without_gates(
    conn: asyncpg.Connection, worker_id: UUID, room: Mapping[str, int], limit: int
) -> list[ClaimedJob]:
    rows = await conn.fetch(job_statements.CLAIM_JOBS, worker_id, list(room), list(room.values()), limit)
    strays = [Claim(*row[:8]).lease for row in rows if row[8] is None]
    await _drop_strays(conn, strays)
    jobs = [ClaimedJob(Claim(*row[:8]), *row[8:]) for row in rows if row[8] is not None]
    jobs.sort(key=lambda job: job.claim.order)
    return jobs


async def complete_jobs(
    conn: asyncpg.Connection,
    results: Sequence[tuple[Lease, str | None]],
    *,
    created: JobCounts | None = None,
    freed: Freed | None = None,
) -> set[UUID]:
    """Complete jobs with their outputs, JSON text that Postgres can store or None, and create their deliveries and events.

    A job whose cancellation was requested meanwhile is completed all the same. In `created` is, afterwards, how many
    of these were created, by type and organisation; so it is of the functions below. In `freed` are the jobs that limits let start instead.

    Returns:
        The ids that were accepted. The leases of the others had been lost, and nothing changed.

    """
    accepted = await millrace_queue.complete(conn, [lease for lease, _ in results], freed=freed)
    if accepted:
        done = [(lease.id, output) for lease, output in results if lease.id in accepted]
        rows = await conn.fetch(
            job_statements.COMPLETE_JOBS, [id_ for id_, _ in done], [output for _, output in done]
        )
        deliveries = await create_deliveries(conn, [row["job_id"] for row in rows if row["delivers"]])
        events = await create_events(conn, rows)
        if created is not None:
            created.update(deliveries)
            created.update(events)
    return accepted


async def complete_plain_jobs(
    conn: asyncpg.Connection, results: Sequence[tuple[Lease, str | None]]
) -> set[UUID]:
    """Complete jobs as `complete_jobs` does, but leave alone those that limits apply to.

    None of them may deliver its result: see `JobOptions`. Those of organisations with subscriptions are left alone, too. The
    connection may be in autocommit mode.

    Returns:
        The ids that were accepted. What became of the others `complete_jobs` tells.

    """
    rows = await conn.fetch(
        job_statements.COMPLETE_PLAIN_JOBS,
        [lease.id for lease, _ in results],
        [lease.fence for lease, _ in results],
        [output for _, output in results],
    )
    return {row[0] for row in rows}


async def completed_by(conn: asyncpg.Connection, claims: Sequence[tuple[Claim, UUID]]) -> set[UUID]:
    """Return the ids of those jobs that are completed, by the attempt of a claim and its worker.

    For who has lost the answer to `complete_plain_jobs`.
    """
    if not claims:
        return set()
    rows = await conn.fetch(
        job_statements.FIND_COMPLETED,
        [claim.id for claim, _ in claims],
        [claim.attempt for claim, _ in claims],
        [worker_id for _, worker_id in claims],
    )
    return {row[0] for row in rows}


async def cancelled_jobs(
    conn: asyncpg.Connection,
    leases: Sequence[Lease],
    *,
    created: JobCounts | None = None,
    freed: Freed | None = None,
) -> set[UUID]:
    """Mark jobs as cancelled whose handler stopped because that was requested.

    Returns:
        The ids that were accepted. Of the others the lease had been lost, or nobody had requested a cancellation.

    """
    accepted = await millrace_queue.settle_cancelled(conn, leases, freed=freed)
    await _cancel(conn, [lease for lease in leases if lease.id in accepted], created)
    return accepted


async def hand_back_jobs(
    conn: asyncpg.Connection,
    leases: Sequence[Lease],
    *,
    unstarted: Collection[UUID] = (),
    created: JobCounts | None = None,
    freed: Freed | None = None,
) -> dict[UUID, HandBack]:
    """Give jobs back as if they had not been claimed: pending again, without the attempt.

    Args:
        conn: a connection in a transaction.
        leases: the worker's claims.
        unstarted: the ids of those whose handlers had not been started: no attempt is recorded.
        created: out, how many events of cancelled ones were created, by type and organisation.
        freed: out, the jobs that limits let start instead.

    Returns:
        What became of each job, by its id.

    """
    outcomes = await millrace_queue.hand_back(conn, leases, unstarted=unstarted, freed=freed)
    ready = [lease for lease in leases if outcomes[lease.id] is HandBack.READY]
    if ready:
        begun = [EndedAttempt(lease, "handed_back") for lease in ready if lease.id not in unstarted]
        await record_attempts(conn, begun)
        await conn.execute(job_statements.HAND_BACK_JOBS, [lease.id for lease in ready])
    await _cancel(conn, [lease for lease in leases if outcomes[lease.id] is HandBack.CANCELLED], created)
    return outcomes


async def snooze_jobs(
    conn: asyncpg.Connection,
    snoozes: Sequence[JobSnooze],
    *,
    created: JobCounts | None = None,
    freed: Freed | None = None,
) -> dict[UUID, HandBack]:
    """Put jobs off: pending until their time, without the attempt. One that is to be cancelled is cancelled.

    Returns:
        What became of each job, by its id.

    """
    outcomes = await millrace_queue.snooze(
        conn, [Snooze(snooze.lease.id, snooze.lease.fence, snooze.delay) for snooze in snoozes], freed=freed
    )
    put_off = [snooze for snooze in snoozes if outcomes[snooze.lease.id] is HandBack.READY]
    if put_off:
        messages = [storable(snooze.message) or None for snooze in put_off]
        await record_attempts(
            conn,
            [
                EndedAttempt(snooze.lease, "snoozed", message and _SNOOZED, message)
                for snooze, message in zip(put_off, messages, strict=True)
            ],
        )
        await conn.execute(
            job_statements.SNOOZE_JOBS,
            [snooze.lease.id for snooze in put_off],
            [snooze.delay for snooze in put_off],
            messages,
        )
    cancelled = [snooze.lease for snooze in snoozes if outcomes[snooze.lease.id] is HandBack.CANCELLED]
    await _cancel(conn, cancelled, created)
    return outcomes


async def report_progress(conn: asyncpg.Connection, reports: Sequence[ProgressReport]) -> set[UUID]:
    """Write how far running jobs are.

    Returns:
        The ids that were accepted. The leases of the others had been lost, and nothing changed.

    """
    accepted = await millrace_queue.confirm_alone(conn, [report.lease for report in reports])
    await _report_progress(conn, [report for report in reports if report.lease.id in accepted])
    return accepted


async def report_progress_where_free(
    conn: asyncpg.Connection, reports: Sequence[ProgressReport]
) -> dict[UUID, bool]:
    """Write how far running jobs are, as `report_progress` does, but wait for nobody.

    A handler may hold its own job's entry for long, in a transaction in which it has confirmed its lease.

    Returns:
        The ids whose leases hold. True: it is written. False: somebody else has the job locked just now.

    """
    held = await millrace_queue.confirm_free(conn, [report.lease for report in reports])
    await _report_progress(conn, [report for report in reports if held.get(report.lease.id)])
    return held


async def _report_progress(conn: asyncpg.Connection, held: Sequence[ProgressReport]) -> None:
    if held:
        await conn.execute(
            job_statements.REPORT_PROGRESS,
            [report.lease.id for report in held],
            [report.progress for report in held],
            [None if report.message is None else storable(report.message) for report in held],
            [report.total_items for report in held],
            [report.processed_items for report in held],
        )


async def _drop_strays(conn: asyncpg.Connection, leases: Sequence[Lease]) -> None:
    """Remove entries without a job, whose rows somebody deleted by hand: they must not stop a worker's claims."""
    if leases:
        _logger.error(
            "Queue entries without a job were dropped: %s", ", ".join(str(lease.id) for lease in leases)
        )
        await millrace_queue.complete(conn, leases)


async def _cancel(conn: asyncpg.Connection, leases: Sequence[Lease], created: JobCounts | None) -> None:
    if leases:
        await record_attempts(conn, [EndedAttempt(lease, "cancelled") for lease in leases])
        events = await create_events(
            conn, await conn.fetch(job_statements.CANCEL_JOBS, [lease.id for lease in leases])
        )
        if created is not None:
            created.update(events)

"""How jobs fail: an attempt does, its worker is lost, or their time is over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.attempt_records import AttemptOutcome, EndedAttempt, record_attempts
from millrace_database.dead_letters import create_dead_letters
from millrace_database.deliveries import create_deliveries
from millrace_database.job_changes import JobFailure
from millrace_database.job_flow import JobCounts
from millrace_database.storable_text import storable
from millrace_database.subscription_events import create_events
from millrace_queue import Expired, FailOutcome, Failure, Freed, Lease, Rescue, Rescued, Settled

WORKER_LOST = "WORKER_LOST"
"""The error code of an attempt whose worker died, or stood still for longer than its lease."""
QUARANTINED = "QUARANTINED"
"""The error code of a job with which too many workers in a row were lost."""
UNIQUE_CONFLICT = "UNIQUE_CONFLICT"
"""The error code of a job whose place among the further attempts of its unique key is taken."""
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
"""The error code of a job that waited until its deadline."""

_WORKER_LOST_MESSAGE = "The worker that ran the job was lost."
_STOOD_STILL_MESSAGE = "The worker that ran the job stood still for longer than its lease."
_QUARANTINED_MESSAGE = "Three workers in a row died while they ran the job."
_DEADLINE_MESSAGE = "The job was not started before its deadline."
_TOO_LATE_MESSAGE = "(Its deadline left no time for another attempt.)"
_CONFLICT_MESSAGE = "Another job with its unique key waits for a further attempt. The last error was"

_SETTLED = {
    Rescue.READY: Settled.RETRYING,
    Rescue.EXHAUSTED: Settled.FAILED,
    Rescue.QUARANTINED: Settled.QUARANTINED,
    Rescue.KEY_TAKEN: Settled.KEY_TAKEN,
    Rescue.CANCELLED: Settled.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class _Error:
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class _Ended:
    """An attempt that ended, and what became of its job."""

    attempt: EndedAttempt
    error: _Error
    outcome: FailOutcome

    @property
    def counts(self) -> bool:
        return self.attempt.outcome != "snoozed"


@dataclass(frozen=True, slots=True)
class _Change:
    """What a job is to say of its failure."""

    id_: UUID
    error: _Error
    outcome: FailOutcome
    counts: bool = True

    @property
    def is_final(self) -> bool:
        return self.outcome.settled is not Settled.RETRYING


async def fail_jobs(
    conn: asyncpg.Connection,
    failures: Sequence[JobFailure],
    *,
    created: JobCounts | None = None,
    freed: Freed | None = None,
) -> dict[UUID, Settled]:
    """End attempts that failed, keeping their errors: jobs wait for the next attempt, or fail for good.

    A job whose cancellation was requested is cancelled instead, without an error. An attempt that does not count is recorded
    as snoozed, with its error, if the job waits for the next one.

    Args:
        conn: a connection in a transaction.
        failures: what failed.
        created: out, how many jobs were created because others failed for good, by type and organisation: dead letters,
            deliveries of failures, and events.
        freed: out, the jobs that limits let start instead.

    Returns:
        What became of each job, by its id.

    """
    outcomes = await millrace_queue.fail(
        conn,
        [
            Failure(failure.lease.id, failure.lease.fence, failure.retry_delay, failure.counts)
            for failure in failures
        ],
        freed=freed,
    )
    ended = [
        _ended(
            failure.lease,
            _attempt_outcome(failure, outcomes[failure.lease.id]),
            _Error(storable(failure.code), storable(failure.message), failure.retryable),
            outcomes[failure.lease.id],
        )
        for failure in failures
        if outcomes[failure.lease.id].settled is not Settled.LOST
    ]
    await _write(conn, ended, created)
    return {id_: outcome.settled for id_, outcome in outcomes.items()}


async def lapse_jobs(
    conn: asyncpg.Connection,
    leases: Sequence[Lease],
    *,
    created: JobCounts | None = None,
    freed: Freed | None = None,
) -> dict[UUID, Settled]:
    """End attempts during which their worker stood still for longer than its lease, as if they had been rescued.

    They count as lost with their worker, so that a job that stops its workers ends.

    Returns:
        What became of each job, by its id.

    """
    outcomes = await millrace_queue.lapse(conn, leases, freed=freed)
    error = _Error(WORKER_LOST, _STOOD_STILL_MESSAGE, retryable=True)
    ended = [
        _ended(lease, "lease_lost", error, outcomes[lease.id])
        for lease in leases
        if outcomes[lease.id].settled is not Settled.LOST
    ]
    await _write(conn, ended, created)
    return {id_: outcome.settled for id_, outcome in outcomes.items()}


async def rescue_jobs(
    conn: asyncpg.Connection, *, limit: int, created: JobCounts | None = None, freed: Freed | None = None
) -> list[Rescued]:
    """Take the jobs of lost workers back, at most `limit`, with the error WORKER_LOST.

    They are pending again, failed when their attempts are used up or their workers keep dying, or cancelled when that
    was requested. `created` and `freed` as of `fail_jobs`.
    """
    rescued = await millrace_queue.rescue(conn, limit=limit, freed=freed)
    error = _Error(WORKER_LOST, _WORKER_LOST_MESSAGE, retryable=True)
    ended = []
    for entry in rescued:
        details = entry.worker_details or {}
        attempt = EndedAttempt(
            Lease(entry.id, entry.fence), "worker_lost", error.code, error.message, details.get("name")
        )
        ended.append(_Ended(attempt, error, FailOutcome(_SETTLED[entry.outcome], too_late=entry.too_late)))
    await _write(conn, ended, created)
    return rescued


async def expire_jobs(
    conn: asyncpg.Connection, *, limit: int, created: JobCounts | None = None
) -> list[Expired]:
    """Fail waiting jobs whose deadline is over, the longest overdue first, at most `limit`; return which they were."""
    expired = await millrace_queue.expire(conn, limit=limit)
    ids = [entry.id for entry in expired]
    error = _Error(DEADLINE_EXCEEDED, _DEADLINE_MESSAGE, retryable=False)
    rows = await _fail(conn, [_Change(id_, error, FailOutcome(Settled.FAILED)) for id_ in ids])
    await _create_followers(conn, ids, rows, created)
    return expired


def _attempt_outcome(failure: JobFailure, outcome: FailOutcome) -> AttemptOutcome:
    if not failure.counts and outcome.settled is Settled.RETRYING:
        return "snoozed"
    return "timed_out" if failure.timed_out else "failed"


def _ended(lease: Lease, attempt: AttemptOutcome, error: _Error, outcome: FailOutcome) -> _Ended:
    if outcome.settled is Settled.CANCELLED:
        return _Ended(EndedAttempt(lease, "cancelled"), error, outcome)
    return _Ended(EndedAttempt(lease, attempt, error.code, error.message), error, outcome)


async def _write(conn: asyncpg.Connection, ended: Sequence[_Ended], created: JobCounts | None) -> None:
    if not ended:
        return
    await record_attempts(conn, [end.attempt for end in ended])
    cancelled = [end.attempt.lease.id for end in ended if end.outcome.settled is Settled.CANCELLED]
    rows = await conn.fetch(job_statements.CANCEL_JOBS, cancelled) if cancelled else []
    failures = [
        _Change(end.attempt.lease.id, _final_error(end), end.outcome, end.counts)
        for end in ended
        if end.outcome.settled is not Settled.CANCELLED
    ]
    rows += await _fail(conn, failures)
    await _create_followers(conn, [change.id_ for change in failures if change.is_final], rows, created)


def _final_error(end: _Ended) -> _Error:
    match end.outcome.settled:
        case Settled.QUARANTINED:
            return _Error(QUARANTINED, _QUARANTINED_MESSAGE, retryable=False)
        case Settled.KEY_TAKEN:
            message = f"{_CONFLICT_MESSAGE} {end.error.code}: {end.error.message}"
            return _Error(UNIQUE_CONFLICT, message, end.error.retryable)
        case Settled.FAILED if end.outcome.too_late:
            return replace(end.error, message=f"{end.error.message} {_TOO_LATE_MESSAGE}".lstrip())
        case _:
            return end.error


async def _fail(conn: asyncpg.Connection, changes: Sequence[_Change]) -> list[asyncpg.Record]:
    """Write failures; return what `create_events` takes."""
    if not changes:
        return []
    return list(
        await conn.fetch(
            job_statements.FAIL_JOBS,
            [change.id_ for change in changes],
            ["failed" if change.is_final else "pending" for change in changes],
            [change.outcome.run_at for change in changes],
            [change.error.code for change in changes],
            [change.error.message for change in changes],
            [change.error.retryable for change in changes],
            [change.counts for change in changes],
        )
    )


async def _create_followers(
    conn: asyncpg.Connection,
    failed: Sequence[UUID],
    ended: Sequence[asyncpg.Record],
    created: JobCounts | None,
) -> None:
    letters = await create_dead_letters(conn, failed)
    deliveries = await create_deliveries(conn, failed)
    events = await create_events(conn, ended)
    if created is not None:
        created.update(letters)
        created.update(deliveries)
        created.update(events)

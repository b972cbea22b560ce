"""Writing what became of executions, all of one kind in one transaction."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg

from millrace_database import job_lifecycle
from millrace_database.job_changes import JobSnooze, ProgressReport
from millrace_database.job_flow import JobCounts
from millrace_queue import Freed, HandBack, Lease, Settled
from millrace_worker.execution import Execution
from millrace_worker.outcome import Cancelled, Completed, Failed, HandedBack, Lapsed, Outcome, Snoozed
from millrace_worker.store_outage import job_failures

_Kind = TypeVar("_Kind", bound=Outcome)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of an execution, to be written after the last progress of its job."""

    execution: Execution
    outcome: Outcome
    last_progress: ProgressReport | None


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        accepted: the ids of the jobs. The leases of the others had been lost.
        finished: those of them that will not run again.
        created: how many jobs were created because others ended, by type and organisation.
        freed: the jobs that limits let start instead.
        waits: how long those wait for their next attempts that failed and have one.

    """

    accepted: set[UUID] = field(default_factory=set)
    finished: set[UUID] = field(default_factory=set)
    created: JobCounts = field(default_factory=Counter)
    freed: Freed = field(default_factory=Counter)
    waits: Mapping[UUID, timedelta] = field(default_factory=dict)

    def __or__(self, other: "Written") -> "Written":
        return Written(
            self.accepted | other.accepted,
            self.finished | other.finished,
            self.created + other.created,
            self.freed + other.freed,
            {**self.waits, **other.waits},
        )


EndWriter = Callable[[asyncpg.Connection, Sequence[Settlement]], Awaitable[Written]]


async def write_plain_completed(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Complete jobs that no limit applies to and whose ends concern nobody else; of those that are not accepted `write_completed` tells what became."""
    accepted = await job_lifecycle.complete_plain_jobs(connection, _results(settlements))
    return Written(accepted, accepted)


async def write_plain_completed_again(
    connection: asyncpg.Connection, settlements: Sequence[Settlement]
) -> Written:
    """Complete jobs as `write_plain_completed` does, when it is not known whether that has been done already."""
    written = await write_plain_completed(connection, settlements)
    others = [
        settlement.execution
        for settlement in settlements
        if settlement.execution.lease.id not in written.accepted
    ]
    completed = await job_lifecycle.completed_by(
        connection, [(execution.job.claim, execution.worker_id) for execution in others]
    )
    return written | Written(completed, completed)


async def write_completed(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Complete jobs."""
    created: JobCounts = Counter()
    freed: Freed = Counter()
    accepted = await job_lifecycle.complete_jobs(
        connection, _results(settlements), created=created, freed=freed
    )
    return Written(accepted, accepted, created, freed)


async def write_failed(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Write failures: the jobs wait for their next attempts, or have failed for good."""
    created: JobCounts = Counter()
    freed: Freed = Counter()
    failures = await job_failures(
        connection,
        [(settlement.execution.job.claim, outcome) for settlement, outcome in _of_kind(settlements, Failed)],
    )
    outcomes = await job_lifecycle.fail_jobs(connection, failures, created=created, freed=freed)
    waits = {
        failure.lease.id: failure.retry_delay
        for failure in failures
        if failure.retry_delay is not None and outcomes[failure.lease.id] is Settled.RETRYING
    }
    return Written(*_settled(outcomes), created, freed, waits)


async def write_lapsed(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Count attempts as lost with their worker, which stood still."""
    created: JobCounts = Counter()
    freed: Freed = Counter()
    outcomes = await job_lifecycle.lapse_jobs(connection, _leases(settlements), created=created, freed=freed)
    return Written(*_settled(outcomes), created, freed)


async def write_snoozed(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Put jobs off."""
    created: JobCounts = Counter()
    freed: Freed = Counter()
    outcomes = await job_lifecycle.snooze_jobs(
        connection,
        [
            JobSnooze(settlement.execution.lease, outcome.delay, outcome.message)
            for settlement, outcome in _of_kind(settlements, Snoozed)
        ],
        created=created,
        freed=freed,
    )
    return _handed_back(outcomes, created, freed)


async def write_handed_back(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Give jobs back."""
    unstarted = {
        settlement.execution.lease.id for settlement in settlements if not settlement.execution.is_started
    }
    created: JobCounts = Counter()
    freed: Freed = Counter()
    outcomes = await job_lifecycle.hand_back_jobs(
        connection, _leases(settlements), unstarted=unstarted, created=created, freed=freed
    )
    return _handed_back(outcomes, created, freed)


async def write_cancelled(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Mark jobs as cancelled."""
    created: JobCounts = Counter()
    freed: Freed = Counter()
    accepted = await job_lifecycle.cancelled_jobs(
        connection, _leases(settlements), created=created, freed=freed
    )
    return Written(accepted, accepted, created, freed)


async def write_progress(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> Written:
    """Write the last progress of jobs."""
    reports = [settlement.last_progress for settlement in settlements if settlement.last_progress]
    return Written(await job_lifecycle.report_progress(connection, reports))


END_WRITERS: dict[type[Outcome], EndWriter] = {
    Completed: write_completed,
    Failed: write_failed,
    Cancelled: write_cancelled,
    Snoozed: write_snoozed,
    HandedBack: write_handed_back,
    Lapsed: write_lapsed,
}


def _results(settlements: Sequence[Settlement]) -> list[tuple[Lease, str | None]]:
    return [
        (settlement.execution.lease, outcome.output_json)
        for settlement, outcome in _of_kind(settlements, Completed)
    ]


def _settled(outcomes: dict[UUID, Settled]) -> tuple[set[UUID], set[UUID]]:
    accepted = {id_ for id_, settled in outcomes.items() if settled is not Settled.LOST}
    return accepted, {id_ for id_ in accepted if outcomes[id_] is not Settled.RETRYING}


def _handed_back(outcomes: dict[UUID, HandBack], created: JobCounts, freed: Freed) -> Written:
    accepted = {id_ for id_, outcome in outcomes.items() if outcome is not HandBack.LOST}
    cancelled = {id_ for id_ in accepted if outcomes[id_] is HandBack.CANCELLED}
    return Written(accepted, cancelled, created, freed)


def _leases(settlements: Sequence[Settlement]) -> list[Lease]:
    return [settlement.execution.lease for settlement in settlements]


def _of_kind(settlements: Sequence[Settlement], kind: type[_Kind]) -> list[tuple[Settlement, _Kind]]:
    return [
        (settlement, settlement.outcome) for settlement in settlements if isinstance(settlement.outcome, kind)
    ]

"""What goes into the queue, what comes out, and what became of it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

Connection: TypeAlias = asyncpg.Connection
"""The caller's connection. An operation runs in the transaction that is open on it, or commits by itself."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to be put into the queue.

    Attributes:
        id: its name; one entry at most has it.
        type: which handler runs it, such as "reports:generate".
        tenant: to whom it belongs; the queue does not interpret it.
        max_attempts: how many attempts it may use in all, more than `attempt`.
        priority: higher is served first, -1000 to 1000.
        run_at: not served before; None: at once.
        attempt: attempts already used.

    """

    id: UUID
    type: str
    tenant: str
    max_attempts: int
    priority: int = 0
    run_at: datetime | None = None
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to an entry. It ends when the entry is settled, handed back or rescued.

    `fence` is given anew at each claim and never twice, so a worker that lost an entry cannot change it.
    """

    id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry that a worker has claimed; `attempt` counts this attempt, from 1."""

    id: UUID
    type: str
    tenant: str
    attempt: int
    max_attempts: int
    fence: int

    @property
    def lease(self) -> Lease:
        """What the worker proves its claim with."""
        return Lease(self.id, self.fence)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed; `retry_delay` is the time to the next one, None: there is none."""

    id: UUID
    fence: int
    retry_delay: timedelta | None


class Settled(enum.Enum):
    """What became of an entry whose attempt failed."""

    RETRYING = "retrying"
    """It waits for its next attempt."""
    FAILED = "failed"
    """It is gone: its attempts are used up, or it was not to be retried."""
    CANCELLED = "cancelled"
    """It is gone: its cancellation had been requested."""
    LOST = "lost"
    """Nothing changed: the lease had been lost."""


@dataclass(frozen=True, slots=True)
class FailOutcome:
    """What became of an entry whose attempt failed; `run_at` is the time of the next one when RETRYING."""

    settled: Settled
    run_at: datetime | None = None


class HandBack(enum.Enum):
    """What became of an entry that its worker handed back."""

    READY = "ready"
    """It can be claimed again, and has not lost an attempt."""
    CANCELLED = "cancelled"
    """It is gone: its cancellation had been requested."""
    LOST = "lost"
    """Nothing changed: the lease had been lost."""


class Rescue(enum.Enum):
    """What became of an entry whose worker was lost."""

    READY = "ready"
    """It can be claimed again; the lost attempt counts."""
    EXHAUSTED = "exhausted"
    """It is gone: its attempts are used up."""
    CANCELLED = "cancelled"
    """It is gone: its cancellation had been requested."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """An entry taken from a lost worker; `attempt` is the number of the attempt that was lost."""

    id: UUID
    type: str
    worker_id: UUID
    attempt: int
    outcome: Rescue


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """What became of an entry that was to be cancelled.

    Attributes:
        removed: True: it was waiting and is gone. False: it runs, and its worker has been asked to stop.
        worker_id: the worker that runs it.
        worker_details: what that worker said of itself; None when it is not registered any more.

    """

    removed: bool
    worker_id: UUID | None = None
    worker_details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HeldLease:
    """An entry that a worker holds according to the database."""

    id: UUID
    fence: int
    cancel_requested: bool

    @property
    def lease(self) -> Lease:
        """What the worker proves its claim with."""
        return Lease(self.id, self.fence)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to a heartbeat.

    Attributes:
        known: False: the worker counts as lost, and so do all its leases. It must stop what it runs, and
            register again before it can claim anything.
        held: the leases it has. One that the worker thinks it has and that is not here is lost; one
            that the worker does not know (the answer to its claim got lost) is to be handed back.

    """

    known: bool
    held: list[HeldLease]

"""What goes into the queue, what comes out, and what became of it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import asyncpg

Connection: TypeAlias = asyncpg.Connection
"""The caller's connection. An operation runs in the transaction that is open on it, or commits by itself."""


KeyOrder: TypeAlias = Literal["block", "skip"]
"""Entries of a key run strictly one after the other, in the order in which they came in, waiting for retries; once one has
failed for good the others wait until it is retried or let go ("block"), or go on ("skip")."""

UniqueWhile: TypeAlias = Literal["waiting", "unfinished", "each_state"]
"""Of a unique key there is at most one entry that waits and has not been served; that is in the queue; in each
of the states waiting, waiting for a retry, and running."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Of the entries of a tenant and type with the same `key`, at most `limit` run at once, from 1.

    `order` needs a limit of 1; None: entries are served by priority and rank, and a retry that waits holds up nobody.
    """

    key: str
    limit: int = 1
    order: KeyOrder | None = None


@dataclass(frozen=True, slots=True)
class Unique:
    """An entry with this key excludes another one; the key says for itself within what it is to be unique.

    Keys with a different `while_` do not exclude each other, but for "waiting" and "each_state" among what waits for
    its first attempt.
    """

    key: str
    while_: UniqueWhile


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
        expires_at: not served after this time; None: at any time.
        concurrency: the key that it shares a limit with others by.
        unique: the key that it may have alone.

    """

    id: UUID
    type: str
    tenant: str
    max_attempts: int
    priority: int = 0
    run_at: datetime | None = None
    attempt: int = 0
    expires_at: datetime | None = None
    concurrency: Concurrency | None = None
    unique: Unique | None = None

    @property
    def unique_slot(self) -> str | None:
        """The place of its unique key that the entry takes when it comes in; None: its key excludes nobody now."""
        if self.unique is None:
            return None
        if self.unique.while_ == "unfinished":
            return "unfinished"
        if self.attempt == 0:
            return "waiting"
        return "retry" if self.unique.while_ == "each_state" else None


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
    priority: int
    rank: int

    @property
    def lease(self) -> Lease:
        """What the worker proves its claim with."""
        return Lease(self.id, self.fence)

    @property
    def order(self) -> tuple[int, int, UUID]:
        """Lower is served first."""
        return -self.priority, self.rank, self.id


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed; `retry_delay` is the time to the next one, None: there is none.

    One that does not count is given back, if its entry is still to wait for the next.
    """

    id: UUID
    fence: int
    retry_delay: timedelta | None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Snooze:
    """An attempt that is given back, to be made after `delay`."""

    id: UUID
    fence: int
    delay: timedelta


class Settled(enum.Enum):
    """What became of an entry whose attempt failed."""

    RETRYING = "retrying"
    """It waits for its next attempt."""
    FAILED = "failed"
    """It is gone: its attempts or its time are used up, or it was not to be retried."""
    QUARANTINED = "quarantined"
    """It is gone: too many leases in a row were lost with it."""
    KEY_TAKEN = "key taken"
    """It is gone: another entry with its unique key waits for a further attempt."""
    CANCELLED = "cancelled"
    """It is gone: its cancellation had been requested."""
    LOST = "lost"
    """Nothing changed: the lease had been lost."""


@dataclass(frozen=True, slots=True)
class FailOutcome:
    """What became of an entry whose attempt failed.

    Attributes:
        settled: what it is now.
        run_at: the time of the next attempt when RETRYING.
        too_late: it FAILED though attempts were left: the next one would have come after the time until which it may wait.

    """

    settled: Settled
    run_at: datetime | None = None
    too_late: bool = False


class HandBack(enum.Enum):
    """What became of an entry that its worker handed back, or put off."""

    READY = "ready"
    """It waits again, and has not lost an attempt."""
    CANCELLED = "cancelled"
    """It is gone: its cancellation had been requested."""
    LOST = "lost"
    """Nothing changed: the lease had been lost."""


class Rescue(enum.Enum):
    """What became of an entry whose worker was lost."""

    READY = "ready"
    """It can be claimed again; the lost attempt counts."""
    EXHAUSTED = "exhausted"
    """It is gone: its attempts or its time are used up."""
    QUARANTINED = "quarantined"
    """It is gone: too many leases in a row were lost with it."""
    KEY_TAKEN = "key taken"
    """It is gone: another entry with its unique key waits for a further attempt."""
    CANCELLED = "cancelled"
    """It is gone: its cancellation had been requested."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """An entry taken from a lost worker.

    Attributes:
        id: the entry.
        type: its type.
        tenant: to whom it belongs.
        worker_id: the worker that was lost.
        attempt: the number of the attempt that was lost.
        fence: that of the lost lease.
        outcome: what became of the entry.
        worker_details: what the worker said of itself; None when that is not known any more.
        too_late: it is EXHAUSTED by its time, though attempts were left.

    """

    id: UUID
    type: str
    tenant: str
    worker_id: UUID
    attempt: int
    fence: int
    outcome: Rescue
    worker_details: Mapping[str, Any] | None = None
    too_late: bool = False


@dataclass(frozen=True, slots=True)
class Expired:
    """An entry that waited until its time was over, and is gone, with its type and tenant."""

    id: UUID
    type: str
    tenant: str


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """What became of an entry that was to be cancelled.

    Attributes:
        type: its type.
        tenant: to whom it belongs.
        removed: True: it was waiting and is gone. False: it runs, and its worker has been asked to stop.
        worker_id: the worker that runs it.
        worker_details: what that worker said of itself; None when it is not registered any more.

    """

    type: str
    tenant: str
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

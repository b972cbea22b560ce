"""What is asked of a job in its life, and what comes of it: the values of `job_lifecycle`."""

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from millrace_database.job_flow import JobCounts
from millrace_database.job_options import JobOptions
from millrace_queue import Claim, Lease


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be created.

    Attributes:
        job_id: its id, from `new_id`.
        org_id: the organisation it belongs to.
        type: its type.
        input_json: a JSON object that Postgres can store: without U+0000.
        metadata_json: the same, for the caller's labels.
        created_by: who asked for it.
        max_attempts: how many attempts it may use, at least 1.
        priority: higher is served first, -100 to 100.
        run_at: not started before; None: at once.
        schedule_id: the schedule that makes it.
        request_id: at most one job of an organisation has it; None: any number.
        delay: not started before so much time has passed after its creation; None, or `run_at` is None.
        options: what it asks for beyond the ordinary; None: nothing.

    """

    job_id: UUID
    org_id: str
    type: str
    input_json: str
    metadata_json: str
    created_by: str
    max_attempts: int
    priority: int = 0
    run_at: datetime | None = None
    schedule_id: UUID | None = None
    request_id: str | None = None
    delay: timedelta | None = None
    options: JobOptions | None = None


# Not frozen, since there is one for each job: a frozen one takes three times as long to make.
@dataclass(slots=True)
class CreatedJob:
    """The job that there is now for a `NewJob`.

    Attributes:
        job_id: its id: another than asked for when it existed.
        already_existed: a job with this request id or unique key existed, and nothing was created.
        conflict: that job has the request id, and another type or input.
        replaced: that job has been given what the new one asks for.
        key_taken: that job has the unique key, or was the last one that the throttled key let in, and the new one is
            neither to be it nor to replace it. It may be another organisation's, and gone.
        key_taken_until: when the throttled key lets in the next one; None: the key is not taken, or no throttled one.
            Plays no part in comparisons.
        created_at: when it was created; None: it existed. Plays no part in comparisons.
        run_at: the time before which it is not started; None: it existed. Plays no part in comparisons.

    """

    job_id: UUID
    already_existed: bool = False
    conflict: bool = False
    replaced: bool = False
    key_taken: bool = False
    key_taken_until: datetime | None = field(default=None, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    run_at: datetime | None = field(default=None, compare=False)

    @property
    def is_new(self) -> bool:
        """Whether it waits anew: it was created, or replaced."""
        return self.replaced or not self.already_existed


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that a worker has claimed, with what its handler gets.

    `options_json` is what `JobOptions.from_json` reads; None: its creator asked for nothing beyond the ordinary.
    """

    claim: Claim
    org_id: str
    input_json: str
    metadata_json: str
    created_by: str
    options_json: str | None = None

    @property
    def lease(self) -> Lease:
        """What the worker proves its claim with."""
        return self.claim.lease


@dataclass(frozen=True, slots=True)
class JobFailure:
    """An attempt that failed.

    Attributes:
        lease: the worker's claim.
        retry_delay: the time to the next attempt; None: the job fails for good.
        code: the error for programs, in UPPER_SNAKE_CASE.
        message: the error for people.
        retryable: whether the same job could succeed if it were tried again.
        timed_out: it failed because it took longer than it may.
        counts: False: if the job is to wait for the next attempt, it does so without having used one.

    """

    lease: Lease
    retry_delay: timedelta | None
    code: str
    message: str
    retryable: bool
    timed_out: bool = False
    counts: bool = True


@dataclass(frozen=True, slots=True)
class JobSnooze:
    """An attempt that is given back, to be made after `delay`; `message` is what people see meanwhile, if not empty."""

    lease: Lease
    delay: timedelta
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a running job is; None leaves a value as it is.

    Attributes:
        lease: the worker's claim.
        progress: percent, 0 to 100.
        message: what people see.
        total_items: how many items there are to process, at least 0.
        processed_items: how many have been processed, at least 0.

    """

    lease: Lease
    progress: int | None = None
    message: str | None = None
    total_items: int | None = None
    processed_items: int | None = None


class Cancellation(enum.Enum):
    """What became of the wish to cancel a job."""

    NOT_FOUND = "not found"
    """The organisation has no such job."""
    FINISHED = "finished"
    """It had completed or failed, and stays so."""
    CANCELLED = "cancelled"
    """It is cancelled, now or before."""
    CANCELLING = "cancelling"
    """It runs, and its worker has been asked to stop it."""


@dataclass(frozen=True, slots=True)
class CancelledJob:
    """The outcome of `cancel_job`.

    Attributes:
        outcome: what became of the wish.
        status: the job's status now; empty when it was not found.
        worker_id: the worker that runs it, when CANCELLING.
        worker_details: what that worker said of itself when it registered; None when it is not registered any more.
        ended_type: the type of the job, when it waited and this cancelled it.
        created: how many events of that were created, by type and organisation.

    """

    outcome: Cancellation
    status: str = ""
    worker_id: UUID | None = None
    worker_details: Mapping[str, Any] | None = None
    ended_type: str | None = None
    created: JobCounts = field(default_factory=Counter)


class Retry(enum.Enum):
    """What became of the wish to try a job again."""

    NOT_FOUND = "not found"
    """The organisation has no such job."""
    WRONG_STATUS = "wrong status"
    """It has neither failed nor been cancelled, nor waits for its time after a failed attempt."""
    RETRIED = "retried"
    """It is pending again, or due at once."""
    KEY_TAKEN = "key taken"
    """Another job has its unique key now, and nothing changed."""


@dataclass(frozen=True, slots=True)
class RetriedJob:
    """The outcome of `retry_job`.

    Attributes:
        outcome: what became of the wish.
        status: the job's status now; empty when it was not found.
        type: the job's type; empty when it is not to be tried again.
        holder_id: the job that has its unique key, when KEY_TAKEN.

    """

    outcome: Retry
    status: str = ""
    type: str = ""
    holder_id: UUID | None = None

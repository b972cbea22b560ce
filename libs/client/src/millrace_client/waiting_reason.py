"""Why a pending job does not run."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from millrace.jobs.v1 import waiting_reason_pb2
from millrace_client.contract_enum import ContractEnum
from millrace_client.values import time_or_none


class WaitingCause(StrEnum):
    """What holds a pending job up."""

    SCHEDULED = "SCHEDULED"
    """It waits for `until`: its own time, or that of its next attempt."""
    TYPE_PAUSED = "TYPE_PAUSED"
    ORGANISATION_PAUSED = "ORGANISATION_PAUSED"
    NO_WORKER = "NO_WORKER"
    """No live worker runs its type."""
    TYPE_LIMIT = "TYPE_LIMIT"
    """As many of its type run as may."""
    ORGANISATION_TYPE_LIMIT = "ORGANISATION_TYPE_LIMIT"
    """As many of its type and organisation run as may."""
    ORGANISATION_LIMIT = "ORGANISATION_LIMIT"
    """As many of its organisation run as may."""
    RATE_LIMIT = "RATE_LIMIT"
    """A rate is used up; the next start is possible at `until`."""
    CONCURRENCY_KEY = "CONCURRENCY_KEY"
    """As many with its concurrency key run as may, or others of its key come before it. A unique key that lets one job
    run at once (RUNNING, EACH) is such a key, too."""
    KEY_BLOCKED = "KEY_BLOCKED"
    """Its concurrency key is blocked by the failed job `blocking_job_id`."""
    IN_LINE = "IN_LINE"
    """Nothing but that `jobs_before` come first."""
    UNKNOWN = "UNKNOWN"
    """A cause that this version of the SDK does not know."""


_CAUSES = ContractEnum(WaitingCause, waiting_reason_pb2.WaitingCause.items(), "WAITING_CAUSE_")


@dataclass(frozen=True, slots=True)
class WaitingReason:
    """Why a pending job does not run: the first cause that holds."""

    cause: WaitingCause
    message: str
    """The same as a sentence for people."""
    until: datetime | None
    jobs_before: int
    """How many jobs come before it, as things are now: of its type, in line; of one that was taken out of the line by
    its key, or by its organisation, of those that wait there. 10,000 means that or more."""
    blocking_job_id: str


def read_waiting_reason(message: waiting_reason_pb2.WaitingReason) -> WaitingReason:
    """Turn the contract's message into a WaitingReason."""
    return WaitingReason(
        cause=_CAUSES.read(message.cause),
        message=message.message,
        until=time_or_none(message, "until"),
        jobs_before=message.jobs_before,
        blocking_job_id=message.blocking_job_id,
    )

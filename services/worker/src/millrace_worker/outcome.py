"""What can become of one attempt."""

import enum
from dataclasses import dataclass
from datetime import timedelta


class StopReason(enum.Enum):
    """Why a handler is stopped before it has returned."""

    CANCELLED = "cancelled"
    """Somebody asked for the job's cancellation."""
    TIMEOUT = "timeout"
    """The attempt took longer than its type allows."""
    GIVEN_UP = "given up"
    """The worker stops, or cannot tell whether its leases still hold: the job is to run elsewhere."""
    STOOD_STILL = "stood still"
    """The whole worker stood still for so long that its leases may have run out, and one of its handlers may be why."""
    LEASE_LOST = "lease lost"
    """The job belongs to another worker, or to none."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned; `output_json` is the JSON text of an object."""

    output_json: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed. `retry_delay`: the time to the next attempt if there is one, None: there is none.

    `is_spared`: for a while such attempts do not count, since something was away that the job needs. `away`: what the log
    says of that, once it is known when the next attempt is.
    """

    code: str
    message: str
    retry_delay: timedelta | None
    timed_out: bool = False
    is_spared: bool = False
    away: str | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same job could succeed if it were tried again."""
        return self.retry_delay is not None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The handler stopped because of a recorded cancellation."""


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The handler asked to be called again after `delay`; the attempt does not count."""

    delay: timedelta
    message: str


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The job is to run elsewhere, and the attempt does not count."""


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The worker stood still for longer than its lease: the attempt counts as lost with the worker."""


Outcome = Completed | Failed | Cancelled | Snoozed | HandedBack | Lapsed


def time_to_next(outcome: Outcome) -> timedelta:
    """Return after how long a job that is not finished by this outcome runs again."""
    match outcome:
        case Failed(retry_delay=timedelta() as delay) | Snoozed(delay=delay):
            return delay
        case _:
            return timedelta()

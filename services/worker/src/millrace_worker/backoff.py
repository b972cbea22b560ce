import random
from dataclasses import dataclass
from datetime import timedelta

LONGEST_WAIT = timedelta(days=3_650)
"""No attempt is put off for longer: neither Postgres nor Python reckons with any time that a timedelta reaches."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a job waits before its next attempt: exponential, capped, with jitter.

    The wait after attempt n is `base` * `factor` ** (n - 1), at most `cap`, then varied by up to `jitter`
    (0 to 1, a share of the wait) in both directions so that jobs that failed together do not return together.
    `factor=1` makes the wait the same each time. Raises ValueError for negative or impossible settings.
    """

    base: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(minutes=5)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.base < timedelta(0) or self.cap < timedelta(0):
            raise ValueError("base and cap of a backoff are not negative")
        if self.factor < 1:
            raise ValueError("factor of a backoff is at least 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter of a backoff is between 0 and 1")

    def delay(self, attempt: int) -> timedelta:
        """Return the wait after attempt number `attempt` (from 1) has failed."""
        cap = self.cap.total_seconds()
        try:
            seconds = min(self.base.total_seconds() * self.factor ** (attempt - 1), cap)
        except OverflowError:
            seconds = cap
        spread = random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - spreads load, guards no secret
        return timedelta(seconds=min(seconds * spread, LONGEST_WAIT.total_seconds()))

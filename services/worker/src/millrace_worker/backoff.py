import math
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

from millrace_database.job_options import RetryRule

LONGEST_WAIT = timedelta(days=3_650)
"""No attempt is put off for longer: neither Postgres nor Python reckons with any time that a timedelta reaches."""

BackoffKind: TypeAlias = Literal["fixed", "linear", "exponential"]
"""A wait is always the same; grows by as much each time; grows by a factor each time."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a job waits before its next attempt: growing as `kind` says, capped, with jitter.

    The wait after attempt n is `base` ("fixed"), `base` * n ("linear") or `base` * `factor` ** (n - 1)
    ("exponential"), and at most `cap`. It is then varied by up to `jitter` (0 to 1, a share of the wait) in both
    directions, though never beyond `cap`, so that jobs that failed together do not return together. Raises ValueError for
    negative or impossible settings, TypeError for what is no timedelta or no number.
    """

    base: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(minutes=5)
    jitter: float = 0.1
    kind: BackoffKind = "exponential"

    def __post_init__(self) -> None:
        if not (isinstance(self.base, timedelta) and isinstance(self.cap, timedelta)):
            raise TypeError("base and cap of a backoff are timedeltas")
        if not (isinstance(self.factor, int | float) and isinstance(self.jitter, int | float)):
            raise TypeError("factor and jitter of a backoff are numbers")
        if self.base < timedelta(0) or self.cap < timedelta(0):
            raise ValueError("base and cap of a backoff are not negative")
        if not (self.factor >= 1 and math.isfinite(self.factor)):
            raise ValueError("factor of a backoff is at least 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter of a backoff is between 0 and 1")
        if self.kind not in ("fixed", "linear", "exponential"):
            raise ValueError("kind of a backoff is fixed, linear or exponential")

    def delay(self, attempt: int) -> timedelta:
        """Return the wait after attempt number `attempt` (from 1) has failed."""
        cap = min(self.cap, LONGEST_WAIT).total_seconds()
        seconds = min(self._plain(attempt), cap)
        spread = random.uniform(seconds * (1 - self.jitter), min(seconds * (1 + self.jitter), cap))  # noqa: S311 - spreads load, guards no secret
        return timedelta(seconds=spread)

    def overridden_by(self, rule: RetryRule) -> "Backoff":
        """Return this backoff with what the rule says instead; what the rule leaves open stays."""
        return Backoff(
            base=self.base if rule.initial_delay is None else rule.initial_delay,
            factor=self.factor if rule.factor is None else rule.factor,
            cap=self.cap if rule.max_delay is None else rule.max_delay,
            jitter=self.jitter if rule.jitter is None else rule.jitter,
            kind=self.kind if rule.backoff is None else rule.backoff,
        )

    def as_rule(self) -> RetryRule:
        """Return the rule that says all of this backoff."""
        return RetryRule(
            backoff=self.kind,
            initial_delay=min(self.base, LONGEST_WAIT),
            max_delay=min(self.cap, LONGEST_WAIT),
            factor=self.factor,
            jitter=self.jitter,
        )

    def _plain(self, attempt: int) -> float:
        base = self.base.total_seconds()
        match self.kind:
            case "fixed":
                return base
            case "linear":
                return base * attempt
            case "exponential":
                try:
                    growth = self.factor ** (attempt - 1)
                except OverflowError:
                    return self.cap.total_seconds() if base else 0.0
                return base * growth

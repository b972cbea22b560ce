"""Rates: how many entries may start in how much time."""

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime, timedelta

BUCKETS = 100
"""A period is remembered as so many buckets; what started within one counts as started with the last of them."""

SLACK = timedelta(milliseconds=20)
"""How much a smooth rate may catch up: starts that come late by less do not delay those after them."""

DENSE_SLACK = timedelta(milliseconds=50)
"""The same for a rate whose starts are closer together than that."""

CLOCK_SET_BACK = timedelta(minutes=1)
"""Starts that lie further in the future are from before the clock was set back. No transaction takes so long to start entries."""

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts, from 1, in any interval as long as `period`, more than 0; `smooth`: spread evenly over it."""

    count: int
    period: timedelta
    smooth: bool = False


@dataclass(slots=True)
class RateUse:
    """The starts that still count in a rate, those of a bucket together, and until when a smooth rate is closed."""

    times: list[datetime] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    next_at: datetime | None = None

    def without_future(self, now: datetime) -> "RateUse":
        """Return what counts in spite of a clock that was set back: of the starts that it recorded before nothing can be said."""
        known = bisect_right(self.times, now + CLOCK_SET_BACK)
        return RateUse(self.times[:known], self.counts[:known], self.next_at)

    def places(self, rate: Rate, now: datetime) -> int:
        """Return how many may start now.

        None may at a time before the last start: it might lie in an interval whose starts are no longer known.
        """
        if self.times and now < self.times[-1]:
            return 0
        free = rate.count - self._started_since(now - rate.period)
        if rate.smooth and free > 0:
            free = min(free, self._due(rate, now))
        return max(free, 0)

    def take(self, rate: Rate, now: datetime, count: int) -> None:
        """Count starts at this time."""
        if rate.smooth:
            self.next_at = self._schedule(rate, now) + rate.period * count / rate.count
        else:
            self.next_at = None
        gone = sum(1 for time in self.times if time < now - rate.period)
        del self.times[:gone], self.counts[:gone]
        if self.times and _bucket(self.times[-1], rate) == _bucket(now, rate):
            self.times[-1] = now
            self.counts[-1] += count
        else:
            self.times.append(now)
            self.counts.append(count)

    def opens_at(self, rate: Rate, now: datetime) -> datetime:
        """Return the earliest time at which one more may start, `now` if one may now."""
        opens = max(now, self.times[-1]) if self.times else now
        started = self._started_since(now - rate.period)
        for time, count in zip(self.times, self.counts, strict=True):
            if started < rate.count:
                break
            if time >= now - rate.period:
                started -= count
                opens = max(opens, time + rate.period + _TICK)
        return max(opens, self._schedule(rate, now)) if rate.smooth else opens

    def idle_at(self, rate: Rate) -> datetime | None:
        """Return from when on nothing of this counts any more, None when nothing counts."""
        if not self.times:
            return None
        last = self.times[-1] + rate.period
        return max(last, self.next_at) if self.next_at else last

    def _started_since(self, since: datetime) -> int:
        return sum(count for time, count in zip(self.times, self.counts, strict=True) if time >= since)

    def _schedule(self, rate: Rate, now: datetime) -> datetime:
        """Return when a smooth rate lets the next one start, in the past as far as the slack allows it to catch up."""
        earliest = now - (DENSE_SLACK if rate.period / rate.count < DENSE_SLACK else SLACK)
        if self.next_at is None or not self.times:
            return now
        # Not later than this rate asks for: it may have been a slower one when the last ones started.
        latest = self.times[-1] + rate.period * self.counts[-1] / rate.count
        return max(min(self.next_at, latest), earliest)

    def _due(self, rate: Rate, now: datetime) -> int:
        schedule = self._schedule(rate, now)
        if schedule > now:
            return 0
        return (now - schedule) * rate.count // rate.period + 1


def _bucket(time: datetime, rate: Rate) -> int:
    width = max(rate.period / BUCKETS, _TICK)
    return int(time.timestamp() * 1_000_000) // (width // _TICK)

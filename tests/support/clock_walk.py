"""Fire times by brute force: a walk over what the clocks of a time zone show, step by step.

It knows nothing of folds and gaps, nor of how schedules compute their times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
_PROBE = timedelta(days=2)

Matches = Callable[[datetime], bool]


@dataclass(frozen=True)
class Clock:
    """What a zone's clocks show at instants that are evenly apart."""

    step: timedelta
    shown: tuple[tuple[datetime, datetime], ...]

    @property
    def start(self) -> datetime:
        """The first instant."""
        return self.shown[0][0]

    @property
    def end(self) -> datetime:
        """The last instant."""
        return self.shown[-1][0]

    @cached_property
    def arrivals(self) -> tuple[tuple[datetime, datetime], ...]:
        """The instants after the first at which the clocks reach or pass a time they had not reached yet, and it."""
        arrivals = []
        reached = self.shown[0][1]
        for instant, wall in self.shown[1:]:
            arrivals += [(instant, time) for time in _steps(reached, wall, self.step)]
            reached = max(reached, wall)
        return tuple(arrivals)

    def between(self, start: datetime, end: datetime) -> "Clock":
        """Return the part from one instant to another."""
        return Clock(self.step, tuple(entry for entry in self.shown if start <= entry[0] <= end))


@dataclass(frozen=True, slots=True)
class Change:
    """An instant at which a zone's clocks jump, and their distance from UTC before and after."""

    at: datetime
    before: timedelta
    after: timedelta


def read_clock(zone: ZoneInfo, start: datetime, end: datetime, step: timedelta = MINUTE) -> Clock:
    """Read a zone's clocks from one instant to another."""
    instants = [start + step * index for index in range((end - start) // step + 1)]
    return Clock(
        step, tuple((instant, instant.astimezone(zone).replace(tzinfo=None)) for instant in instants)
    )


def by_wall_time(clock: Clock, matches: Matches) -> list[datetime]:
    """Return the instants after the first at which the clocks reach or pass a time that matches, for the first time."""
    return list(dict.fromkeys(instant for instant, wall in clock.arrivals if matches(wall)))


def by_elapsed_time(clock: Clock, matches: Matches) -> list[datetime]:
    """Return the instants after the first at which the clocks show a time that matches, or make up for one.

    They make up for one that they jump over, and that elapsed time does not bring.
    """
    fires = []
    for (_, previous), (instant, wall) in pairwise(clock.shown):
        jump = wall - previous - clock.step
        jumped = _steps(previous, wall - clock.step, clock.step) if jump > timedelta(0) else ()
        if matches(wall) or any(matches(time) and not matches(time + jump) for time in jumped):
            fires.append(instant)
    return fires


def find_changes(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[Change]:
    """Yield the changes of a zone's clocks between two instants; none may undo another within two days."""
    before = _distance(zone, start)
    while start < end:
        probe = start + _PROBE
        after = _distance(zone, probe)
        if after != before:
            low, high = start, probe
            while high - low > SECOND:
                middle = low + (high - low) // SECOND // 2 * SECOND
                low, high = (middle, high) if _distance(zone, middle) == before else (low, middle)
            yield Change(high, before, after)
        start, before = probe, after


def _steps(after: datetime, until: datetime, step: timedelta) -> Iterator[datetime]:
    while after < until:
        after += step
        yield after


def _distance(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).replace(tzinfo=UTC) - instant

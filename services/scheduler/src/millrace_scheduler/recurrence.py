"""When a schedule fires next: pure functions of its recurrence, its time zone and a time to look from.

Local times follow one rule: a wall time fires at the first instant at which the zone's clocks show it or have
jumped over it. So a time in the gap of spring fires right after the gap, and one that autumn repeats fires once.
Only a cron expression with an hour field of `*` or `*/n` follows elapsed time instead: it fires whenever the
clocks show a time it names, in both passes of a repeated hour.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from millrace_scheduler.cron import CronExpression
from millrace_scheduler.local_time import first_instant, offset_at, offset_change, wall_time
from millrace_scheduler.month_days import length_of_month, nths

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Once:
    """One instant."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Daily:
    """Every day at a local time, in whole seconds."""

    time_of_day: time

    def next_wall(self, after: datetime) -> datetime:
        """Return the first wall time after `after` that this names; OverflowError past the year 9999."""
        return _first_wall(after, self.time_of_day, lambda _: True)


@dataclass(frozen=True, slots=True)
class Weekly:
    """On some days of every week at a local time."""

    #: ISO numbers, Monday 1 to Sunday 7; at least one.
    days: frozenset[int]
    time_of_day: time

    def next_wall(self, after: datetime) -> datetime:
        """Return the first wall time after `after` that this names; OverflowError past the year 9999."""
        return _first_wall(after, self.time_of_day, lambda day: day.isoweekday() in self.days)


@dataclass(frozen=True, slots=True)
class Monthly:
    """Once a month at a local time."""

    #: 1 to 31; a month without such a day has its last day instead: 31 is the last day of every month.
    day: int
    time_of_day: time

    def next_wall(self, after: datetime) -> datetime:
        """Return the first wall time after `after` that this names; OverflowError past the year 9999."""
        return _first_wall(after, self.time_of_day, self._is_day)

    def _is_day(self, day: date) -> bool:
        return day.day == self.day or (day.day < self.day and day.day == length_of_month(day))


@dataclass(frozen=True, slots=True)
class MonthlyWeekday:
    """On a certain one of a weekday's days in every month, at a local time."""

    #: ISO number, Monday 1 to Sunday 7.
    weekday: int
    #: 1 to 5, or -1 for the last; a month without a fifth one is left out.
    nth: int
    time_of_day: time

    def next_wall(self, after: datetime) -> datetime:
        """Return the first wall time after `after` that this names; OverflowError past the year 9999."""
        return _first_wall(after, self.time_of_day, self._is_day)

    def _is_day(self, day: date) -> bool:
        return day.isoweekday() == self.weekday and self.nth in nths(day.day, length_of_month(day))


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so much elapsed time, more than zero, counted from the anchor."""

    every: timedelta


@dataclass(frozen=True, slots=True)
class Cron:
    """The wall times of a cron expression."""

    expression: CronExpression


Recurrence = Once | Daily | Weekly | Monthly | MonthlyWeekday | Interval | Cron


def next_run(
    recurrence: Recurrence,
    time_zone: ZoneInfo,
    after: datetime,
    *,
    start_at: datetime | None,
    end_at: datetime | None,
    anchor: datetime,
) -> datetime | None:
    """Return the first time strictly after `after` at which a schedule fires, in UTC; None when there is none.

    The time is never before `start_at` nor after `end_at`; both themselves may be such times. An interval
    counts from `start_at`, or from `anchor` (the schedule's creation) without one. All times are aware.
    """
    if start_at is not None and start_at > after:
        after = start_at - _MICROSECOND
    try:
        found = _next_instant(recurrence, time_zone, after, start_at or anchor)
    except OverflowError:
        # The calendar of datetime ends with the year 9999.
        return None
    return None if found is None or (end_at is not None and found > end_at) else found


def _next_instant(
    recurrence: Recurrence, zone: ZoneInfo, after: datetime, anchor: datetime
) -> datetime | None:
    match recurrence:
        case Once(at):
            return at if at > after else None
        case Interval(every):
            return anchor + every * max(0, (after - anchor) // every + 1)
        case Cron(expression) if expression.follows_elapsed_time:
            return _next_by_elapsed_time(expression, zone, after)
        case Cron(expression):
            return _next_by_wall_time(expression.next_match, zone, after)
        case _:
            return _next_by_wall_time(recurrence.next_wall, zone, after)


def _next_by_wall_time(
    next_wall: Callable[[datetime], datetime], zone: ZoneInfo, after: datetime
) -> datetime:
    wall = wall_time(zone, after)
    while True:
        wall = next_wall(wall)
        instant = first_instant(zone, wall)
        # Not so in the second pass of a repeated hour, whose times have fired in the first.
        if instant > after:
            return instant


def _next_by_elapsed_time(cron: CronExpression, zone: ZoneInfo, after: datetime) -> datetime:
    """Walk from one change of the zone's offset to the next; between two of them clocks run evenly."""
    while True:
        offset = offset_at(zone, after)
        candidate = (cron.next_match(wall_time(zone, after)) - offset).replace(tzinfo=UTC)
        horizon = min(candidate, after + _DAY)
        change = offset_change(zone, after, horizon)
        if change is not None:
            if _fires_at_change(cron, change, offset, offset_at(zone, change)):
                return change
            after = change
        elif horizon == candidate:
            return candidate
        else:
            # No change of clocks moves a time by two days: until then nothing can fire.
            after = max(horizon, candidate - 2 * _DAY)


def _fires_at_change(cron: CronExpression, change: datetime, before: timedelta, now: timedelta) -> bool:
    """Whether a rhythm fires at the very instant at which the offset changes from `before` to `now`.

    It does when the clocks then show a time it names, or when they have jumped over one that elapsed time
    will not bring: "0 */2 * * *" would otherwise miss the jump from 02:00 to 03:00, while "0 * * * *" has
    its next time right there.
    """
    utc = change.replace(tzinfo=None)
    if cron.matches(utc + now):
        return True
    jumped = cron.next_match(utc + before - _MICROSECOND)
    while jumped < utc + now:
        if not cron.matches(jumped + now - before):
            return True
        jumped = cron.next_match(jumped)
    return False


def _first_wall(after: datetime, time_of_day: time, is_day: Callable[[date], bool]) -> datetime:
    day = after.date() if after.time() < time_of_day else after.date() + _DAY
    while not is_day(day):
        day += _DAY
    return datetime.combine(day, time_of_day)

"""What becomes of the time a schedule is at: whether it is fired, which times are missed, and which comes next."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from millrace_database.schedules_repository import ScheduleRecord
from millrace_scheduler.fire_times import FireTime, Timing, next_fire, stored_fire
from millrace_scheduler.recurrence import Interval, next_run
from millrace_scheduler.stored_schedules import timing_of

MAX_MADE_UP_FOR = 1000
"""Of a schedule that makes up for all its times, so many at most are fired late."""
MAX_MISSED_TIMES = 10
"""Of many missed times in a row so many, the latest, are named."""
MAX_COUNTED = 10_000
"""So many missed times in a row are counted at most; of intervals, all."""

_TOLERANCE = timedelta(seconds=60)
_MICROSECOND = timedelta(microseconds=1)
# No recurrence but an interval names times closer than this.
_CLOSEST = timedelta(minutes=1)
_FIRST_LOOK = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the time that a schedule is at."""

    current: FireTime
    fires: bool
    upcoming: FireTime | None
    """Where the schedule goes on, None when it has ended."""
    missed_count: int = 0
    missed: tuple[datetime, ...] = ()
    """The latest missed times, in their order."""


def decide(schedule: ScheduleRecord, *, tried_before: bool) -> Decision:
    """Decide about a due schedule by its policy, as of `read_at`.

    A time that was tried before is fired, however late it has become: its job may exist. Raises ValueError or
    LookupError when this version does not understand the schedule.
    """
    if schedule.next_run_at is None:
        raise ValueError("the schedule has no next time")
    timing = timing_of(schedule)
    current = stored_fire(timing, schedule.next_run_at, schedule.next_scheduled_time)
    if schedule.max_runs and schedule.fired_count >= schedule.max_runs and not tried_before:
        return Decision(current, fires=False, upcoming=None)
    if schedule.catch_up_policy == "run_once":
        return _made_up_for_once(timing, current, schedule.read_at)
    if not tried_before:
        earliest, oldest = _limits(schedule, timing, current)
        if current.fires < earliest or current.scheduled < oldest:
            after = max(current.scheduled, oldest - _MICROSECOND)
            upcoming = _first_fire(timing, after, earliest)
            return _passed_over(timing, current, upcoming, schedule.read_at, fires=False)
    upcoming = next_fire(timing, current.scheduled, not_before=current.fires)
    return Decision(current, fires=True, upcoming=upcoming)


def _made_up_for_once(timing: Timing, current: FireTime, now: datetime) -> Decision:
    upcoming = next_fire(timing, current.scheduled, not_before=current.fires)
    # Within the tolerance there was no outage: a busy moment, a death of a scheduler, or jitter that brings times together.
    if upcoming is None or upcoming.fires > now or now - current.fires <= _TOLERANCE:
        return Decision(current, fires=True, upcoming=upcoming)
    upcoming = _first_fire(timing, current.scheduled, now + _MICROSECOND)
    return _passed_over(timing, current, upcoming, now, fires=True)


def _limits(schedule: ScheduleRecord, timing: Timing, current: FireTime) -> tuple[datetime, datetime]:
    """Return when a time must fire, and for when it must be scheduled, not to be missed."""
    if schedule.catch_up_policy == "skip":
        return schedule.read_at - _TOLERANCE, current.scheduled
    window = timedelta(seconds=schedule.catch_up_seconds or 0)
    oldest = current.scheduled
    if schedule.read_at - oldest > MAX_MADE_UP_FOR * _closest(timing):
        ahead = _first_fire(timing, oldest, schedule.read_at + _MICROSECOND)
        before = _end(ahead, schedule.read_at)
        latest = _latest(timing, oldest - _MICROSECOND, before, MAX_MADE_UP_FOR)
        if len(latest) == MAX_MADE_UP_FOR:
            oldest = latest[0]
    return schedule.read_at - max(window, _TOLERANCE), oldest


def _closest(timing: Timing) -> timedelta:
    return timing.recurrence.every if isinstance(timing.recurrence, Interval) else _CLOSEST


def _first_fire(timing: Timing, after_scheduled: datetime, earliest: datetime) -> FireTime | None:
    """Return the first firing of a time after `after_scheduled` that fires at `earliest` or later.

    Those before it fire earlier, and so hold it up no more.
    """
    # A time before this one fires before `earliest`, whatever its jitter.
    after = max(after_scheduled, earliest - timedelta(seconds=timing.jitter_seconds) - _MICROSECOND)
    found = next_fire(timing, after)
    while found is not None and found.fires < earliest:
        found = next_fire(timing, found.scheduled)
    return found


def _passed_over(
    timing: Timing, current: FireTime, upcoming: FireTime | None, now: datetime, *, fires: bool
) -> Decision:
    """Go on with `upcoming`: the times before it are missed, and the current one too unless it fires."""
    before = _end(upcoming, now)
    latest = [current.scheduled] if not fires else []
    latest += _latest(timing, current.scheduled, before, MAX_MISSED_TIMES)
    count = _count(timing, current.scheduled, before) + (not fires)
    return Decision(current, fires, upcoming, count, tuple(latest[-MAX_MISSED_TIMES:]))


def _end(upcoming: FireTime | None, now: datetime) -> datetime:
    """Return before which time those are that are passed over until `upcoming`."""
    # When none is left, those until now were the last ones.
    return upcoming.scheduled if upcoming else now + _MICROSECOND


def _times(timing: Timing, after: datetime, before: datetime) -> Iterator[datetime]:
    """Yield the scheduled times between two, neither of which counts."""
    while True:
        found = next_run(
            timing.recurrence,
            timing.time_zone,
            after,
            start_at=timing.start_at,
            end_at=timing.end_at,
            anchor=timing.anchor,
        )
        if found is None or found >= before:
            return
        yield found
        after = found


def _count(timing: Timing, after: datetime, before: datetime) -> int:
    if not isinstance(timing.recurrence, Interval):
        return sum(1 for _ in islice(_times(timing, after, before), MAX_COUNTED))
    first = next(_times(timing, after, before), None)
    if first is None:
        return 0
    last = before - _MICROSECOND if timing.end_at is None else min(before - _MICROSECOND, timing.end_at)
    return (last - first) // timing.recurrence.every + 1


def _latest(timing: Timing, after: datetime, before: datetime, count: int) -> list[datetime]:
    """Return the last scheduled times between two, at most `count`, in their order."""
    span = _FIRST_LOOK
    while True:
        start = max(after, before - span)
        times = list(_times(timing, start, before))
        if len(times) >= count or start == after:
            return times[-count:]
        span *= 4

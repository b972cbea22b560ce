"""When schedules will fire, worked out before they do."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain, islice

from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.errors import InvalidArgument
from millrace_scheduler.catch_up import decide
from millrace_scheduler.fire_times import FireTime, Timing, next_fire, stored_fire, upcoming

# With a number of firings left, the times that are passed by count. To walk on would hold up other calls.
_MOST_PASSED_BY = 10_000
_EVERY_TIME = 2**31


def preview_timing(timing: Timing, after: datetime, count: int) -> list[datetime]:
    """Return up to `count` times after `after` at which a schedule without jitter fires."""
    return [fire.fires for fire in upcoming(timing, after, count)]


def preview_schedule(
    schedule: ScheduleRecord, timing: Timing, after: datetime | None, count: int
) -> list[datetime]:
    """Return up to `count` times after `after` at which a stored schedule will fire; None: all from now on.

    A paused one is taken to be resumed now.

    Raises InvalidArgument when it has so many times before `after` that they cannot be counted, while it ends after a
    number of firings.
    """
    left = max(schedule.max_runs - schedule.fired_count, 0) if schedule.max_runs else None
    if left == 0 or (schedule.next_run_at is None and not schedule.paused):
        return []
    if after is None or after <= schedule.read_at:
        return _times(_fires(schedule, timing), left, count)
    if left is not None:
        return _times_after(_fires(schedule, timing), left, after, count)
    first = next(_fires(schedule, timing), None)
    if first is None:
        return []
    # A firing may be late by its jitter: so many before `after` may come behind it.
    from_ = max(after - timedelta(seconds=timing.jitter_seconds), first.scheduled)
    fires = chain([first], upcoming(timing, from_, _EVERY_TIME, not_before=first.fires))
    return _times((fire for fire in fires if fire.fires > after), None, count)


def first_fire(schedule: ScheduleRecord, timing: Timing) -> FireTime | None:
    """Return when a schedule that is resumed, or has got another timing, fires next; None: it has ended.

    That is after now, and after what was fired already.
    """
    if schedule.max_runs and schedule.fired_count >= schedule.max_runs:
        return None
    return next_fire(timing, max(schedule.read_at, schedule.last_run_at or schedule.read_at))


def _fires(schedule: ScheduleRecord, timing: Timing) -> Iterator[FireTime]:
    if schedule.paused or schedule.next_run_at is None:
        following = first_fire(schedule, timing)
    elif schedule.next_run_at > schedule.read_at:
        following = stored_fire(timing, schedule.next_run_at, schedule.next_scheduled_time)
    else:
        decision = decide(schedule, tried_before=schedule.reserved_until is not None)
        if decision.fires:
            yield decision.current
        following = decision.upcoming
    if following is not None:
        yield following
        yield from upcoming(timing, following.scheduled, _EVERY_TIME, not_before=following.fires)


def _times(fires: Iterator[FireTime], left: int | None, count: int) -> list[datetime]:
    most = count if left is None else min(count, left)
    return [fire.fires for fire in islice(fires, most)]


def _times_after(fires: Iterator[FireTime], left: int, after: datetime, count: int) -> list[datetime]:
    found: list[datetime] = []
    for number, fire in enumerate(islice(fires, left)):
        if fire.fires > after:
            found.append(fire.fires)
            if len(found) == count:
                break
        elif number >= _MOST_PASSED_BY:
            problem = f"has more than {_MOST_PASSED_BY:,} times before it, which count as there is a max_runs"
            raise InvalidArgument([("after", problem)])
    return found

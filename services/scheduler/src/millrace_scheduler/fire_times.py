"""When schedules fire: the times that their recurrence names, each late by a jitter of its own.

A firing has two times. The scheduled one is what the recurrence names; it stands in the job and its request id.
The other is when its job is created: later by the jitter, and never before that of an earlier scheduled time.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from millrace_scheduler.recurrence import Recurrence, next_run

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Timing:
    """What decides when a schedule fires."""

    schedule_id: UUID
    recurrence: Recurrence
    time_zone: ZoneInfo
    #: Both limit the scheduled times, and may be one themselves.
    start_at: datetime | None
    end_at: datetime | None
    #: The schedule's creation: an interval without `start_at` counts from it.
    anchor: datetime
    #: Each firing is late by less than so much; 0: by nothing.
    jitter_seconds: int


@dataclass(frozen=True, slots=True)
class FireTime:
    """One firing; both times are in UTC."""

    #: What the recurrence names.
    scheduled: datetime
    #: `scheduled` and its jitter.
    fires: datetime


def next_fire(
    timing: Timing, after_scheduled: datetime, *, not_before: datetime | None = None
) -> FireTime | None:
    """Return the firing of the first scheduled time strictly after `after_scheduled`; None when there is none.

    `not_before` is when the firing before it fires (its `fires`), which this one does not overtake.
    """
    scheduled = next_run(
        timing.recurrence,
        timing.time_zone,
        after_scheduled,
        start_at=timing.start_at,
        end_at=timing.end_at,
        anchor=timing.anchor,
    )
    if scheduled is None:
        return None
    try:
        fires = scheduled + jitter_of(timing, scheduled)
    except OverflowError:
        # The calendar of datetime ends with the year 9999.
        return None
    return FireTime(scheduled, fires if not_before is None else max(fires, not_before))


def upcoming(
    timing: Timing, after_scheduled: datetime, count: int, *, not_before: datetime | None = None
) -> Iterator[FireTime]:
    """Yield up to `count` firings in their order, the first of them being that of `next_fire`.

    Each is computed when it is asked for.
    """
    for _ in range(count):
        found = next_fire(timing, after_scheduled, not_before=not_before)
        if found is None:
            return
        yield found
        after_scheduled, not_before = found.scheduled, found.fires


def stored_fire(timing: Timing, next_run_at: datetime, next_scheduled_time: datetime | None) -> FireTime:
    """Return the firing that a schedule's row stands before.

    A release that knows no jitter moves `next_run_at` alone. So where `next_scheduled_time` is missing, or no
    jitter leads from it to `next_run_at`, the latter is the scheduled time too.
    """
    latest = timedelta(seconds=timing.jitter_seconds)
    if next_scheduled_time is None or not timedelta(0) <= next_run_at - next_scheduled_time <= latest:
        return FireTime(next_run_at, next_run_at)
    return FireTime(next_scheduled_time, next_run_at)


def jitter_of(timing: Timing, scheduled: datetime) -> timedelta:
    """Return by how much a firing is late: whole milliseconds, from 0 to less than the schedule's jitter.

    It depends on the schedule and the scheduled time alone, so that every scheduler finds the same.
    """
    if timing.jitter_seconds == 0:
        return timedelta(0)
    instant = (scheduled - _EPOCH) // _MICROSECOND
    digest = hashlib.blake2b(
        timing.schedule_id.bytes + instant.to_bytes(8, "big", signed=True), digest_size=8
    )
    return int.from_bytes(digest.digest(), "big") % (timing.jitter_seconds * _MILLISECONDS) * _MILLISECOND

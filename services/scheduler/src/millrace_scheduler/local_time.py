"""Wall times and instants of a time zone, and what happens between them when clocks change."""

import bisect
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)


@cache
def load_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone of that name.

    It is read from the tzdata package, so that all schedulers agree on its rules.

    Raises LookupError for an unknown name.
    """
    if name not in _zone_names():
        raise LookupError(f"unknown time zone {name!r}")
    source = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with source.open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def offset_at(zone: ZoneInfo, instant: datetime) -> timedelta:
    """How far the zone's clocks are ahead of UTC at an instant."""
    offset = instant.astimezone(zone).utcoffset()
    if offset is None:
        raise ValueError(f"{zone} has no offset")
    return offset


def wall_time(zone: ZoneInfo, instant: datetime) -> datetime:
    """Return what the zone's clocks show at an instant, without a time zone."""
    return instant.astimezone(UTC).replace(tzinfo=None) + offset_at(zone, instant)


def first_instant(zone: ZoneInfo, wall: datetime) -> datetime:
    """Return the first instant at which the zone's clocks show `wall` (whole seconds), in UTC.

    Where clocks jump over it, that is the instant of the jump.
    """
    instant = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if wall_time(zone, instant) == wall:
        return instant
    # In a gap, PEP 495 reads fold=1 with the offset after the jump: an instant before it.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    steps = range(1, int((instant - before) / _SECOND) + 1)
    jumped = bisect.bisect_left(
        steps, True, key=lambda seconds: wall_time(zone, before + seconds * _SECOND) >= wall
    )
    return before + steps[jumped] * _SECOND


def offset_change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """Return the instant in (start, end] at which the zone's offset changes, if any.

    The span is at most a day, in which no zone changes twice.
    """
    offset = offset_at(zone, start)
    if offset_at(zone, end) == offset:
        return None
    start = start.replace(microsecond=0)
    steps = range(1, int((end - start) / _SECOND) + 2)
    changed = bisect.bisect_left(
        steps, True, key=lambda seconds: offset_at(zone, start + seconds * _SECOND) != offset
    )
    return start + steps[changed] * _SECOND


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())

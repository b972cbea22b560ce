"""Fire times around every change of the clocks of every time zone, from 1970 to 2037, against a brute-force walk.

Each change is met by times of day and rhythms that lie right before, in, at the ends of and after what it skips or
repeats. Zones that change alike are walked once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import pytest

from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import (
    Daily,
    Interval,
    Monthly,
    MonthlyWeekday,
    Once,
    Recurrence,
    Weekly,
    next_run,
)
from support.clock_walk import (
    MINUTE,
    SECOND,
    Change,
    Clock,
    Matches,
    by_elapsed_time,
    by_wall_time,
    find_changes,
    read_clock,
)
from support.recurrences import cron, fires_between

FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(2038, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
QUARTER = timedelta(minutes=15)
AROUND = timedelta(hours=36)
NEARBY = timedelta(hours=3)
REGIONS = ("Africa", "America/[A-H]", "America/[I-Z]", "Asia", "Europe", "Pacific", "others")

Oracle = Callable[[Clock, Matches], list[datetime]]
NAMES = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()


@dataclass(frozen=True, slots=True)
class Case:
    recurrence: Recurrence
    oracle: Oracle
    matches: Matches


def _region(name: str) -> str:
    area, _, place = name.partition("/")
    if area == "America":
        return "America/[A-H]" if place < "I" else "America/[I-Z]"
    return area if area in REGIONS else "others"


def _zones(region: str) -> list[ZoneInfo]:
    """Load the zones of a region, one of those that have the same rules, and none whose rules are another region's."""
    first_names: dict[bytes, str] = {}
    for name in sorted(NAMES, key=lambda name: REGIONS.index(_region(name))):
        rules = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
        first_names.setdefault(rules, name)
    return [load_zone(name) for name in first_names.values() if _region(name) == region]


def _step(change: Change) -> timedelta:
    """Return how far apart times may lie so that the change and both its sides are among them."""
    moments = (change.at - FIRST, change.before, change.after)
    return next(
        step for step in (QUARTER, MINUTE, 30 * SECOND) if all(not moment % step for moment in moments)
    )


def _cases(change: Change, step: timedelta) -> Iterator[Case]:
    utc = change.at.replace(tzinfo=None)
    low, high = sorted((utc + change.before, utc + change.after))
    middle = low + (high - low) // 2 // step * step
    for wall in {low - step, low, middle, high - step, high}:
        yield _daily(wall.time())
    yield _weekly(frozenset({low.isoweekday(), high.isoweekday()}), middle.time())
    yield _monthly(high.day, low.time())
    yield _monthly(31, middle.time())
    yield _nth_weekday(low, middle.time())
    yield _last_weekday(low, middle.time())
    yield _fixed_hours({low.minute, middle.minute}, {(low - HOUR).hour, low.hour, high.hour}, low)


def _rhythms(change: Change, step: timedelta) -> Iterator[Case]:
    minutes = max(step // MINUTE, 1) if step == QUARTER else 20
    wall = change.at.replace(tzinfo=None) + change.before
    yield _rhythm(set(range(0, 60, minutes)), 1)
    yield _rhythm({0}, 2)
    yield _rhythm({wall.minute, 30}, 3)


def _daily(at: time) -> Case:
    return Case(Daily(at), by_wall_time, lambda wall: wall.time() == at)


def _weekly(days: frozenset[int], at: time) -> Case:
    return Case(Weekly(days, at), by_wall_time, lambda wall: wall.time() == at and wall.isoweekday() in days)


def _monthly(day: int, at: time) -> Case:
    def matches(wall: datetime) -> bool:
        return wall.time() == at and (wall.day == day or (wall.day < day and (wall + DAY).day == 1))

    return Case(Monthly(day, at), by_wall_time, matches)


def _nth_weekday(day: datetime, at: time) -> Case:
    nth = next(nth for nth in range(1, 6) if day.day <= 7 * nth)

    def matches(wall: datetime) -> bool:
        weeks_ago = wall - timedelta(weeks=nth)
        return (
            wall.time() == at
            and wall.isoweekday() == day.isoweekday()
            and weeks_ago.month != wall.month
            and (weeks_ago + timedelta(weeks=1)).month == wall.month
        )

    return Case(MonthlyWeekday(day.isoweekday(), nth, at), by_wall_time, matches)


def _last_weekday(day: datetime, at: time) -> Case:
    def matches(wall: datetime) -> bool:
        return (
            wall.time() == at
            and wall.isoweekday() == day.isoweekday()
            and (wall + timedelta(weeks=1)).month != wall.month
        )

    return Case(MonthlyWeekday(day.isoweekday(), -1, at), by_wall_time, matches)


def _fixed_hours(minutes: set[int], hours: set[int], day: datetime) -> Case:
    days = {(day - DAY).day, day.day}

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours and wall.day in days and wall.second == 0

    return Case(cron(f"{_list(minutes)} {_list(hours)} {_list(days)} * *"), by_wall_time, matches)


def _rhythm(minutes: set[int], hours: int) -> Case:
    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour % hours == 0 and wall.second == 0

    return Case(
        cron(f"{_list(minutes)} {'*' if hours == 1 else f'*/{hours}'} * * *"), by_elapsed_time, matches
    )


def _fires(recurrence: Recurrence, zone: ZoneInfo, clock: Clock) -> list[datetime]:
    return fires_between(recurrence, zone, clock.start, clock.end)


def _list(values: set[int]) -> str:
    return ",".join(map(str, sorted(values)))


@pytest.mark.parametrize("region", REGIONS)
def test_every_change_of_every_zone(region: str) -> None:
    checked: set[Change] = set()
    for zone in _zones(region):
        for change in find_changes(zone, FIRST, LAST):
            if change not in checked:
                checked.add(change)
                _check(zone, change)
    assert len(checked) > 100


@pytest.mark.parametrize("region", REGIONS)
def test_a_leap_day_and_the_end_of_a_year_in_every_zone(region: str) -> None:
    for zone in _zones(region):
        for day in (datetime(2028, 2, 29, tzinfo=UTC), datetime(2032, 12, 31, tzinfo=UTC)):
            clock = read_clock(zone, day - AROUND, day + AROUND, QUARTER)
            last_day = _monthly(31, time(23, 45))
            assert _fires(last_day.recurrence, zone, clock) == by_wall_time(clock, last_day.matches)
            every_six_hours = _rhythm({0}, 6)
            expected = by_elapsed_time(clock, every_six_hours.matches)
            assert _fires(every_six_hours.recurrence, zone, clock) == expected


def _check(zone: ZoneInfo, change: Change) -> None:
    step = _step(change)
    clock = read_clock(zone, change.at - AROUND, change.at + AROUND, step)
    # Right after the change, and in the second pass of what it repeats.
    looks = (change.at, change.at + max(change.before - change.after, HOUR) / 2)
    for case in _cases(change, step):
        expected = case.oracle(clock, case.matches)
        assert _fires(case.recurrence, zone, clock) == expected, (zone, change, case)
        for after in looks:
            found = next_run(case.recurrence, zone, after, start_at=None, end_at=clock.end, anchor=after)
            assert found == next((fire for fire in expected if fire > after), None), (zone, change, case)
    nearby = clock.between(change.at - NEARBY, change.at + NEARBY)
    for case in _rhythms(change, step):
        assert _fires(case.recurrence, zone, nearby) == case.oracle(nearby, case.matches), (
            zone,
            change,
            case,
        )
    # Elapsed time and instants know of no change.
    once, interval = Once(change.at), Interval(HOUR)
    assert _fires(once, zone, nearby) == [change.at]
    hours = [nearby.start + HOUR * index for index in range(1, 2 * NEARBY // HOUR + 1)]
    assert _fires(interval, zone, nearby) == hours

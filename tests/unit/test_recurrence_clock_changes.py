"""Fire times around changes of the clocks, against a brute-force walk over every minute.

The walk knows nothing of folds and gaps: it only reads the zone's clocks minute by minute.
"""

from calendar import monthcalendar
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Daily, Monthly, MonthlyWeekday, Recurrence, Weekly, next_run
from support.clock_walk import MINUTE, Clock, by_elapsed_time, by_wall_time, read_clock
from support.recurrences import cron, fires_between

Window = tuple[str, str]
Field = tuple[str, set[int]]

DAYS = 3

# Each window is three days long and starts a day and a half before the change.
CHANGES = [
    ("America/New_York", "2025-03-09"),
    ("America/New_York", "2025-11-02"),
    ("America/New_York", "2040-03-11"),  # past the tables: by the zone's rule for all time
    ("Europe/Dublin", "2025-03-30"),  # winter time is the exception there
    ("Europe/Dublin", "2025-10-26"),
    ("Australia/Lord_Howe", "2025-04-06"),  # half an hour
    ("Australia/Lord_Howe", "2025-10-05"),
    ("Pacific/Chatham", "2025-04-06"),  # at 02:45
    ("Pacific/Chatham", "2025-09-28"),
    ("Antarctica/Troll", "2025-03-30"),  # two hours
    ("Antarctica/Troll", "2025-10-26"),
    ("Africa/Casablanca", "2025-02-23"),  # Ramadan
    ("Africa/Casablanca", "2025-04-06"),
    ("America/Sao_Paulo", "2017-10-15"),  # no midnight
    ("America/Sao_Paulo", "2018-02-18"),  # 23:00 to 24:00 twice
    ("America/Havana", "2025-03-09"),
    ("America/Havana", "2025-11-02"),  # midnight twice
    ("Pacific/Apia", "2011-12-30"),  # a day that never was
    ("Asia/Pyongyang", "2015-08-15"),  # for good
    ("Asia/Pyongyang", "2018-05-05"),
    ("Asia/Kathmandu", "1986-01-01"),  # a quarter of an hour
]
WINDOWS = [
    *CHANGES,
    ("UTC", "2026-06-01"),
    ("Asia/Kathmandu", "2025-12-31"),  # the end of a year
    ("Pacific/Kiritimati", "2028-02-29"),  # a leap day, far ahead of UTC
    ("America/St_Johns", "2028-03-01"),
    ("Pacific/Marquesas", "2100-03-01"),  # no leap day
    ("Australia/Eucla", "2026-04-30"),
]


@cache
def _clock(name: str, day: str) -> Clock:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=36)
    return read_clock(load_zone(name), start, start + timedelta(days=DAYS) - MINUTE)


def _fires(recurrence: Recurrence, name: str, clock: Clock) -> list[datetime]:
    return fires_between(recurrence, load_zone(name), clock.start, clock.end)


def _check(recurrence: Recurrence, window: Window, expected: list[datetime], offset: int) -> None:
    clock = _clock(*window)
    start, end = clock.start, clock.end
    assert _fires(recurrence, window[0], clock) == expected
    after = start + timedelta(microseconds=offset)
    following = next((fire for fire in expected if fire > after), None)
    zone = load_zone(window[0])
    assert next_run(recurrence, zone, after, start_at=None, end_at=end, anchor=start) == following
    from_start_at = next_run(recurrence, zone, start, start_at=after, end_at=end, anchor=start)
    assert from_start_at == next((fire for fire in expected if fire >= after and fire > start), None)


windows = st.sampled_from(WINDOWS)
offsets = st.integers(0, DAYS * 86_400_000_000)
times = st.builds(time, st.integers(0, 23) | st.sampled_from([0, 1, 2, 3, 23]), st.integers(0, 59))
quick = settings(derandomize=True, deadline=None, database=None, max_examples=200)


@st.composite
def _cron_field(draw: st.DrawFn, low: int, high: int, most: int) -> Field:
    values = draw(st.sets(st.integers(low, high), min_size=1, max_size=most))
    if draw(st.integers(0, 3)) == 0:
        return "*", set(range(low, high + 1))
    return ",".join(str(value) for value in sorted(values)), values


@quick
@given(
    window=windows,
    offset=offsets,
    minute=_cron_field(0, 59, 4),
    hour=_cron_field(0, 23, 4).filter(lambda field: field[0] != "*"),
    day=_cron_field(1, 31, 12),
    weekday=_cron_field(0, 6, 3),
)
def test_cron_with_fixed_hours(
    window: Window, offset: int, *, minute: Field, hour: Field, day: Field, weekday: Field
) -> None:
    def matches(wall: datetime) -> bool:
        by_day = wall.day in day[1]
        by_weekday = wall.isoweekday() % 7 in weekday[1]
        either = day[0] != "*" and weekday[0] != "*"
        return (
            wall.minute in minute[1]
            and wall.hour in hour[1]
            and ((by_day or by_weekday) if either else (by_day and by_weekday))
        )

    recurrence = cron(f"{minute[0]} {hour[0]} {day[0]} * {weekday[0]}")
    _check(recurrence, window, by_wall_time(_clock(*window), matches), offset)


@quick
@given(
    window=windows,
    offset=offsets,
    minute=_cron_field(0, 59, 4),
    step=st.integers(1, 24),
    day=_cron_field(1, 31, 20),
)
def test_cron_with_an_hour_of_star_or_star_step(
    window: Window, offset: int, minute: Field, step: int, day: Field
) -> None:
    def matches(wall: datetime) -> bool:
        return wall.minute in minute[1] and wall.hour % step == 0 and wall.day in day[1]

    hour = "*" if step == 1 else f"*/{step}"
    recurrence = cron(f"{minute[0]} {hour} {day[0]} * *")
    _check(recurrence, window, by_elapsed_time(_clock(*window), matches), offset)


@quick
@given(window=windows, offset=offsets, time_of_day=times)
def test_daily(window: Window, offset: int, time_of_day: time) -> None:
    _check(
        Daily(time_of_day),
        window,
        by_wall_time(_clock(*window), lambda wall: wall.time() == time_of_day),
        offset,
    )


@quick
@given(window=windows, offset=offsets, time_of_day=times, days=st.frozensets(st.integers(1, 7), min_size=1))
def test_weekly(window: Window, offset: int, time_of_day: time, days: frozenset[int]) -> None:
    def matches(wall: datetime) -> bool:
        return wall.time() == time_of_day and wall.isoweekday() in days

    _check(Weekly(days, time_of_day), window, by_wall_time(_clock(*window), matches), offset)


@quick
@given(window=windows, offset=offsets, time_of_day=times, day=st.integers(1, 31))
def test_monthly(window: Window, offset: int, time_of_day: time, day: int) -> None:
    def matches(wall: datetime) -> bool:
        last = (wall + timedelta(days=1)).month != wall.month
        return wall.time() == time_of_day and (wall.day == day or (last and wall.day < day))

    _check(Monthly(day, time_of_day), window, by_wall_time(_clock(*window), matches), offset)


@quick
@given(
    window=windows,
    offset=offsets,
    time_of_day=times,
    weekday=st.integers(1, 7),
    nth=st.sampled_from([1, 2, 3, 4, 5, -1]),
)
def test_a_weekday_of_the_month(
    window: Window, offset: int, *, time_of_day: time, weekday: int, nth: int
) -> None:
    def matches(wall: datetime) -> bool:
        return wall.time() == time_of_day and _is_nth(wall, weekday, nth)

    clock = _clock(*window)
    _check(MonthlyWeekday(weekday, nth, time_of_day), window, by_wall_time(clock, matches), offset)
    # A cron expression says the same.
    last = f"L{weekday}" if nth == -1 else f"{weekday}#{nth}"
    expression = cron(f"{time_of_day.minute} {time_of_day.hour} * * {last}")
    _check(expression, window, by_wall_time(clock, matches), offset)


@quick
@given(window=windows, offset=offsets, minute=_cron_field(0, 59, 4), day=st.integers(1, 31))
def test_cron_on_the_last_day(window: Window, offset: int, minute: Field, day: int) -> None:
    def matches(wall: datetime) -> bool:
        last = (wall + timedelta(days=1)).day == 1
        return wall.minute in minute[1] and wall.hour == 2 and (last or wall.day == day)

    recurrence = cron(f"{minute[0]} 2 L,{day} * *")
    _check(recurrence, window, by_wall_time(_clock(*window), matches), offset)


def _is_nth(wall: datetime, weekday: int, nth: int) -> bool:
    """Look a day up in a calendar's leaf for its month."""
    column = [week[weekday - 1] for week in monthcalendar(wall.year, wall.month) if week[weekday - 1]]
    return wall.day in (column[-1:] if nth == -1 else column[nth - 1 : nth])


def _local(recurrence: Recurrence, name: str, day: str) -> list[str]:
    clock = _clock(name, day)
    zone = load_zone(name)
    fires = _fires(recurrence, name, clock)
    return [fire.astimezone(zone).strftime("%d %H:%M %z") for fire in fires]


@pytest.mark.parametrize(
    ("recurrence", "name", "day", "expected"),
    [
        (
            cron("30 2 * * *"),
            "America/New_York",
            "2025-03-09",
            ["08 02:30 -0500", "09 03:00 -0400", "10 02:30 -0400"],
        ),
        (
            Daily(time(1, 30)),
            "America/New_York",
            "2025-11-02",
            ["01 01:30 -0400", "02 01:30 -0400", "03 01:30 -0500"],
        ),
        (
            Daily(time(9)),
            "Pacific/Apia",
            "2011-12-30",
            ["28 09:00 -1000", "29 09:00 -1000", "31 00:00 +1400", "31 09:00 +1400"],
        ),
        (
            cron("0 0 * * *"),
            "America/Sao_Paulo",
            "2017-10-15",
            ["14 00:00 -0300", "15 01:00 -0200", "16 00:00 -0200"],
        ),
        (
            cron("0 */2 9 * *"),
            "America/New_York",
            "2025-03-09",
            ["09 00:00 -0500", "09 03:00 -0400"] + [f"09 {hour:02}:00 -0400" for hour in range(4, 24, 2)],
        ),
        (
            cron("30 * 2 * *"),
            "America/New_York",
            "2025-11-02",
            ["02 00:30 -0400", "02 01:30 -0400", "02 01:30 -0500"]
            + [f"02 {hour:02}:30 -0500" for hour in range(2, 24)],
        ),
    ],
)
def test_what_people_see(recurrence: Recurrence, name: str, day: str, expected: list[str]) -> None:
    assert _local(recurrence, name, day) == expected


@pytest.mark.parametrize(("name", "day"), CHANGES)
def test_the_windows_hold_a_change(name: str, day: str) -> None:
    clock = _clock(name, day)
    distances = {wall - instant.replace(tzinfo=None) for instant, wall in clock.shown}
    assert len(distances) == 2


def test_every_fifteen_minutes_stays_even_through_both_changes() -> None:
    for day in ("2025-03-09", "2025-11-02"):
        clock = _clock("America/New_York", day)
        fires = _fires(cron("*/15 * * * *"), "America/New_York", clock)
        assert {later - earlier for earlier, later in pairwise(fires)} == {MINUTE * 15}

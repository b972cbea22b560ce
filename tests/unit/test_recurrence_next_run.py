"""Fire times away from changes of the clocks: limits, intervals, month ends, leap days, the end of the calendar."""

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_scheduler.cron import CronExpression
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Cron, Daily, Interval, Monthly, Once, Recurrence, Weekly, next_run

START = datetime(2026, 1, 1, tzinfo=UTC)
quick = settings(derandomize=True, deadline=None, database=None)


def _wall_times(first_year: int, last_year: int) -> st.SearchStrategy[datetime]:
    return st.datetimes(*(datetime.fromisoformat(f"{year}-01-01") for year in (first_year, last_year)))


def _next(recurrence: Recurrence, after: str, zone: str = "UTC", **limits: datetime) -> str | None:
    found = next_run(
        recurrence,
        load_zone(zone),
        datetime.fromisoformat(after).replace(tzinfo=UTC),
        start_at=limits.get("start_at"),
        end_at=limits.get("end_at"),
        anchor=START,
    )
    return None if found is None else found.isoformat().removesuffix("+00:00")


@pytest.mark.parametrize(
    ("recurrence", "after", "expected"),
    [
        (Once(START), "2025-12-31T23:59:59.999999", "2026-01-01T00:00:00"),
        (Once(START), "2026-01-01T00:00:00", None),
        (Daily(time(9, 30, 15)), "2026-01-01T09:30:14.5", "2026-01-01T09:30:15"),
        (Daily(time(9, 30, 15)), "2026-01-01T09:30:15", "2026-01-02T09:30:15"),
        (Weekly(frozenset({1, 5}), time(8)), "2026-01-01T00:00:00", "2026-01-02T08:00:00"),
        (Weekly(frozenset({1, 5}), time(8)), "2026-01-02T08:00:00", "2026-01-05T08:00:00"),
        (Monthly(31, time(12)), "2026-01-31T12:00:00", "2026-02-28T12:00:00"),
        (Monthly(31, time(12)), "2028-01-31T12:00:00", "2028-02-29T12:00:00"),
        (Monthly(29, time(12)), "2027-02-28T11:00:00", "2027-02-28T12:00:00"),
        (Monthly(30, time(12)), "2026-02-28T12:00:00", "2026-03-30T12:00:00"),
        (Monthly(1, time(0)), "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        (Interval(timedelta(hours=5)), "2025-06-01T00:00:00", "2026-01-01T00:00:00"),
        (Interval(timedelta(hours=5)), "2026-01-01T00:00:00", "2026-01-01T05:00:00"),
        (Interval(timedelta(hours=5)), "2026-01-02T01:00:01", "2026-01-02T06:00:00"),
    ],
)
def test_next_run(recurrence: Recurrence, after: str, expected: str | None) -> None:
    assert _next(recurrence, after) == expected


def test_local_times_are_in_the_time_zone() -> None:
    assert _next(Daily(time(0)), "2026-01-01T00:00:00", "Asia/Kathmandu") == "2026-01-01T18:15:00"
    assert _next(Monthly(1, time(0)), "2026-06-01T00:00:00", "Pacific/Auckland") == "2026-06-30T12:00:00"


def test_both_limits_count_themselves() -> None:
    daily = Daily(time(12))
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert _next(daily, "2026-01-01T00:00:00", start_at=noon) == "2026-03-01T12:00:00"
    assert _next(daily, "2026-03-01T12:00:00", start_at=noon) == "2026-03-02T12:00:00"
    assert _next(daily, "2026-02-28T12:00:00", end_at=noon) == "2026-03-01T12:00:00"
    assert _next(daily, "2026-03-01T12:00:00", end_at=noon) is None
    assert _next(Once(START), "2025-01-01T00:00:00", start_at=noon) is None


def test_limits_at_the_ends_of_the_calendar() -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert _next(Daily(time(12)), "2026-01-01T00:00:00", start_at=first) == "2026-01-01T12:00:00"
    assert _next(Daily(time(12)), "2026-01-01T00:00:00", end_at=last) == "2026-01-01T12:00:00"
    assert _next(Daily(time(12)), "2026-01-01T00:00:00", start_at=last) is None
    assert _next(Interval(timedelta(days=1)), "2026-01-01T18:00:00", start_at=first) == "2026-01-02T00:00:00"
    assert _next(Daily(time(12)), "2026-01-01T00:00:00", end_at=first) is None


def test_an_interval_counts_from_start_at() -> None:
    start_at = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    hourly = Interval(timedelta(hours=1))
    assert _next(hourly, "2026-01-01T00:00:00", start_at=start_at) == "2026-01-01T00:10:00"
    assert _next(hourly, "2026-01-01T00:10:00", start_at=start_at) == "2026-01-01T01:10:00"
    assert _next(hourly, "2030-01-01T00:00:00", start_at=start_at) == "2030-01-01T00:10:00"


@pytest.mark.parametrize(
    "recurrence",
    [
        Daily(time(0)),
        Weekly(frozenset({1}), time(0)),
        Monthly(31, time(23)),
        Interval(timedelta(days=400)),
        Cron(CronExpression.parse("0 0 29 2 *")),
        Cron(CronExpression.parse("0 * 1 1 *")),
    ],
)
def test_the_calendar_ends(recurrence: Recurrence) -> None:
    assert _next(recurrence, "9999-12-31T23:30:00", "America/New_York") is None


@quick
@given(
    every=st.integers(1, 10**9),
    after=_wall_times(2000, 3000),
    micros=st.integers(0, 10**12),
)
def test_an_interval_is_a_whole_number_of_steps_from_its_anchor(
    every: int, after: datetime, micros: int
) -> None:
    anchor = START + timedelta(microseconds=micros)
    after = after.replace(tzinfo=UTC)
    step = timedelta(seconds=every)
    found = next_run(Interval(step), load_zone("UTC"), after, start_at=None, end_at=None, anchor=anchor)
    assert found is not None
    assert (found - anchor) % step == timedelta(0)
    assert found > after
    assert found == anchor or found - step <= after


@quick
@given(day=st.integers(1, 31), start=_wall_times(1970, 2200))
def test_monthly_fires_once_in_every_month(day: int, start: datetime) -> None:
    monthly = Monthly(day, time(12))
    zone = load_zone("Europe/Paris")
    after = start.replace(tzinfo=UTC)
    fires = []
    for _ in range(30):
        found = next_run(monthly, zone, after, start_at=None, end_at=None, anchor=after)
        assert found is not None
        after = found
        fires.append(found.astimezone(zone))
    for earlier, later in pairwise(fires):
        assert (later.year * 12 + later.month) - (earlier.year * 12 + earlier.month) == 1
    for fire in fires:
        assert fire.day == day or (fire.day < day and (fire + timedelta(days=1)).day == 1)


def test_leap_days_are_found_over_a_century_that_skips_one() -> None:
    leap_day = Cron(CronExpression.parse("0 */6 29 2 *"))
    assert _next(leap_day, "2096-02-29T18:00:00") == "2104-02-29T00:00:00"
    assert _next(leap_day, "2103-03-01T00:00:00", "America/New_York") == "2104-02-29T05:00:00"


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "europe/paris", "/etc/passwd", "../UTC", "Europe", "EST5EDT4", "\0"]
)
def test_unknown_zone(name: str) -> None:
    with pytest.raises(LookupError):
        load_zone(name)

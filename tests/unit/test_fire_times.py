"""Firings: scheduled times, and when they fire with jitter."""

from datetime import UTC, datetime, time, timedelta
from itertools import islice, pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_scheduler.fire_times import FireTime, Timing, jitter_of, next_fire, stored_fire, upcoming
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Daily, Interval, Once, Recurrence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
SCHEDULE = UUID("0198a1b2-0000-7000-8000-000000000001")
quick = settings(derandomize=True, deadline=None, database=None)


def _timing(
    recurrence: Recurrence,
    jitter_seconds: int = 0,
    *,
    schedule_id: UUID = SCHEDULE,
    end_at: datetime | None = None,
) -> Timing:
    return Timing(
        schedule_id=schedule_id,
        recurrence=recurrence,
        time_zone=load_zone("UTC"),
        start_at=None,
        end_at=end_at,
        anchor=NOW,
        jitter_seconds=jitter_seconds,
    )


def test_without_jitter_it_fires_at_the_scheduled_time() -> None:
    hourly = _timing(Interval(HOUR))
    assert next_fire(hourly, NOW) == FireTime(NOW + HOUR, NOW + HOUR)
    assert list(upcoming(hourly, NOW, 3)) == [
        FireTime(NOW + HOUR * hour, NOW + HOUR * hour) for hour in (1, 2, 3)
    ]


@quick
@given(
    schedule_id=st.uuids(),
    jitter=st.integers(1, 86_400),
    scheduled=st.datetimes(datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("9998-01-01")),
)
def test_jitter_is_whole_milliseconds_below_the_most(
    schedule_id: UUID, jitter: int, scheduled: datetime
) -> None:
    timing = _timing(Interval(HOUR), jitter, schedule_id=schedule_id)
    late = jitter_of(timing, scheduled.replace(tzinfo=UTC))
    assert timedelta(0) <= late < timedelta(seconds=jitter)
    assert late % MILLISECOND == timedelta(0)


def test_jitter_stays_the_same_from_release_to_release() -> None:
    # Another hash would move the stored times of a schedule against those that a newer scheduler computes.
    timing = _timing(Interval(HOUR), 600)
    assert jitter_of(timing, NOW) == timedelta(seconds=540, milliseconds=222)
    assert jitter_of(timing, NOW.astimezone(load_zone("Asia/Tokyo"))) == jitter_of(timing, NOW)


def test_jitter_spreads_schedules_and_times() -> None:
    daily = Daily(time(0))
    of_schedules = {jitter_of(_timing(daily, 60, schedule_id=UUID(int=index)), NOW) for index in range(1000)}
    of_times = {jitter_of(_timing(daily, 60), NOW + HOUR * index) for index in range(1000)}
    for delays in (of_schedules, of_times):
        assert len(delays) > 900
        quarters = {int(delay / timedelta(seconds=15)) for delay in delays}
        assert quarters == {0, 1, 2, 3}


@quick
@given(every=st.integers(1, 300), jitter=st.integers(0, 1000), start=st.integers(-(10**6), 10**6))
def test_firings_never_overtake(every: int, jitter: int, start: int) -> None:
    timing = _timing(Interval(timedelta(seconds=every)), jitter)
    firings = list(upcoming(timing, NOW + timedelta(seconds=start), 40))
    for earlier, later in pairwise(firings):
        assert later.scheduled - earlier.scheduled == timedelta(seconds=every)
        assert later.fires == max(later.scheduled + jitter_of(timing, later.scheduled), earlier.fires)
    for firing in firings:
        assert timedelta(0) <= firing.fires - firing.scheduled <= timedelta(seconds=jitter)


def test_going_on_from_any_firing_gives_the_same_as_looking_ahead() -> None:
    timing = _timing(Interval(timedelta(seconds=10)), 60)
    ahead = list(upcoming(timing, NOW, 50))
    for index, firing in enumerate(ahead[:-1]):
        assert next_fire(timing, firing.scheduled, not_before=firing.fires) == ahead[index + 1]
        rest = upcoming(timing, firing.scheduled, 100, not_before=firing.fires)
        assert list(islice(rest, 49 - index)) == ahead[index + 1 :]


def test_end_at_limits_the_scheduled_times_and_not_their_jitter() -> None:
    timing = _timing(Interval(HOUR), 3600, end_at=NOW + HOUR * 2)
    firings = list(upcoming(timing, NOW, 10))
    assert [firing.scheduled for firing in firings] == [NOW + HOUR, NOW + HOUR * 2]
    assert firings[-1].fires > NOW + HOUR * 2
    assert next_fire(timing, NOW + HOUR * 2) is None


def test_nothing_fires_past_the_calendar() -> None:
    end = datetime.max.replace(tzinfo=UTC) - 10 * MILLISECOND
    assert next_fire(_timing(Once(end), 86_400), NOW) is None


@pytest.mark.parametrize("seconds", [0, 1, 59, 60])
def test_a_stored_time_that_jitter_explains_is_taken_apart(seconds: int) -> None:
    timing = _timing(Interval(HOUR), 60)
    fires = NOW + timedelta(seconds=seconds)
    assert stored_fire(timing, fires, NOW) == FireTime(NOW, fires)


@pytest.mark.parametrize("scheduled", [None, NOW + MILLISECOND, NOW - timedelta(seconds=60, milliseconds=1)])
def test_a_time_that_an_older_release_stored_is_the_scheduled_one(scheduled: datetime | None) -> None:
    assert stored_fire(_timing(Interval(HOUR), 60), NOW, scheduled) == FireTime(NOW, NOW)


def test_a_time_without_jitter_that_an_older_release_stored_is_the_scheduled_one() -> None:
    timing = _timing(Interval(HOUR))
    assert stored_fire(timing, NOW + HOUR, NOW) == FireTime(NOW + HOUR, NOW + HOUR)
    assert stored_fire(timing, NOW, NOW) == FireTime(NOW, NOW)

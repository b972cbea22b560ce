from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_queue import Rate
from millrace_queue.rates import BUCKETS, SLACK, RateUse

_BEGINNING = datetime(2026, 11, 25, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def _most_within(starts: list[datetime], period: timedelta) -> int:
    return max(sum(1 for other in starts if start <= other <= start + period) for start in starts)


@settings(max_examples=200, deadline=None)
@given(
    rate=st.builds(
        Rate,
        count=st.integers(1, 300),
        period=st.integers(1, 2_000_000).map(lambda us: timedelta(microseconds=us)),
        smooth=st.booleans(),
    ),
    pauses=st.lists(st.integers(0, 400_000), min_size=1, max_size=60),
    wanted=st.lists(st.integers(1, 100), min_size=1, max_size=10),
)
def test_no_interval_has_more_starts_than_the_rate_says(
    rate: Rate, pauses: list[int], wanted: list[int]
) -> None:
    use, now = RateUse(), _BEGINNING
    starts: list[datetime] = []
    for number, pause in enumerate(pauses):
        now += timedelta(microseconds=pause)
        count = min(use.places(rate, now), wanted[number % len(wanted)])
        if count:
            use.take(rate, now, count)
            starts += [now] * count
        assert len(use.times) <= BUCKETS + 1
    assert starts
    assert _most_within(starts, rate.period) <= rate.count


@settings(max_examples=200, deadline=None)
@given(
    rate=st.builds(
        Rate,
        count=st.integers(1, 200),
        period=st.integers(1_000, 2_000_000).map(lambda us: timedelta(microseconds=us)),
        smooth=st.booleans(),
    ),
    wanted=st.lists(st.integers(1, 50), min_size=1, max_size=40),
)
def test_whoever_comes_when_it_opens_finds_a_place(rate: Rate, wanted: list[int]) -> None:
    use, now = RateUse(), _BEGINNING
    for most in wanted:
        opens_at = use.opens_at(rate, now)
        assert (opens_at == now) == (use.places(rate, now) > 0)
        now = opens_at
        count = min(use.places(rate, now), most)
        assert count > 0
        use.take(rate, now, count)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(("count", "period"), [(10, 1.0), (100, 1.0), (2000, 1.0), (5, 0.1)])
def test_a_rate_is_used_by_whoever_comes_a_little_late(count: int, period: float, smooth: bool) -> None:
    rate = Rate(count, timedelta(seconds=period), smooth)
    use, now, started = RateUse(), _BEGINNING, 0
    while now < _BEGINNING + 10 * rate.period:
        places = use.places(rate, now)
        use.take(rate, now, places)
        started += places
        now = use.opens_at(rate, now) + 2 * _MS
    assert started >= 0.95 * 10 * count


def test_a_smooth_rate_spreads_its_starts() -> None:
    rate = Rate(10, timedelta(seconds=1), smooth=True)
    use, now = RateUse(), _BEGINNING
    starts: list[datetime] = []
    while len(starts) < 30:
        if use.places(rate, now):
            use.take(rate, now, 1)
            starts.append(now)
        now += _MS
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert min(gaps) >= timedelta(milliseconds=100) - SLACK


def test_after_a_rest_a_smooth_rate_does_not_start_what_it_did_not_use() -> None:
    rate = Rate(10, timedelta(seconds=1), smooth=True)
    use = RateUse()
    use.take(rate, _BEGINNING, 1)
    assert use.places(rate, _BEGINNING + timedelta(hours=1)) == 1


def test_nothing_starts_before_the_last_start() -> None:
    """A transaction that began before it does not know what counts at its own time any more."""
    rate = Rate(10, timedelta(seconds=1))
    use = RateUse()
    use.take(rate, _BEGINNING, 1)
    assert use.places(rate, _BEGINNING - _MS) == 0
    assert use.opens_at(rate, _BEGINNING - _MS) == _BEGINNING


def test_a_faster_rate_holds_at_once() -> None:
    slow, fast = (
        (Rate(1, timedelta(days=1), smooth) for smooth in (True, False)),
        Rate(100, timedelta(seconds=1)),
    )
    for rate in slow:
        use = RateUse()
        use.take(rate, _BEGINNING, 1)
        now = _BEGINNING + timedelta(milliseconds=50)
        assert use.places(rate, now) == 0
        for smooth in (True, False):
            assert use.places(Rate(fast.count, fast.period, smooth), now) > 0


def test_starts_from_before_the_clock_was_set_back_do_not_count() -> None:
    rate, day = Rate(3, timedelta(days=2)), timedelta(days=1)
    use = RateUse()
    use.take(rate, _BEGINNING, 1)
    use.take(rate, _BEGINNING + day, 2)
    now = _BEGINNING + timedelta(minutes=30)

    assert use.places(rate, now) == 0
    assert use.without_future(now).places(rate, now) == 2
    assert use.without_future(_BEGINNING + day).places(rate, _BEGINNING + day) == 0

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_database.job_options import RetryRule, TypeOptions
from millrace_worker import Backoff
from millrace_worker.backoff import LONGEST_WAIT

_TIMES = st.timedeltas(timedelta(), timedelta(days=100_000))
_BACKOFFS = st.builds(
    Backoff,
    base=_TIMES,
    factor=st.floats(1, 1e6),
    cap=_TIMES,
    jitter=st.floats(0, 1),
    kind=st.sampled_from(["fixed", "linear", "exponential"]),
)
_ATTEMPTS = st.integers(1, 10_000)
_ROUNDING = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)


@given(backoff=_BACKOFFS, attempt=_ATTEMPTS)
def test_no_wait_is_longer_than_the_cap(backoff: Backoff, attempt: int) -> None:
    assert timedelta() <= backoff.delay(attempt) <= min(backoff.cap, LONGEST_WAIT) + _ROUNDING


@given(backoff=_BACKOFFS, attempt=_ATTEMPTS)
def test_without_jitter_waits_never_get_shorter(backoff: Backoff, attempt: int) -> None:
    steady = backoff.overridden_by(RetryRule(jitter=0))
    assert steady.delay(attempt) <= steady.delay(attempt + 1) + _ROUNDING


@given(backoff=_BACKOFFS, attempt=_ATTEMPTS)
def test_a_wait_differs_from_the_steady_one_by_its_share_of_chance(backoff: Backoff, attempt: int) -> None:
    steady = backoff.overridden_by(RetryRule(jitter=0)).delay(attempt).total_seconds()
    wait = backoff.delay(attempt).total_seconds()
    assert abs(wait - steady) <= steady * backoff.jitter * (1 + 1e-9) + 1e-5


@pytest.mark.parametrize(
    ("kind", "waits"),
    [("fixed", [3, 3, 3, 3]), ("linear", [3, 6, 9, 10]), ("exponential", [3, 6, 10, 10])],
)
def test_waits_grow_as_the_kind_says(kind: Any, waits: list[int]) -> None:
    backoff = Backoff(base=3 * _SECOND, cap=10 * _SECOND, jitter=0, kind=kind)
    assert [backoff.delay(attempt).total_seconds() for attempt in (1, 2, 3, 4)] == waits


def test_waits_at_the_cap_are_spread_as_well() -> None:
    backoff = Backoff(cap=100 * _SECOND, jitter=0.5)
    waits = [backoff.delay(50).total_seconds() for _ in range(200)]
    assert 50 <= min(waits) < 60
    assert 90 < max(waits) <= 100


@given(
    backoff=_BACKOFFS,
    rule=st.builds(
        RetryRule,
        backoff=st.none() | st.sampled_from(["fixed", "linear", "exponential"]),
        initial_delay=st.none() | _TIMES,
        max_delay=st.none() | _TIMES,
        factor=st.none() | st.floats(1, 10),
        jitter=st.none() | st.floats(0, 1),
    ),
)
def test_a_rule_overrides_what_it_says_and_leaves_the_rest(backoff: Backoff, rule: RetryRule) -> None:
    said = {
        "kind": rule.backoff,
        "base": rule.initial_delay,
        "cap": rule.max_delay,
        "factor": rule.factor,
        "jitter": rule.jitter,
    }
    result = backoff.overridden_by(rule)
    for name, value in said.items():
        assert getattr(result, name) == (getattr(backoff, name) if value is None else value)


@given(backoff=_BACKOFFS)
def test_a_backoff_is_published_as_a_rule_that_says_all_of_it(backoff: Backoff) -> None:
    stored = TypeOptions.from_json(TypeOptions(retry=backoff.as_rule()).to_json()).retry
    assert stored is not None
    read = Backoff(jitter=0).overridden_by(stored)
    steady = [each.overridden_by(RetryRule(jitter=0)).delay(3) for each in (read, backoff)]
    assert abs(steady[0] - steady[1]) <= 2 * _ROUNDING + 1e-9 * steady[1]
    assert read.jitter == backoff.jitter


@pytest.mark.parametrize("factor", [0.5, float("inf"), float("nan")])
def test_an_impossible_factor_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        Backoff(factor=factor)


def test_an_unknown_kind_is_refused() -> None:
    kind: Any = "quadratic"
    with pytest.raises(ValueError, match="kind"):
        Backoff(kind=kind)

import pytest

from millrace_storage import StoreRefusedError, StoreUnavailableError
from millrace_worker.store_failures import store_failure, store_words

_AWAY = StoreUnavailableError("no answer")


@pytest.mark.parametrize(
    "error",
    [
        _AWAY,
        ExceptionGroup("", [_AWAY]),
        ExceptionGroup("", [_AWAY, ExceptionGroup("", [_AWAY, StoreUnavailableError("none")])]),
    ],
)
def test_errors_of_nothing_but_a_store_that_is_away_are_an_outage(error: Exception) -> None:
    failure = store_failure(error)
    assert failure is not None
    assert (failure.code, failure.is_outage) == ("STORE_UNAVAILABLE", True)


@pytest.mark.parametrize("other", [ValueError("wrong"), StoreRefusedError("no")])
def test_what_failed_in_another_way_as_well_is_no_outage(other: Exception) -> None:
    assert store_failure(ExceptionGroup("", [_AWAY, other])) is None


def test_operators_are_told_each_of_the_stores_words_once() -> None:
    group = ExceptionGroup("", [_AWAY, ExceptionGroup("", [_AWAY, StoreUnavailableError("none")])])
    assert store_words(group) == "StoreUnavailableError: no answer; StoreUnavailableError: none"

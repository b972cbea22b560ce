"""What a system schedule is registered with, and what is refused."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest

from millrace_queue import Lease
from millrace_worker import (
    DuplicateHandlerError,
    InvalidHandlerError,
    Registry,
    SystemContext,
)
from millrace_worker.context import StopSignal
from millrace_worker.errors import JobCancelled


def _work(_: SystemContext) -> None:
    """Do something.

    In more words.
    """


def test_a_schedule_is_registered_with_what_was_said_of_it() -> None:
    registry = Registry()
    assert registry.system_schedule("a:b", " 0 3 * * mon ", time_zone="Europe/Paris")(_work) is _work
    registry.system_schedule("a:c", "@daily", description="Other.", timeout=timedelta(minutes=2))(_work)

    first, second = registry.system_schedules
    assert (first.type, first.published.cron, first.published.time_zone, first.published.description) == (
        "a:b",
        "0 3 * * mon",
        "Europe/Paris",
        "Do something.",
    )
    assert (second.published.time_zone, second.published.description) == ("UTC", "Other.")
    assert (second.handler.timeout, second.handler.is_async) == (timedelta(minutes=2), False)
    assert len(registry) == 0


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "@", "@every 5m", "daily", 5, "* * * * é", "1\t* * * *"]
)
def test_what_has_not_the_form_of_a_cron_expression_is_refused(cron: Any) -> None:
    with pytest.raises(InvalidHandlerError, match=r"_work \(.+\) cannot run as 'a:b': cron is five fields"):
        Registry().system_schedule("a:b", cron)(_work)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"time_zone": ""}, "time_zone"),
        ({"time_zone": "../etc"}, "time_zone"),
        ({"time_zone": None}, "time_zone"),
        ({"timeout": timedelta()}, "timeout"),
        ({"timeout": 5}, "timeout"),
        ({"description": "\0"}, "U\\+0000"),
        ({"description": 5}, "text"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidHandlerError, match=said):
        Registry().system_schedule("a:b", "@daily", **arguments)(_work)


def test_a_wrong_type_or_none_is_refused() -> None:
    with pytest.raises(InvalidHandlerError, match="a type is"):
        Registry().system_schedule("cleanup", "@daily")(_work)
    with pytest.raises(InvalidHandlerError, match="without a type"):
        Registry().system_schedule(_work, "@daily")  # type: ignore[arg-type]


def _no_parameter() -> None: ...


def _two_parameters(_: SystemContext, __: int) -> None: ...


def _yields(_: SystemContext) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "said"),
    [(_no_parameter, "one parameter"), (_two_parameters, "one parameter"), (_yields, "yield")],
)
def test_a_function_of_another_form_is_refused(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(InvalidHandlerError, match=said):
        Registry().system_schedule("a:b", "@daily")(function)


def test_a_type_is_declared_once() -> None:
    registry = Registry()
    registry.system_schedule("a:b", "@daily")(_work)
    with pytest.raises(DuplicateHandlerError, match="two system schedules"):
        registry.system_schedule("a:b", "@hourly")(_work)


def test_a_context_tells_when_to_stop() -> None:
    stop = StopSignal()
    context = SystemContext(
        run_id="system_1",
        type="a:b",
        scheduled_time=datetime(2030, 1, 1, tzinfo=UTC),
        attempt=1,
        lease=Lease(uuid4(), 1),
        resources=Mock(),
        stop=stop,
    )
    assert not context.cancelled
    context.raise_if_cancelled()
    stop.is_set = True
    assert context.cancelled
    assert stop.noticed
    with pytest.raises(JobCancelled):
        context.raise_if_cancelled()

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, RootModel

from millrace_database.job_options import TypeLimits
from millrace_worker import (
    Backoff,
    DuplicateHandlerError,
    InvalidHandlerError,
    JobContext,
    JobError,
    Rate,
    Registry,
    Retention,
    SyncJobContext,
)
from millrace_worker.handler import Handler
from millrace_worker.registry import default_registry, load_handlers


class Model(BaseModel):
    name: str = Field(min_length=1)
    count: int = 0


@dataclass
class Data:
    name: str


class Listing(RootModel[list[int]]):
    pass


@pytest.fixture
def registry() -> Registry:
    return Registry()


def _handler(registry: Registry, name: str) -> Handler:
    handler = registry.get(name)
    assert handler is not None
    return handler


def test_a_handler_is_registered_with_what_was_said_of_it(registry: Registry) -> None:
    @registry.job_handler(
        "demo:work",
        concurrency=5,
        attempts=2,
        timeout=timedelta(minutes=1),
        backoff=Backoff(base=timedelta(seconds=9)),
        label="Work",
        description="Works.",
    )
    async def work(context: JobContext[Model]) -> None: ...

    handler = registry.get("demo:work")
    assert handler is not None
    assert (handler.function, handler.is_async) == (work, True)
    assert (handler.concurrency, handler.attempts, handler.timeout) == (5, 2, timedelta(minutes=1))
    assert (handler.label, handler.description, handler.backoff.base) == (
        "Work",
        "Works.",
        timedelta(seconds=9),
    )
    assert registry.get("demo:other") is None
    assert list(registry) == [handler]


def test_what_is_not_said_has_defaults(registry: Registry) -> None:
    @registry.job_handler("demo:work")
    def work(context: SyncJobContext[dict[str, Any]]) -> None:
        """Do the work."""

    handler = _handler(registry, "demo:work")
    assert (handler.concurrency, handler.attempts, handler.timeout) == (10, 4, timedelta(hours=1))
    assert (handler.label, handler.description, handler.is_async) == ("demo:work", "Do the work.", False)


def test_options_of_a_type_are_kept_for_publication(registry: Registry) -> None:
    @registry.job_handler(
        "demo:work",
        dead_letter="demo:dead",
        max_running=5,
        max_running_per_organisation=2,
        rate=Rate(100, timedelta(minutes=1)),
        rate_per_organisation=Rate(1, timedelta(seconds=1), smooth=True),
        retention=Retention(completed=timedelta(days=7)),
        backoff=Backoff(base=timedelta(seconds=9), kind="linear"),
    )
    async def work(context: JobContext[Model]) -> None: ...

    options = _handler(registry, "demo:work").options
    assert options.dead_letter_type == "demo:dead"
    assert options.limits == TypeLimits(
        5, 2, Rate(100, timedelta(minutes=1)), Rate(1, timedelta(seconds=1), smooth=True)
    )
    assert options.retention == Retention(completed=timedelta(days=7))
    assert options.retry is not None
    assert (options.retry.backoff, options.retry.initial_delay) == ("linear", timedelta(seconds=9))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dead_letter": "dead"}, "dead_letter"),
        ({"dead_letter": "demo:work"}, "dead_letter"),
        ({"max_running": 0}, "max_running"),
        ({"max_running_per_organisation": -1}, "max_running_per_organisation"),
        ({"rate": Rate(0, timedelta(seconds=1))}, "rate"),
        ({"rate": Rate(1, timedelta())}, "rate"),
        ({"rate_per_organisation": Rate(1, timedelta(days=31))}, "rate_per_organisation"),
        ({"retention": Retention(failed=timedelta(hours=23))}, "retention"),
    ],
)
def test_impossible_options_are_refused(registry: Registry, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidHandlerError, match=rf"'demo:work': {named} "):

        @registry.job_handler("demo:work", **options)
        async def work(context: JobContext[Model]) -> None: ...


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": "5"}, "concurrency is a whole number, not '5'"),
        ({"concurrency": True}, "concurrency is a whole number, not True"),
        ({"concurrency": 2**31}, "concurrency is from 1 to"),
        ({"attempts": 2.5}, "attempts is a whole number, not 2.5"),
        ({"attempts": None}, "attempts is a whole number, not None"),
        ({"timeout": 60}, "timeout is a timedelta, not 60"),
        ({"backoff": timedelta(seconds=1)}, "backoff is a Backoff, not datetime.timedelta(seconds=1)"),
        ({"dead_letter": 7}, "dead_letter is a text or None, not 7"),
        ({"max_running": "5"}, "max_running is a whole number or None, not '5'"),
        (
            {"max_running_per_organisation": 1.0},
            "max_running_per_organisation is a whole number or None, not 1.0",
        ),
        ({"rate": (5, 1)}, "rate is a Rate or None, not (5, 1)"),
        ({"rate": Rate(5, 1)}, "period of rate is a timedelta, not 1"),  # type: ignore[arg-type]
        ({"rate_per_organisation": 5}, "rate_per_organisation is a Rate or None, not 5"),
        ({"retention": timedelta(days=7)}, "retention is a Retention, not datetime.timedelta(days=7)"),
        ({"retention": Retention(failed=7)}, "failed of retention is a timedelta or None, not 7"),  # type: ignore[arg-type]
        ({"label": 7}, "label is a text or None, not 7"),
        ({"description": b"text"}, "description is a text or None, not b'text'"),
        ({"label": "a\0b"}, "its label and description are text without U+0000"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_in_a_sentence(
    registry: Registry, options: dict[str, Any], said: str
) -> None:
    async def work(context: JobContext[Model]) -> None: ...

    with pytest.raises(InvalidHandlerError) as caught:
        registry.job_handler("demo:work", **options)(work)
    assert f"cannot handle 'demo:work': {said}" in str(caught.value)
    assert f"({__file__}:" in str(caught.value)


def test_a_decorator_without_a_job_type_is_refused(registry: Registry) -> None:
    async def work(context: JobContext[Model]) -> None: ...

    with pytest.raises(InvalidHandlerError, match=r"work \(.*\) is decorated without a job type"):
        registry.job_handler(work)  # type: ignore[arg-type]
    with pytest.raises(InvalidHandlerError, match="cannot handle 7: a job type is"):
        registry.job_handler(7)(work)  # type: ignore[arg-type]


def test_the_input_schema_is_that_of_the_model(registry: Registry) -> None:
    @registry.job_handler("demo:model")
    async def model(context: JobContext[Model]) -> None: ...

    schema = _handler(registry, "demo:model").input_schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["type"], schema["required"]) == ("object", ["name"])
    assert schema["properties"]["name"]["minLength"] == 1


@pytest.mark.parametrize("input_type", [Data, dict, dict[str, Any], dict[str, int]])
def test_the_input_may_be_a_dataclass_or_a_dict(registry: Registry, input_type: Any) -> None:
    async def handle(context: Any) -> None: ...

    handle.__annotations__ = {"context": JobContext[input_type]}
    registry.job_handler("demo:input")(handle)
    assert _handler(registry, "demo:input").input_schema["type"] == "object"


@pytest.mark.parametrize(
    "name",
    [
        "work",
        "Demo:work",
        "demo:Work",
        "demo:",
        ":work",
        "demo:work:more",
        "demo work:x",
        "1a:b",
        "a:" + "b" * 127,
    ],
)
def test_a_type_is_a_namespace_and_a_name_in_lower_case(registry: Registry, name: str) -> None:
    async def work(context: JobContext[Model]) -> None: ...

    with pytest.raises(InvalidHandlerError, match="namespace:name"):
        registry.job_handler(name)(work)


def test_a_second_handler_of_a_type_is_refused_naming_both_places(registry: Registry) -> None:
    @registry.job_handler("demo:work")
    async def first(context: JobContext[Model]) -> None: ...

    async def second(context: JobContext[Model]) -> None: ...

    with pytest.raises(DuplicateHandlerError) as caught:
        registry.job_handler("demo:work")(second)
    text = str(caught.value)
    assert "first" in text
    assert "second" in text
    assert text.count(f"{__file__}:") == 2
    assert _handler(registry, "demo:work").function is first


async def _no_annotation(context) -> None: ...  # type: ignore[no-untyped-def]


async def _bare(context: JobContext) -> None: ...  # type: ignore[type-arg]


async def _unknown(context: "JobContext[Nowhere]") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the mistake under test


async def _attribute(context: "timedelta.Nowhere") -> None: ...  # type: ignore[name-defined]


async def _two(context: JobContext[Model], more: int) -> None: ...


async def _none() -> None: ...


async def _keyword(*, context: JobContext[Model]) -> None: ...


async def _other(context: Model) -> None: ...


async def _sync_context(context: SyncJobContext[Model]) -> None: ...


def _async_context(context: JobContext[Model]) -> None: ...


async def _list_input(context: JobContext[list[int]]) -> None: ...


async def _root_input(context: JobContext[Listing]) -> None: ...


async def _any_input(context: JobContext[Any]) -> None: ...


async def _generator(context: JobContext[Model]) -> AsyncIterator[int]:
    yield 1


def _sync_generator(context: SyncJobContext[Model]) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_no_annotation, "annotate"),
        (_bare, "name its input type"),
        (_unknown, "Nowhere"),
        (_two, "one parameter"),
        (_none, "one parameter"),
        (_keyword, "one parameter"),
        (_other, "JobContext or SyncJobContext"),
        (_sync_context, "takes a JobContext"),
        (_async_context, "takes a SyncJobContext"),
        (_list_input, "pydantic model, a dataclass or a dict"),
        (_root_input, "pydantic model, a dataclass or a dict"),
        (_any_input, "pydantic model, a dataclass or a dict"),
        (_generator, "does not yield"),
        (_sync_generator, "does not yield"),
        (_attribute, "annotations cannot be resolved"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_with_the_reason(
    registry: Registry, function: Callable[..., object], reason: str
) -> None:
    with pytest.raises(InvalidHandlerError, match=reason) as caught:
        registry.job_handler("demo:work")(function)
    assert function.__name__ in str(caught.value)
    assert "demo:work" in str(caught.value)
    assert len(registry) == 0


@pytest.mark.parametrize(
    "settings", [{"concurrency": 0}, {"attempts": 0}, {"attempts": 101}, {"timeout": timedelta()}]
)
def test_impossible_limits_are_refused(registry: Registry, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidHandlerError, match=next(iter(settings))):
        registry.job_handler("demo:work", **settings)(_async_context)


def test_handlers_are_loaded_from_modules_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_jobs_of_a_test.py").write_text(
        "from millrace_worker import JobContext, job_handler\n"
        "@job_handler('loaded-by:test')\n"
        "async def run(context: JobContext[dict]) -> None: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(default_registry, "_handlers", dict(default_registry._handlers))
    monkeypatch.delitem(sys.modules, "my_jobs_of_a_test", raising=False)

    registry = load_handlers(["my_jobs_of_a_test"])
    load_handlers(["my_jobs_of_a_test"])

    assert registry.get("loaded-by:test") is not None


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_handlers"):
        load_handlers(["no_such_module_of_handlers"])


@pytest.mark.parametrize("code", ["", "not upper", "1X", "X" * 65, "A-B", "É"])
def test_an_error_code_is_a_word_in_upper_case(code: str) -> None:
    with pytest.raises(ValueError, match="UPPER_SNAKE_CASE"):
        JobError(code, "No.")


def test_an_error_is_not_retried_unless_it_says_so() -> None:
    assert not JobError("NO", "No.").retryable
    with pytest.raises(ValueError, match="negative"):
        JobError("NO", "No.", retryable=True, retry_after=timedelta(seconds=-1))

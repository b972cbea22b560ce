import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.errors import PydanticUserError

from millrace_database.job_options import TypeOptions
from millrace_database.storable_text import storable
from millrace_runtime.job_type_names import TYPE_NAME_FORM, is_type_name
from millrace_worker.backoff import Backoff
from millrace_worker.context import JobContext, SyncJobContext
from millrace_worker.errors import InvalidHandlerError
from millrace_worker.type_options import MAX_RUNNING, find_fault

HandlerFunction = Callable[[Any], Any]

_MAX_ATTEMPTS = 100
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Handler:
    """A job type: the function that runs it, and the rules it runs by."""

    type: str
    function: HandlerFunction
    is_async: bool
    input_adapter: TypeAdapter[Any]
    input_schema: Mapping[str, Any]
    concurrency: int
    attempts: int
    timeout: timedelta
    backoff: Backoff
    options: TypeOptions
    label: str
    description: str

    @property
    def place(self) -> str:
        """Where the function is defined, for messages."""
        return place_of(self.function)


def place_of(function: HandlerFunction) -> str:
    """`module.function (file:line)` of a function, as far as it tells."""
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    code = getattr(inspect.unwrap(function), "__code__", None)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def build_handler(
    function: HandlerFunction,
    *,
    type_name: str,
    concurrency: int,
    attempts: int,
    timeout: timedelta,
    backoff: Backoff,
    options: TypeOptions,
    label: str | None,
    description: str | None,
) -> Handler:
    """Check the function and its settings, and find out its input type.

    Raises InvalidHandlerError naming the function, the job type and what is wrong.
    """

    def refuse(reason: str) -> InvalidHandlerError:
        return InvalidHandlerError(f"{place_of(function)} cannot handle {type_name!r}: {reason}")

    if not is_type_name(type_name):
        raise refuse(f"a job type is {TYPE_NAME_FORM}")
    if not 1 <= concurrency <= MAX_RUNNING:
        raise refuse(f"concurrency is from 1 to {MAX_RUNNING:,}")
    if not 1 <= attempts <= _MAX_ATTEMPTS:
        raise refuse(f"attempts is from 1 to {_MAX_ATTEMPTS}")
    if timeout <= timedelta(0):
        raise refuse("timeout is more than nothing")
    if fault := find_fault(type_name, options):
        raise refuse(fault)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise refuse("a handler returns its result and does not yield")

    is_async = inspect.iscoroutinefunction(function)
    adapter = _input_adapter(_context_annotation(function, refuse), is_async=is_async, refuse=refuse)
    try:
        schema = {"$schema": _DIALECT, **adapter.json_schema(mode="validation")}
    except PydanticUserError as error:
        raise refuse(f"its input type has no JSON Schema: {error.message}") from error
    label = type_name if label is None else label
    description = (inspect.getdoc(function) or "") if description is None else description
    if storable(label + description) != label + description:
        raise refuse("its label and description are text without U+0000 and lone surrogates")
    return Handler(
        type=type_name,
        function=function,
        is_async=is_async,
        input_adapter=adapter,
        input_schema=schema,
        concurrency=concurrency,
        attempts=attempts,
        timeout=timeout,
        backoff=backoff,
        options=options,
        label=label,
        description=description,
    )


_Refuse = Callable[[str], InvalidHandlerError]


def _context_annotation(function: HandlerFunction, refuse: _Refuse) -> Any:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise refuse("it is no function whose parameters can be known") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in positional:
        raise refuse("a handler takes one parameter, its context")
    try:
        hints = get_type_hints(function)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise refuse(
            f"its annotations cannot be resolved ({error}); the types they name belong at the top of its module"
        ) from error
    try:
        return hints[parameters[0].name]
    except KeyError:
        raise refuse("annotate its parameter as JobContext[YourInput] or SyncJobContext[YourInput]") from None


def _input_adapter(annotation: Any, *, is_async: bool, refuse: _Refuse) -> TypeAdapter[Any]:
    context_class = get_origin(annotation) or annotation
    if context_class not in (JobContext, SyncJobContext):
        raise refuse(f"its parameter is a JobContext or SyncJobContext, not {annotation!r}")
    if is_async and context_class is SyncJobContext:
        raise refuse("an async def handler takes a JobContext")
    if not is_async and context_class is JobContext:
        raise refuse("a plain def handler takes a SyncJobContext")
    arguments = get_args(annotation)
    if not arguments:
        raise refuse(
            f"name its input type: {context_class.__name__}[YourInput], or {context_class.__name__}[dict]"
        )
    if not _is_object_type(arguments[0]):
        raise refuse(f"its input is a pydantic model, a dataclass or a dict, not {arguments[0]!r}")
    try:
        return TypeAdapter(arguments[0])
    except PydanticUserError as error:
        raise refuse(f"pydantic cannot validate its input type: {error.message}") from error


def _is_object_type(candidate: Any) -> bool:
    plain = get_origin(candidate) or candidate
    if not isinstance(plain, type) or issubclass(plain, RootModel):
        return False
    return issubclass(plain, BaseModel | dict) or dataclasses.is_dataclass(plain)

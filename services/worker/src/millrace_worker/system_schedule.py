"""System schedules: work that the code itself declares, with its times."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from millrace_database.job_options import TypeOptions
from millrace_database.storable_text import storable
from millrace_database.system_schedules_repository import MAX_ATTEMPTS, PublishedSchedule, queue_type
from millrace_runtime.job_type_names import TYPE_NAME_FORM, is_type_name
from millrace_worker.backoff import Backoff
from millrace_worker.errors import InvalidHandlerError
from millrace_worker.handler import Handler, HandlerFunction, place_of

_MAX_CRON_LENGTH = 256
_CRON_WORD = re.compile(r"@[A-Za-z]+", re.ASCII)
_CRON_FIELDS = 5
_TIME_ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}", re.ASCII)
_NO_INPUT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


@dataclass(frozen=True, slots=True)
class SystemSchedule:
    """What is published of a system schedule, and how its runs are made, one at a time."""

    published: PublishedSchedule
    handler: Handler

    @property
    def type(self) -> str:
        """The type of the work."""
        return self.published.type


def build_system_schedule(
    function: HandlerFunction,
    *,
    type_name: str,
    cron: str,
    time_zone: str,
    timeout: timedelta,
    description: str | None,
) -> SystemSchedule:
    """Check the function and its times, of which only the form: the scheduler reads them.

    Raises InvalidHandlerError naming the function, the type and what is wrong.
    """

    def refuse(reason: str) -> InvalidHandlerError:
        return InvalidHandlerError(f"{place_of(function)} cannot run as {type_name!r}: {reason}")

    if not is_type_name(type_name):
        raise refuse(f"a type is {TYPE_NAME_FORM}")
    if not _has_form_of_cron(cron):
        raise refuse(
            'cron is five fields or a word such as "@daily", '
            f"at most {_MAX_CRON_LENGTH} characters, not {cron!r}"
        )
    if not (isinstance(time_zone, str) and _TIME_ZONE.fullmatch(time_zone)):
        raise refuse(f'time_zone is a name such as "Europe/Paris", not {time_zone!r}')
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise refuse("timeout is a timedelta of more than nothing")
    _check_signature(function, refuse)
    text = (inspect.getdoc(function) or "") if description is None else description
    if not isinstance(text, str) or storable(text) != text:
        raise refuse("its description is text without U+0000 and lone surrogates")
    first_line = next(iter(text.splitlines()), "")
    return SystemSchedule(
        PublishedSchedule(type_name, cron.strip(), time_zone, first_line),
        Handler(
            type=queue_type(type_name),
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            input_adapter=_NO_INPUT,
            input_schema={},
            concurrency=1,
            attempts=MAX_ATTEMPTS,
            timeout=timeout,
            backoff=Backoff(),
            options=TypeOptions(),
            label=type_name,
            description=text,
        ),
    )


def _has_form_of_cron(cron: object) -> bool:
    if (
        not isinstance(cron, str)
        or len(cron) > _MAX_CRON_LENGTH
        or not cron.isascii()
        or not cron.isprintable()
    ):
        return False
    expression = cron.strip()
    return bool(_CRON_WORD.fullmatch(expression)) or len(expression.split()) == _CRON_FIELDS


def _check_signature(function: HandlerFunction, refuse: Callable[[str], InvalidHandlerError]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise refuse("it does not yield")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise refuse("it is no function whose parameters can be known") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in positional:
        raise refuse("it takes one parameter, its SystemContext")

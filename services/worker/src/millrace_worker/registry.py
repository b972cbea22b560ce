import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from millrace_database.job_options import RetentionRule as Retention
from millrace_database.job_options import TypeLimits, TypeOptions
from millrace_database.job_types_repository import DEFAULT_MAX_ATTEMPTS
from millrace_queue import Rate
from millrace_worker.backoff import Backoff
from millrace_worker.errors import DuplicateHandlerError, InvalidHandlerError
from millrace_worker.handler import Handler, HandlerFunction, build_handler, place_of
from millrace_worker.handler_arguments import find_wrong_type
from millrace_worker.system_schedule import SystemSchedule, build_system_schedule

_Function = TypeVar("_Function", bound=HandlerFunction)

_DEFAULT_BACKOFF = Backoff()
_DEFAULT_RETENTION = Retention()


class Registry:
    """The handlers of a worker, one per job type, and its system schedules."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._system_schedules: dict[str, SystemSchedule] = {}

    def job_handler(
        self,
        type: str,  # noqa: A002 - the field's name everywhere
        /,
        *,
        concurrency: int = 10,
        attempts: int = DEFAULT_MAX_ATTEMPTS,
        timeout: timedelta = timedelta(hours=1),
        backoff: Backoff = _DEFAULT_BACKOFF,
        dead_letter: str | None = None,
        max_running: int | None = None,
        max_running_per_organisation: int | None = None,
        rate: Rate | None = None,
        rate_per_organisation: Rate | None = None,
        retention: Retention = _DEFAULT_RETENTION,
        label: str | None = None,
        description: str | None = None,
    ) -> Callable[[_Function], _Function]:
        """Make the decorated function the handler of jobs of `type` ("namespace:name").

        `concurrency`: how many of them one worker runs at once. `attempts` (1 to 100): how many a job gets when
        its creator names no number. `timeout`: how long one attempt may run. `backoff`: how long the next
        attempt waits. A job's creator may ask for others.

        `dead_letter`: a job of this type is created for each one that fails for good, unless the creator names another.
        `max_running`, `max_running_per_organisation` (at least 1): how many run at once over all workers. `rate`,
        `rate_per_organisation`: how many start, over all workers. None: no limit. Operators may set others.
        `retention`: for how long finished jobs are kept. `label` (the type) and `description` (the docstring) are
        shown to people.

        The function takes JobContext[T] (`async def`, on the event loop) or SyncJobContext[T] (`def`, in a
        thread), T a pydantic model, a dataclass or dict, and returns one of these or None. It is returned as
        it is. Raises InvalidHandlerError, or DuplicateHandlerError when the type has a handler.
        """
        if callable(type):
            raise InvalidHandlerError(
                f'{place_of(type)} is decorated without a job type: write @job_handler("namespace:name")'
            )
        arguments = {
            "concurrency": concurrency,
            "attempts": attempts,
            "timeout": timeout,
            "backoff": backoff,
            "dead_letter": dead_letter,
            "max_running": max_running,
            "max_running_per_organisation": max_running_per_organisation,
            "rate": rate,
            "rate_per_organisation": rate_per_organisation,
            "retention": retention,
            "label": label,
            "description": description,
        }

        def register(function: _Function) -> _Function:
            if fault := find_wrong_type(arguments):
                raise InvalidHandlerError(f"{place_of(function)} cannot handle {type!r}: {fault}")
            handler = build_handler(
                function,
                type_name=type,
                concurrency=concurrency,
                attempts=attempts,
                timeout=timeout,
                backoff=backoff,
                options=TypeOptions(
                    retry=backoff.as_rule(),
                    dead_letter_type=dead_letter,
                    limits=TypeLimits(max_running, max_running_per_organisation, rate, rate_per_organisation),
                    retention=retention,
                ),
                label=label,
                description=description,
            )
            if type in self._handlers:
                raise DuplicateHandlerError(
                    f"{type!r} has two handlers: {self._handlers[type].place} and {place_of(function)}"
                )
            self._handlers[type] = handler
            return function

        return register

    def system_schedule(
        self,
        type: str,  # noqa: A002 - the field's name everywhere
        cron: str,
        /,
        *,
        time_zone: str = "UTC",
        timeout: timedelta = timedelta(hours=1),
        description: str | None = None,
    ) -> Callable[[_Function], _Function]:
        """Have the decorated function run at the times of `cron`, by one worker of all that declare `type` ("namespace:name").

        `cron`: five fields, or a word such as "@daily", in the IANA time zone `time_zone`; a scheduler reads it, and says in
        ListSystemSchedules what is wrong with it. `timeout`: how long one run may take. `description` (the docstring), its
        first line, is shown to people.

        The function takes a SystemContext; `async def` runs on the event loop, `def` in a thread. What it returns is
        dropped. It is returned as it is. Raises InvalidHandlerError, or DuplicateHandlerError when the type is declared.
        """
        if callable(type):
            raise InvalidHandlerError(
                f"{place_of(type)} is decorated without a type: "
                'write @system_schedule("namespace:name", "0 * * * *")'
            )

        def register(function: _Function) -> _Function:
            schedule = build_system_schedule(
                function,
                type_name=type,
                cron=cron,
                time_zone=time_zone,
                timeout=timeout,
                description=description,
            )
            if type in self._system_schedules:
                declared = self._system_schedules[type].handler.place
                raise DuplicateHandlerError(
                    f"{type!r} has two system schedules: {declared} and {place_of(function)}"
                )
            self._system_schedules[type] = schedule
            return function

        return register

    @property
    def system_schedules(self) -> Sequence[SystemSchedule]:
        """The system schedules, in the order of their declaration."""
        return tuple(self._system_schedules.values())

    def get(self, type_name: str) -> Handler | None:
        """Return the handler of a type, or None."""
        return self._handlers.get(type_name)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)


default_registry = Registry()

job_handler = default_registry.job_handler

system_schedule = default_registry.system_schedule


def load_handlers(modules: Iterable[str]) -> Registry:
    """Import the modules, so that their handlers register themselves, and return the default registry.

    The working directory is searched too, as `python -m` does. Raises what an import raises.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for module in modules:
        importlib.import_module(module)
    return default_registry

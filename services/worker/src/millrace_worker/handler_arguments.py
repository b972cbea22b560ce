"""What is said of a handler beside its function, and of which Python types that is."""

import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from millrace_database.job_options import RetentionRule
from millrace_queue import Rate
from millrace_worker.backoff import Backoff

_EXPECTED: Mapping[str, Any] = {
    "concurrency": int,
    "attempts": int,
    "timeout": timedelta,
    "backoff": Backoff,
    "dead_letter": str | None,
    "max_running": int | None,
    "max_running_per_organisation": int | None,
    "rate": Rate | None,
    "rate_per_organisation": Rate | None,
    "retention": RetentionRule,
    "label": str | None,
    "description": str | None,
}
_EXPECTED_WITHIN: Mapping[type, Mapping[str, Any]] = {
    Rate: {"count": int, "period": timedelta, "smooth": bool},
    RetentionRule: dict.fromkeys(("completed", "failed", "cancelled"), timedelta | None),
}
_NAMES = {int: "a whole number", str: "a text", RetentionRule: "a Retention", types.NoneType: "None"}


def find_wrong_type(arguments: Mapping[str, object]) -> str | None:
    """Return which argument of `job_handler` is of a wrong Python type, as the rest of a sentence; None: none is."""
    for name, value in arguments.items():
        if fault := _fault(name, value, _EXPECTED[name]):
            return fault
        for field, expected in _EXPECTED_WITHIN.get(type(value), {}).items():
            if fault := _fault(f"{field} of {name}", getattr(value, field), expected):
                return fault
    return None


def _fault(name: str, value: object, expected: Any) -> str | None:
    kinds = typing.get_args(expected) or (expected,)
    # A bool is an int to Python, and a mistake here.
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return None
    return f"{name} is {' or '.join(_NAMES.get(kind, f'a {kind.__name__}') for kind in kinds)}, not {value!r}"

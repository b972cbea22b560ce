"""Saying in words which part of a job's input breaks its type's schema."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError, ValidationErrorKind

_MAX_VIOLATIONS = 20
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
# Stands for the offending value in the validator's messages: an input may be large, or confidential.
_MASK = "the value"


def compile_schema(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator for `find_violations`. Raises ValueError when the schema is wrong or refers to others."""
    return Draft202012Validator(schema, mask=_MASK, offline=True)


def find_violations(validator: Draft202012Validator, value: Any, *, root: str) -> list[tuple[str, str]]:
    """Return where and how `value` breaks the schema, at most 20 pairs of a path such as `input.rows[0].id` and a reason.

    `root` is the path of `value` itself; each reason completes "the field …".
    """
    if validator.is_valid(value):
        return []
    found = (
        (_path(root, place), reason)
        for error in validator.iter_errors(value)
        for place, reason in _explain(error)
    )
    return list(islice(found, _MAX_VIOLATIONS))


def _explain(error: ValidationError) -> Iterator[tuple[Sequence[str | int], str]]:
    place, kind = error.instance_path, error.kind
    if isinstance(kind, ValidationErrorKind.Required):
        yield [*place, kind.property], "is required"
    elif isinstance(
        kind, ValidationErrorKind.AdditionalProperties | ValidationErrorKind.UnevaluatedProperties
    ):
        for name in kind.unexpected:
            yield [*place, name], "is not known"
    elif isinstance(kind, ValidationErrorKind.AnyOf | ValidationErrorKind.OneOfNotValid):
        yield from _explain_alternatives(error, kind.context)
    else:
        yield place, _reason(error)


def _explain_alternatives(
    error: ValidationError, alternatives: Sequence[Sequence[ValidationError]]
) -> Iterator[tuple[Sequence[str | int], str]]:
    """Explain a value that fits none of several schemas, such as "an integer or null".

    Alternatives for values of another type say nothing about this one, unless all of them are.
    """
    fitting = [errors for errors in alternatives if not any(_is_wrong_type(error, inner) for inner in errors)]
    if len(fitting) == 1:
        for inner in fitting[0]:
            yield from _explain(inner)
    elif fitting and (missing := _missing(fitting)):
        yield error.instance_path, f"needs one of {', '.join(missing)}"
    elif fitting:
        yield error.instance_path, "matches none of the forms it may have"
    else:
        kinds = (inner.kind for errors in alternatives for inner in errors)
        types = [name for kind in kinds if isinstance(kind, ValidationErrorKind.Type) for name in kind.types]
        yield error.instance_path, _must_be(types)


def _missing(alternatives: Sequence[Sequence[ValidationError]]) -> list[str]:
    """Return the properties that would help, when each alternative lacks nothing but one."""
    kinds = [inner.kind for errors in alternatives for inner in errors]
    names = [kind.property for kind in kinds if isinstance(kind, ValidationErrorKind.Required)]
    return names if len(names) == len(kinds) == len(alternatives) else []


def _is_wrong_type(outer: ValidationError, inner: ValidationError) -> bool:
    return isinstance(inner.kind, ValidationErrorKind.Type) and inner.instance_path == outer.instance_path


def _reason(error: ValidationError) -> str:
    if isinstance(error.kind, ValidationErrorKind.Type):
        return _must_be(error.kind.types)
    if isinstance(error.kind, ValidationErrorKind.Enum):
        return f"must be one of {', '.join(json.dumps(option, ensure_ascii=False) for option in error.kind.options)}"
    if isinstance(error.kind, ValidationErrorKind.OneOfMultipleValid):
        return "has more than one of the forms of which it may have one"
    return error.message.removeprefix(f"{_MASK} ")


def _must_be(types: Sequence[str]) -> str:
    return f"must be {' or '.join(dict.fromkeys(types))}"


def _path(root: str, place: Sequence[str | int]) -> str:
    return root + "".join(_step(step) for step in place)


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"

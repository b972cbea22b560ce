"""From what a handler returned to the JSON text that is stored."""

import dataclasses

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from millrace_runtime.json_document import parse_json_object

MAX_OUTPUT_BYTES = 1024 * 1024


class InvalidOutputError(Exception):
    """What the handler returned cannot be stored; the text says why."""


def encode_output(value: object) -> str:
    """Return the JSON text of an object: of a pydantic model, dataclass or dict, or {} for None.

    NaN and infinity, which JSON lacks, become null. Raises InvalidOutputError for anything else, and for what cannot be written as JSON, is longer than
    MAX_OUTPUT_BYTES, or breaks the rules for inputs (depth, U+0000, numbers).
    """
    if value is None:
        return "{}"
    if not _is_object(value):
        raise InvalidOutputError(
            f"a handler returns a pydantic model, a dataclass, a dict or None, not {type(value).__name__}"
        )
    try:
        raw = to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise InvalidOutputError(f"what the handler returned cannot be written as JSON: {error}") from error
    try:
        return parse_json_object(raw, max_bytes=MAX_OUTPUT_BYTES).text
    except ValueError as error:
        raise InvalidOutputError(f"what the handler returned {error}") from error


def _is_object(value: object) -> bool:
    if isinstance(value, BaseModel | dict):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)

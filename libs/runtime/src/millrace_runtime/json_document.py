import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import orjson
from google.protobuf.struct_pb2 import Struct

from millrace_runtime.struct_json import struct_to_dict

MAX_JSON_DEPTH = 32
"""Objects and lists within each other, the outermost one counted. Protobuf's parsers stop at 100 nested messages
and a Struct takes three a level: what is deeper could be stored, and then no client could read it."""

_MAX_DECIMAL_PLACES = 1000
# What a number needs to have for more decimal places than that.
_LONG_NUMBER = re.compile(rb"[eE]-\d{3}|\d{1000}")
_LENGTH_OF_LONG_NUMBER = 1000


class JsonDocument(NamedTuple):
    """A JSON object that Postgres and every caller can hold: its text as it is stored, and its content."""

    text: str
    value: dict[str, Any]


def parse_json_object(raw: bytes, *, max_bytes: int) -> JsonDocument:
    """Read UTF-8 JSON text that a caller sent. The text is kept as it is, so numbers keep all their digits.

    Raises ValueError, whose text completes "the field …", when it is no object, is longer than `max_bytes`, is
    nested too deeply, or holds U+0000 or a number beyond what a double or Postgres can take.
    """
    _check_size(raw, max_bytes)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 (the text is wrong, not its type)
    _check_content(raw, value)
    if _may_hold_long_number(raw) and _LONG_NUMBER.search(raw):
        _check_decimal_places(raw)
    return JsonDocument(raw.decode(), value)


def json_document(struct: Struct, *, max_bytes: int) -> JsonDocument:
    """Read a Struct that a caller sent. Raises ValueError as `parse_json_object` does, also for NaN."""
    value = struct_to_dict(struct)
    raw = orjson.dumps(value)
    _check_size(raw, max_bytes)
    _check_content(raw, value)
    return JsonDocument(raw.decode(), value)


def _check_size(raw: bytes, max_bytes: int) -> None:
    if len(raw) > max_bytes:
        raise ValueError(f"is {len(raw)} bytes of JSON, more than {max_bytes}")


def _check_content(raw: bytes, value: dict[str, Any]) -> None:
    if raw.count(b"{") + raw.count(b"[") > MAX_JSON_DEPTH and _is_deeper(value, MAX_JSON_DEPTH):
        raise ValueError(f"is more than {MAX_JSON_DEPTH} levels deep")
    if rb"\u0000" in raw and any("\0" in text for text in _texts(value)):
        raise ValueError("holds the character U+0000, which cannot be stored")


def _may_hold_long_number(raw: bytes) -> bool:
    """Rule most texts out at once: the search of the pattern takes longer than parsing the text."""
    return len(raw) >= _LENGTH_OF_LONG_NUMBER or b"e-" in raw or b"E-" in raw


def _is_deeper(value: dict[str, Any], levels: int) -> bool:
    containers: list[Any] = [value]
    for _ in range(levels):
        containers = [
            child
            for container in containers
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
    return bool(containers)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _check_decimal_places(raw: bytes) -> None:
    json.loads(raw, parse_float=_check_number, parse_int=str)


def _check_number(number: str) -> str:
    mantissa, _, exponent = number.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    if len(exponent) > 6 or places - int(exponent or 0) > _MAX_DECIMAL_PLACES:
        _refuse_number()
    return number


def _refuse_number() -> NoReturn:
    raise ValueError(f"holds a number with more than {_MAX_DECIMAL_PLACES} decimal places")

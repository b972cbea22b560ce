"""Conversions between Python values and the messages of the contracts."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

_LARGEST_EXACT_DOUBLE = 2**53
# Protobuf's parsers stop at 100 nested messages, of which a Struct takes three a level.
_MOST_STRUCT_LEVELS = 32


@runtime_checkable
class Model(Protocol):
    """Anything that turns itself into JSON values as pydantic models do."""

    def model_dump(self, *, mode: str) -> Any:
        """Return the model's fields as values that JSON knows."""


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


JsonObject: TypeAlias = Mapping[str, Any] | Dataclass | Model
"""What can be given where a contract asks for a JSON object."""


def encode_object(value: JsonObject) -> bytes:
    """Write a JSON object as UTF-8 text; numbers keep all their digits.

    Dates and times become ISO 8601 text, UUIDs and enum members their text or value.
    TypeError when something in it has no JSON form; ValueError for NaN and infinities, and for what is too deep.
    """
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not text.startswith("{"):
        raise TypeError(f"expected a mapping, a dataclass or a model, not {type(value).__name__}")
    return text.encode()


def to_struct(value: JsonObject) -> Struct:
    """Turn a JSON object into a Struct, whose numbers are doubles.

    ValueError for an integer that a double would change, and for more than 32 levels.
    """
    plain = json.loads(encode_object(value), parse_int=_exact_in_double)
    _check_levels(plain)
    struct = Struct()
    struct.update(plain)
    return struct


def from_struct(struct: Struct) -> dict[str, Any]:
    """Turn a Struct into a dict, with its names in order since a Struct keeps none.

    Whole numbers become int, as far as doubles hold them exactly.
    """
    return {name: _from_value(value) for name, value in sorted(struct.fields.items())}


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    """ValueError when `moment` has no time zone: which instant it means is then a guess."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone")
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def from_timestamp(timestamp: Timestamp) -> datetime:
    """Return the instant in UTC, cut to microseconds."""
    return timestamp.ToDatetime(tzinfo=UTC)


def time_or_none(message: Message, field: str) -> datetime | None:
    """Return the instant in a message's timestamp field, or None when it is unset."""
    return from_timestamp(getattr(message, field)) if message.HasField(field) else None


def to_duration(length: timedelta) -> Duration:
    """Turn a length of time into its message."""
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def length_or_none(message: Message, field: str) -> timedelta | None:
    """Return the length of time in a message's duration field, or None when it is unset."""
    if not message.HasField(field):
        return None
    length: timedelta = getattr(message, field).ToTimedelta()
    return length


def is_utf8(text: str) -> bool:
    """Tell whether a text can be sent: one that the system gave for bytes that are no UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_form(value: Any) -> Any:
    if isinstance(value, Model):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_ENCODER = json.JSONEncoder(default=_json_form, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _check_levels(value: dict[str, Any]) -> None:
    containers: list[Any] = [value]
    for _ in range(_MOST_STRUCT_LEVELS):
        containers = [
            child
            for container in containers
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
    if containers:
        raise ValueError(f"is more than {_MOST_STRUCT_LEVELS} levels deep")


def _exact_in_double(digits: str) -> int:
    number = int(digits)
    if abs(number) > _LARGEST_EXACT_DOUBLE:
        raise ValueError(f"{digits} is beyond 2^53 and would lose digits")
    return number


def _from_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return from_struct(value.struct_value)
    if kind == "list_value":
        return _from_list(value.list_value)
    if kind == "number_value":
        return _from_number(value.number_value)
    return None if kind in (None, "null_value") else getattr(value, kind)


def _from_list(values: ListValue) -> list[Any]:
    return [_from_value(value) for value in values.values]


def _from_number(number: float) -> int | float:
    if number.is_integer() and abs(number) <= _LARGEST_EXACT_DOUBLE:
        return int(number)
    return number

"""Conversions between JSON, times and their Protobuf messages.

Written out by hand because every job passes through them: google.protobuf.json_format takes 1.5 times as long to
read a Struct and 3 times as long to fill one.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NullValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# 10,000 years, what Protobuf allows.
_MOST_SECONDS = 315_576_000_000
# Whole doubles below this are written as integers, and fit what JSON readers take for one (64 bits, signed).
_INTEGER_LIMIT = 2.0**63


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """Return what a Struct holds; whole numbers as int. Raises ValueError when it holds NaN or an infinity."""
    return {key: _read(value) for key, value in struct.fields.items()}


def dict_to_struct(mapping: Mapping[str, Any]) -> Struct:
    """Return a Struct that holds `mapping`, which is made of what JSON is made of.

    Numbers become doubles. Raises TypeError for other values, OverflowError for an int that no double can hold.
    """
    struct = Struct()
    fields = struct.fields
    for key, value in mapping.items():
        _write(fields[key], value)
    return struct


def json_to_struct(text: str | bytes) -> Struct:
    """Return a Struct that holds the JSON object in `text`. Raises ValueError when it is none."""
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 (the text is wrong, not its type)
    return dict_to_struct(value)


def timestamp_to_datetime(timestamp: Timestamp) -> datetime:
    """Return the time in UTC, cut to microseconds. Raises OverflowError outside of the years 1 to 9999."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def datetime_to_timestamp(time: datetime) -> Timestamp:
    """Return the timestamp of an aware datetime."""
    seconds, microseconds = divmod((time - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=microseconds * 1000)


def duration_to_timedelta(duration: Duration) -> timedelta:
    """Return the length, cut to microseconds. Raises ValueError when it is none that Protobuf allows."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MOST_SECONDS or abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise ValueError("is no duration")
    return timedelta(seconds=seconds, microseconds=int(nanos / 1000))


def timedelta_to_duration(length: timedelta) -> Duration:
    """Return the duration of a length."""
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def _read(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "struct_value":
        return {key: _read(item) for key, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_read(item) for item in value.list_value.values]
    if kind == "bool_value":
        return value.bool_value
    return None


def _number(number: float) -> float:
    if number.is_integer():
        return int(number) if -_INTEGER_LIMIT < number < _INTEGER_LIMIT else number
    if not math.isfinite(number):
        raise ValueError("holds NaN or an infinity, which JSON cannot express")
    return number


def _write(target: Value, value: Any) -> None:
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif value is None:
        target.null_value = NullValue.NULL_VALUE
    elif isinstance(value, Mapping):
        target.struct_value.SetInParent()
        fields = target.struct_value.fields
        for key, item in value.items():
            _write(fields[key], item)
    elif isinstance(value, Sequence):
        target.list_value.SetInParent()
        add = target.list_value.values.add
        for item in value:
            _write(add(), item)
    else:
        raise TypeError(f"{type(value).__name__} is no JSON value")

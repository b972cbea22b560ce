import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_runtime.struct_json import (
    datetime_to_timestamp,
    dict_to_struct,
    json_to_struct,
    struct_to_dict,
    timestamp_to_datetime,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
OBJECTS = st.dictionaries(
    st.text(),
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10),
)


@settings(max_examples=50)
@given(OBJECTS)
def test_what_goes_in_comes_out(value: dict[str, Any]) -> None:
    struct = dict_to_struct(value)
    assert struct_to_dict(struct) == value
    assert json_to_struct(json.dumps(value)) == struct


@settings(max_examples=50)
@given(OBJECTS)
def test_it_agrees_with_protobuf(value: dict[str, Any]) -> None:
    expected = json_format.ParseDict(value, Struct())
    assert dict_to_struct(value) == expected
    assert struct_to_dict(expected) == json_format.MessageToDict(expected)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, "3"),
        (-(2.0**60), "-1152921504606846976"),
        (2.0**63, "9.223372036854776e+18"),
        (0.5, "0.5"),
        (-0.0, "0"),
    ],
)
def test_whole_numbers_are_written_as_integers(number: float, text: str) -> None:
    assert json.dumps(struct_to_dict(dict_to_struct({"n": number}))) == f'{{"n": {text}}}'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_express_is_refused(number: float) -> None:
    struct = dict_to_struct({"deep": [{"n": number}]})
    with pytest.raises(ValueError, match="NaN or an infinity"):
        struct_to_dict(struct)


@pytest.mark.parametrize("text", ["[]", "1", "null", "{", "", '{"a": NaN}'])
def test_only_objects_become_structs(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        json_to_struct(text)


def test_other_values_are_refused() -> None:
    with pytest.raises(TypeError, match="datetime"):
        dict_to_struct({"at": datetime.now(UTC)})


def test_a_value_without_a_kind_reads_as_null() -> None:
    struct = Struct()
    struct.fields["a"].Clear()
    assert struct_to_dict(struct) == {"a": None}


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_survive(time: datetime) -> None:
    timestamp = datetime_to_timestamp(time)
    expected = Timestamp()
    expected.FromDatetime(time)
    assert timestamp == expected
    assert timestamp_to_datetime(timestamp) == time


def test_times_of_other_zones_are_the_same_instant() -> None:
    time = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp_to_datetime(datetime_to_timestamp(time)) == datetime(2026, 7, 1, 10, tzinfo=UTC)

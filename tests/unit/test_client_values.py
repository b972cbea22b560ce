import dataclasses
import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from millrace_client.values import encode_object, from_struct, from_timestamp, to_struct, to_timestamp

WHOLE_NUMBERS = st.integers(min_value=-(2**53), max_value=2**53)
TEXT = st.text(st.characters(blacklist_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | WHOLE_NUMBERS | TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=10,
)


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    colour: Colour


class Line(BaseModel):
    start: str
    length: float = 1.5


@given(st.dictionaries(TEXT, JSON_VALUES, max_size=4))
def test_what_goes_into_a_struct_comes_out_of_it(value: dict[str, Any]) -> None:
    assert from_struct(to_struct(value)) == value


def test_whole_numbers_come_back_as_integers() -> None:
    assert (
        json.dumps(from_struct(to_struct({"a": 3, "b": 2.5, "c": [10.0]}))) == '{"a": 3, "b": 2.5, "c": [10]}'
    )


def test_a_number_beyond_what_doubles_hold_is_refused_in_a_struct_and_kept_in_an_input() -> None:
    with pytest.raises(ValueError, match="beyond 2\\^53"):
        to_struct({"serial": 2**53 + 1})
    assert encode_object({"serial": 2**80}) == b'{"serial":1208925819614629174706176}'


def test_dataclasses_models_and_mappings_are_objects() -> None:
    moment = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    identity = uuid.UUID(int=1)
    assert encode_object(Point(1, Colour.RED)) == b'{"x":1,"colour":"red"}'
    assert encode_object(Line(start="a")) == b'{"start":"a","length":1.5}'
    assert encode_object(
        MappingProxyType({"at": moment, "id": identity, "points": (Point(1, Colour.RED),)})
    ) == (
        b'{"at":"2026-11-24T09:30:00+00:00","id":"00000000-0000-0000-0000-000000000001",'
        b'"points":[{"x":1,"colour":"red"}]}'
    )


@pytest.mark.parametrize("value", [[1], "text", 3, None])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a mapping"):
        encode_object(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_object({"number": number})


@pytest.mark.parametrize("levels", [33, 300, 900])
def test_what_is_deeper_than_a_struct_can_be_read_is_refused(levels: int) -> None:
    def nested(levels: int) -> Any:
        return json.loads('{"a":' * levels + "1" + "}" * levels)

    assert from_struct(to_struct(nested(32))) == nested(32)
    with pytest.raises(ValueError, match="more than 32 levels deep"):
        to_struct(nested(levels))


def test_what_has_no_json_form_is_refused_by_its_type() -> None:
    with pytest.raises(TypeError, match="a bytes has no JSON form"):
        encode_object({"content": b"abc"})


def test_times_keep_their_instant_and_need_a_zone() -> None:
    local = datetime(2026, 11, 24, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    timestamp = to_timestamp(local)
    assert timestamp is not None
    assert from_timestamp(timestamp) == local
    with pytest.raises(ValueError, match="has no time zone"):
        to_timestamp(local.replace(tzinfo=None))

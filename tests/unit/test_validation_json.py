"""Which JSON texts a caller may send, and that Postgres and Protobuf can hold every one of them."""

import json
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_runtime.json_document import MAX_JSON_DEPTH, parse_json_object
from millrace_runtime.struct_json import json_to_struct


def _parse(text: str) -> str:
    return parse_json_object(text.encode(), max_bytes=1 << 20).text


def _nested(levels: int, *, lists: bool) -> str:
    inner = levels - 1
    return '{"a":' + ("[" * inner + "]" * inner if lists else '{"a":' * inner + "1" + "}" * inner) + "}"


@pytest.mark.parametrize("lists", [True, False])
def test_the_deepest_input_can_be_read_from_a_list_of_jobs(lists: bool) -> None:
    struct = json_to_struct(_parse(_nested(MAX_JSON_DEPTH, lists=lists)))
    answer = jobs_service_pb2.ListJobsResponse(jobs=[job_pb2.Job(input=struct)])
    assert jobs_service_pb2.ListJobsResponse.FromString(answer.SerializeToString()) == answer


@pytest.mark.parametrize("lists", [True, False])
def test_a_deeper_input_is_refused(lists: bool) -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_JSON_DEPTH} levels deep"):
        _parse(_nested(MAX_JSON_DEPTH + 1, lists=lists))


@pytest.mark.parametrize("depth", [500, 100_000])
def test_absurd_depth_is_refused_too(depth: int) -> None:
    with pytest.raises(ValueError, match=r"levels deep|is no valid JSON"):
        _parse(_nested(depth, lists=True))


def test_brackets_in_texts_are_no_depth() -> None:
    text = json.dumps({"a": "[{" * 100})
    assert _parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 123456789012345678901234567890}',
        '{"n": 0.1234567890123456789012345678901234567890}',
        '{"n": 1e308}',
        '{"n": 5e-324}',
        '{"s": "1e-99999"}',
        '{"s": "\\\\u0000"}',
        ' {"s": "\\ud83d\\ude00"} ',
        '{"a": 1, "a": 2}',
    ],
)
def test_texts_are_kept_as_they_are(text: str) -> None:
    assert _parse(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no valid JSON"),
        ("nonsense", "no valid JSON"),
        ('{"a": 1} {}', "no valid JSON"),
        ('{"a": NaN}', "no valid JSON"),
        ('{"a": Infinity}', "no valid JSON"),
        ('{"a": 1e400}', "no valid JSON"),
        ('{"s": "\\ud800"}', "no valid JSON"),
        ("null", "must be a JSON object"),
        ('"text"', "must be a JSON object"),
        ('{"s": "\\u0000"}', r"U\+0000"),
        ('{"\\u0000": 1}', r"U\+0000"),
        ('{"a": [{"s": "x\\u0000y"}]}', r"U\+0000"),
        ('{"n": 1e-1001}', "decimal places"),
        ('{"n": 1E-99999999999999999999}', "decimal places"),
        ('{"n": 0.' + "1" * 1001 + "}", "decimal places"),
    ],
)
def test_refused_texts(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _parse(text)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(ValueError, match="no valid JSON"):
        parse_json_object(b'{"a": "\xff"}', max_bytes=100)


@given(
    st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
)
def test_any_flat_object_without_nul_passes(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    if any("\0" in part for item in value.items() for part in item if isinstance(part, str)):
        with pytest.raises(ValueError, match=r"U\+0000"):
            _parse(text)
    elif any(isinstance(item, int) and abs(item) > 10**300 for item in value.values()):
        return
    else:
        assert _parse(text) == text
        assert isinstance(json_to_struct(text), Struct)

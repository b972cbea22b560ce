from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from millrace_database.ids import format_id, new_id
from millrace_runtime.errors import InvalidArgument
from millrace_runtime.struct_json import dict_to_struct
from millrace_runtime.validation import Violations


def _found(violations: Violations) -> dict[str, str]:
    """What was noted, by field."""
    return dict(violations.error().violations)


def test_nothing_found_raises_nothing() -> None:
    violations = Violations()
    violations.raise_if_any()
    assert not violations


def test_all_that_was_found_is_raised_at_once() -> None:
    violations = Violations(prefix="requests[3].")
    violations.check_org_id("")
    violations.check_text("type", "x" * 129, max_length=128)
    with pytest.raises(InvalidArgument) as refusal:
        violations.raise_if_any()
    assert refusal.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.violations == (
        ("requests[3].org_id", "is required"),
        ("requests[3].type", "is 129 characters long, more than 128"),
    )


@pytest.mark.parametrize("value", ["a", "Acme-1_x.y", "x" * 128, "--", "."])
def test_organisations(value: str) -> None:
    violations = Violations()
    assert violations.check_org_id(value) == value
    assert not violations


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a/b", "é", "a\n", "a\0", "-"])
def test_refused_organisations(value: str) -> None:
    violations = Violations()
    violations.check_org_id(value)
    assert list(_found(violations)) == ["org_id"]


def test_all_organisations_where_that_is_allowed() -> None:
    violations = Violations()
    assert violations.check_org_id("-", allow_all=True) == "-"
    assert not violations


def test_texts() -> None:
    violations = Violations()
    assert violations.check_text("a", "ü" * 5, max_length=5) == "ü" * 5
    assert violations.check_text("b", "", max_length=5) == ""
    assert not violations
    violations.check_text("c", "", max_length=5, required=True)
    violations.check_text("d", "123456", max_length=5)
    violations.check_text("e", "a\0b", max_length=5)
    assert list(_found(violations)) == ["c", "d", "e"]


def test_ids() -> None:
    job_id = new_id()
    violations = Violations()
    assert violations.check_id("job_id", format_id("job", job_id), "job") == job_id
    assert not violations


@pytest.mark.parametrize("value", ["", "job_", "job_1", "file_" + "0" * 32, "job_" + "g" * 32, "0" * 32])
def test_refused_ids(value: str) -> None:
    violations = Violations()
    violations.check_id("job_id", value, "job")
    assert list(_found(violations)) == ["job_id"]


def test_ranges() -> None:
    violations = Violations()
    assert [violations.check_range("p", value, -100, 100) for value in (-100, 0, 100)] == [-100, 0, 100]
    assert not violations
    violations.check_range("p", 101, -100, 100)
    assert _found(violations) == {"p": "must be -100 to 100"}


@pytest.mark.parametrize(("given", "used"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes(given: int, used: int) -> None:
    violations = Violations()
    assert violations.check_page_size(given) == used
    assert not violations


def test_a_negative_page_size_is_refused() -> None:
    violations = Violations()
    violations.check_page_size(-1)
    assert _found(violations) == {"page_size": "must not be negative"}


def test_times() -> None:
    violations = Violations()
    first = violations.check_timestamp("a", Timestamp(seconds=-62_135_596_800))
    last = violations.check_timestamp("b", Timestamp(seconds=253_402_300_799, nanos=999_999_999))
    assert first == datetime(1, 1, 1, tzinfo=UTC)
    assert last == datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert not violations


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-62_135_596_801, 0), (253_402_300_800, 0), (2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 1_000_000_000)],
)
def test_refused_times(seconds: int, nanos: int) -> None:
    violations = Violations()
    violations.check_timestamp("run_at", Timestamp(seconds=seconds, nanos=nanos))
    assert list(_found(violations)) == ["run_at"]


def test_json_objects() -> None:
    violations = Violations()
    sent = violations.check_json("input_json", b'{"n": 12345678901234567890123}', max_bytes=100)
    struct = violations.check_struct("input", dict_to_struct({"n": [1.5, None]}), max_bytes=100)
    assert not violations
    assert sent.text == '{"n": 12345678901234567890123}'
    assert (struct.text, struct.value) == ('{"n":[1.5,null]}', {"n": [1.5, None]})


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def test_json_that_is_refused_names_the_field() -> None:
    violations = Violations()
    violations.check_json("a", b"[]", max_bytes=100)
    violations.check_json("b", b'{"a": 1}', max_bytes=7)
    violations.check_struct("c", dict_to_struct(_nested(33)), max_bytes=1000)
    violations.check_struct("d", dict_to_struct({"x\0": 1}), max_bytes=100)
    violations.check_struct("e", dict_to_struct({"x": float("nan")}), max_bytes=100)
    violations.check_struct("f", Struct(), max_bytes=2)
    assert _found(violations) == {
        "a": "must be a JSON object",
        "b": "is 8 bytes of JSON, more than 7",
        "c": "is more than 32 levels deep",
        "d": "holds the character U+0000, which cannot be stored",
        "e": "holds NaN or an infinity, which JSON cannot express",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Duration(seconds=1), timedelta(seconds=1)),
        (Duration(seconds=86_400), timedelta(days=1)),
        (Duration(seconds=1, nanos=500_000_999), timedelta(seconds=1, microseconds=500_000)),
    ],
)
def test_durations(value: Duration, expected: timedelta) -> None:
    violations = Violations()
    assert violations.check_duration("period", value, timedelta(seconds=1), timedelta(days=1)) == expected
    assert not violations


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (Duration(), "must be 1 s to 1 day"),
        (Duration(nanos=999_999_999), "must be 1 s to 1 day"),
        (Duration(seconds=86_400, nanos=1000), "must be 1 s to 1 day"),
        (Duration(seconds=-5, nanos=-5), "must be 1 s to 1 day"),
        (Duration(seconds=2, nanos=-1), "has seconds and nanos that are no duration"),
        (Duration(nanos=1_000_000_000), "has seconds and nanos that are no duration"),
        (Duration(seconds=2**63 - 1), "has seconds and nanos that are no duration"),
    ],
)
def test_wrong_durations(value: Duration, description: str) -> None:
    violations = Violations()
    violations.check_duration("period", value, timedelta(seconds=1), timedelta(days=1))
    assert _found(violations) == {"period": description}

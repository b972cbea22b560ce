import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_runtime.errors import InvalidArgument
from millrace_runtime.paging import decode_page_token, encode_page_token, last_number

FILTERS = {"org_id": "acme", "statuses": ["failed", "pending"], "created_by": ""}
VALUES: list[str | int] = ["0190c0f2e5a87c3e8f00000000000001", 42]


def _refused(token: str, filters: dict[str, Any] = FILTERS) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        decode_page_token(token, filters)
    assert [violation.field for violation in refusal.value.violations] == ["page_token"]


def test_the_empty_token_is_the_first_page() -> None:
    assert decode_page_token("", FILTERS) is None


@given(st.lists(st.text() | st.integers(-(2**63), 2**63 - 1)))
def test_a_token_gives_back_its_values(values: list[str | int]) -> None:
    token = encode_page_token(values, FILTERS)
    assert token.isascii()
    assert decode_page_token(token, FILTERS) == values


def test_the_order_of_filters_does_not_matter() -> None:
    token = encode_page_token(VALUES, FILTERS)
    assert decode_page_token(token, dict(reversed(FILTERS.items()))) == VALUES


@pytest.mark.parametrize(
    "filters",
    [{**FILTERS, "org_id": "other"}, {**FILTERS, "statuses": ["failed"]}, {}, {**FILTERS, "new": 1}],
)
def test_other_filters_are_refused(filters: dict[str, Any]) -> None:
    _refused(encode_page_token(VALUES, FILTERS), filters)


@given(st.text(min_size=1))
def test_garbage_is_refused(token: str) -> None:
    _refused(token)


@given(st.recursive(st.none() | st.booleans() | st.integers(0, 9) | st.text(), st.lists))
def test_other_json_is_refused(content: Any) -> None:
    _refused(base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode() or "A")


@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = encode_page_token(VALUES, FILTERS)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    _refused(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


def test_a_huge_token_is_refused() -> None:
    _refused(encode_page_token(["x" * 3000], FILTERS))


@pytest.mark.parametrize("number", [-(2**63), 0, 2**63 - 1])
def test_a_page_begins_behind_a_number(number: int) -> None:
    assert last_number(encode_page_token([number], FILTERS), FILTERS) == number
    assert last_number("", FILTERS) is None


@pytest.mark.parametrize("values", [[], [1, 2], ["1"], [2**63]])
def test_what_is_no_number_of_64_bits_is_refused(values: list[str | int]) -> None:
    with pytest.raises(InvalidArgument):
        last_number(encode_page_token(values, FILTERS), FILTERS)

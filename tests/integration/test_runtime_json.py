"""What a caller may send as JSON can be stored: Postgres takes everything that the runtime lets through."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace_database.database import Database
from millrace_runtime.json_document import MAX_JSON_DEPTH, parse_json_object


def _accepted(text: str) -> str:
    return parse_json_object(text.encode(), max_bytes=1 << 20).text


async def _stored(database: Database, text: str) -> str:
    async with database.connection() as connection:
        stored: str = await connection.fetchval("SELECT $1::jsonb", text)
    return stored


def _content(text: str) -> Any:
    # Postgres writes 1e3 as 1000, which is the same number.
    return json.loads(text, parse_int=float)


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1e308, "m": -1.7976931348623157e308}',
        '{"n": 5e-324, "m": 1e-999}',
        '{"n": ' + "1" * 308 + "}",
        '{"n": 0.' + "1" * 999 + "}",
        '{"a": ' + "[" * (MAX_JSON_DEPTH - 1) + "]" * (MAX_JSON_DEPTH - 1) + "}",
        '{"": {"": "\\ud83d\\ude00"}}',
        '{"s": "\\\\u0000 \\u0001"}',
    ],
)
async def test_the_extremes_that_are_let_through_can_be_stored(database: Database, text: str) -> None:
    assert _content(await _stored(database, _accepted(text))) == _content(text)


async def test_numbers_keep_all_their_digits(database: Database) -> None:
    digits = "12345678901234567890.123456789012345678901234567890"
    text = f'{{"n": {digits}}}'
    assert await _stored(database, _accepted(text)) == text


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            st.lists,
            max_leaves=5,
        ),
    )
)
async def test_whatever_is_let_through_can_be_stored(database: Database, content: dict[str, Any]) -> None:
    try:
        text = _accepted(json.dumps(content))
    except ValueError:
        return
    assert _content(await _stored(database, text)) == _content(text)

import json

import pytest

from millrace_worker.handlers.jsonl_rows import JsonlRows
from millrace_worker.handlers.line_splitting import LineSplitter
from millrace_worker.handlers.parsed_rows import MAX_ROW_BYTES, RejectedRow


def read(content: bytes) -> tuple[JsonlRows, list[str | RejectedRow]]:
    rows = JsonlRows()
    return rows, list(rows.parse(LineSplitter().split(content, last=True), last=True))


def only_reason(content: bytes) -> str:
    _, found = read(content)
    assert len(found) == 1
    assert isinstance(found[0], RejectedRow)
    return found[0].reason


def test_keeps_objects_as_they_are() -> None:
    lines = ['{"a": 1, "b": [1, {"c": null}]}', '{"b": 12345678901234567890123, "d": "ü\\n"}']
    rows, found = read("\n".join(lines).encode())
    assert found == lines
    assert rows.columns == ["a", "b", "d"]


def test_skips_white_space_and_counts_lines() -> None:
    _, found = read(b'\xef\xbb\xbf{"a":1}\r\n\r\n  \nnope\n{"a":2}')
    assert [row for row in found if isinstance(row, str)] == ['{"a":1}', '{"a":2}']
    assert [row.line for row in found if isinstance(row, RejectedRow)] == [4]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": 1e999}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": 1} {"a": 2}', "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": "caf\xe9"}', "not valid UTF-8"),
        (b'{"a": "\\u0000"}', "has a NUL character"),
        (b'{"a": "\\\\\\u0000"}', "has a NUL character"),
        (b'{"a": "' + b"x" * MAX_ROW_BYTES + b'"}', "longer than 1,048,576 bytes"),
        (('{"' + "ü" * 128 + '": 1}').encode(), "a key is longer than 255 bytes"),
        (json.dumps({str(number): 1 for number in range(1_001)}).encode(), "more than 1,000 columns"),
    ],
)
def test_rejects_what_is_no_row(line: bytes, reason: str) -> None:
    assert reason in only_reason(line)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    line = '{"a": "\\\\u0000"}'
    assert read(line.encode())[1] == [line]


def test_a_rejected_row_adds_no_columns() -> None:
    rows, _ = read(b'{"a": 1}\n{"b": "\\u0000"}\n')
    assert rows.columns == ["a"]

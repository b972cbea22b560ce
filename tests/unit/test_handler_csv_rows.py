import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_worker.handlers.csv_rows import CsvRows
from millrace_worker.handlers.line_splitting import LineSplitter
from millrace_worker.handlers.parsed_rows import MAX_ROW_BYTES, RejectedRow, UnreadableFileError


def read(
    content: bytes, *, delimiter: str = ",", block: int = 1 << 20
) -> tuple[CsvRows, list[str | RejectedRow]]:
    """Everything in `content`, as it arrives in blocks of the given size."""
    rows, splitter = CsvRows(delimiter), LineSplitter()
    found: list[str | RejectedRow] = []
    for start in range(0, len(content), block):
        found += rows.parse(splitter.split(content[start : start + block], last=False), last=False)
    found += rows.parse(splitter.split(b"", last=True), last=True)
    return rows, found


def loaded(content: bytes, *, block: int = 1 << 20) -> list[dict[str, str]]:
    _, found = read(content, block=block)
    return [json.loads(row) for row in found if isinstance(row, str)]


def rejected(content: bytes) -> list[tuple[int, str]]:
    _, found = read(content)
    return [(row.line, row.reason) for row in found if isinstance(row, RejectedRow)]


def test_reads_quoted_fields_with_delimiters_quotes_and_line_ends() -> None:
    content = b'name,note\r\n"Smith, Jane","said ""hi""\nand left"\r\nBob,\r\n'
    assert loaded(content) == [
        {"name": "Smith, Jane", "note": 'said "hi"\nand left'},
        {"name": "Bob", "note": ""},
    ]


def test_keeps_values_as_the_texts_they_are() -> None:
    assert loaded("code,größe\n007,  1.50 \n".encode()) == [{"code": "007", "größe": "  1.50 "}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_and_a_missing_last_one(end: str) -> None:
    content = end.join(["a,b", "1,2", "3,4"]).encode()
    assert loaded(content) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_another_delimiter() -> None:
    _, found = read(b'a;b\n"1;1";2,5\n', delimiter=";")
    assert found == ['{"a":"1;1","b":"2,5"}']


def test_drops_a_byte_order_mark_and_trims_names_in_the_header() -> None:
    rows, _ = read(b"\xef\xbb\xbf a , b\n1,2\n")
    assert rows.columns == ["a", "b"]


def test_skips_empty_lines() -> None:
    assert loaded(b"\n\na,b\n\n1,2\n\n\n") == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_the_size_of_blocks_does_not_matter(block: int) -> None:
    content = '\ufeffa,b\r\n"x\r\ny","ü"\r\n,""\r\n"""",z'.encode()
    assert loaded(content, block=block) == loaded(content)
    assert loaded(content) == [{"a": "x\r\ny", "b": "ü"}, {"a": "", "b": ""}, {"a": '"', "b": "z"}]


def test_a_wrong_number_of_fields_rejects_one_row() -> None:
    content = b"a,b\n1,2\n1\n1,2,3\n3,4\n"
    assert loaded(content) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert rejected(content) == [
        (3, "number of fields: 1 instead of 2"),
        (4, "number of fields: 3 instead of 2"),
    ]


def test_bytes_that_are_no_utf_8_and_nul_reject_one_row_even_inside_quotes() -> None:
    content = b'a,b\n1,caf\xe9\n"x\n\xff\ny",2\n3,\x00\n4,ok\n'
    assert loaded(content) == [{"a": "4", "b": "ok"}]
    assert rejected(content) == [(2, "not valid UTF-8"), (3, "not valid UTF-8"), (6, "has a NUL character")]


def test_a_quote_that_is_never_closed_costs_one_row() -> None:
    content = b'a,b\n1,2\n"3,4\n5,6\n7,8\n'
    assert loaded(content) == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}, {"a": "7", "b": "8"}]
    assert [line for line, _ in rejected(content)] == [3]


def test_a_quote_closed_only_by_a_later_row_costs_one_row() -> None:
    content = b'a,b\n"3,4\n5,6\n7,8\n"9 nine",10\n11,12\n'
    assert [row["a"] for row in loaded(content)] == ["5", "7", "9 nine", "11"]
    assert [line for line, _ in rejected(content)] == [2]


def test_a_row_that_is_too_long_is_rejected_and_reading_goes_on() -> None:
    content = b"a,b\n1,2\n" + b"x" * (3 * MAX_ROW_BYTES) + b",y\n3,4\n"
    assert loaded(content) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert rejected(content) == [(3, "longer than 1,048,576 bytes")]


def test_a_row_of_nearly_the_longest_length_is_loaded() -> None:
    value = "x" * (MAX_ROW_BYTES - 10)
    assert loaded(f'a,b\n"{value}",2\n'.encode(), block=1 << 16) == [{"a": value, "b": "2"}]


def test_quotes_left_open_in_every_line_are_read_in_bounded_time() -> None:
    # Each line closes the quote that the line before opened, and opens the next one.
    content = b"a,b\n" + b'x",a"b,"\n' * 400_000
    _, found = read(content)
    assert all(isinstance(row, RejectedRow) for row in found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n\r\n", "the file is empty"),
        (b"a,,c\n1,2,3\n", "column 2 has no name"),
        (b"a, ,c\n1,2,3\n", "column 2 has no name"),
        (b"a,b,a\n1,2,3\n", 'two columns are named "a"'),
        (b"a,b,a \n1,2,3\n", 'two columns are named "a"'),
        (b"a,\xff\n1,2\n", "the header row cannot be read: not valid UTF-8"),
        (b'a,"b"c\n1,2\n', "the header row cannot be read: not valid CSV"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        (b",".join(b"%d" % number for number in range(1_001)) + b"\n", "1,001 columns"),
        ("ü".encode() * 128 + b"\n1\n", "longer than 255 bytes"),
    ],
)
def test_refuses_a_file_without_a_proper_header(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFileError, match=reason):
        read(content)


_FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(rows=st.lists(st.tuples(_FIELD, _FIELD), max_size=12), seed=st.integers())
def test_what_was_written_comes_back(rows: list[tuple[str, str]], seed: int) -> None:
    quoted = [",".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    content = "\r\n".join(["a,b", *quoted]).encode()
    rows_read, splitter = CsvRows(), LineSplitter()
    found: list[str | RejectedRow] = []
    for block, last in _random_blocks(content, random.Random(seed)):  # noqa: S311 - chooses sizes of blocks
        found += rows_read.parse(splitter.split(block, last=last), last=last)
    assert [tuple(json.loads(row).values()) for row in found if isinstance(row, str)] == rows
    assert len(found) == len(rows)


def _random_blocks(content: bytes, chance: random.Random) -> Iterator[tuple[bytes, bool]]:
    while content:
        size = chance.randint(1, 10)
        yield content[:size], False
        content = content[size:]
    yield b"", True

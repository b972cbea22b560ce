import csv
from collections.abc import Iterator

import orjson

from millrace_worker.handlers.parsed_rows import (
    MAX_COLUMN_NAME,
    MAX_COLUMNS,
    MAX_ROW_BYTES,
    RejectedRow,
    UnreadableFileError,
    too_long,
)

# How much may be read a second time, in all, to lose only one row to a quote that is never closed. A limit,
# because a file made for it could have every line read again together with the megabyte behind it.
_MAX_REREAD_BYTES = 16 << 20


class CsvRows:
    """Reads CSV (RFC 4180) with a header row; values stay the texts they are.

    A line without any character is skipped. Where quotes are malformed or never closed, the line that the row
    begins on is rejected and reading goes on with the next line.
    """

    def __init__(self, delimiter: str = ",") -> None:
        # The limit is one for the whole process, and by default less than a row may have here.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
        self._lines = _LineSource()
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        self._columns: list[str] = []

    @property
    def columns(self) -> list[str]:
        """The names in the header row; empty before it was read."""
        return self._columns

    def parse(self, lines: list[bytes | None], *, last: bool) -> Iterator[str | RejectedRow]:
        """As RowParser.parse. Raises UnreadableFileError when there is no proper header row."""
        self._lines.add(lines, last=last)
        while (record := self._next_record()) is not None:
            if not self._columns:
                self._columns = _header(record)
            elif isinstance(record, RejectedRow):
                yield record
            elif len(record) != len(self._columns):
                reason = f"number of fields: {len(record)} instead of {len(self._columns)}"
                yield RejectedRow(self._lines.record_line, reason)
            else:
                yield orjson.dumps(dict(zip(self._columns, record, strict=True))).decode()
        if last and not self._columns:
            raise UnreadableFileError("the file is empty; a header row is required")

    def _next_record(self) -> list[str] | RejectedRow | None:
        lines = self._lines
        while True:
            lines.begin_record()
            try:
                fields = next(self._reader)
            except StopIteration:
                return None
            except _OutOfLinesError:
                lines.put_back_record()
                return None
            except _TooLongError:
                rejected = too_long(lines.record_line)
            except csv.Error as error:
                rejected = RejectedRow(lines.record_line, f"not valid CSV: {error}")
            else:
                if lines.problem:
                    return RejectedRow(lines.record_line, lines.problem)
                if fields:
                    return fields
                continue
            lines.put_back_all_but_first_line()
            return rejected


def _header(record: list[str] | RejectedRow) -> list[str]:
    if isinstance(record, RejectedRow):
        raise UnreadableFileError(f"the header row cannot be read: {record.reason}")
    names = [name.strip() for name in record]
    if len(names) > MAX_COLUMNS:
        raise UnreadableFileError(f"{len(names):,} columns; at most {MAX_COLUMNS:,} can be loaded")
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name:
            raise UnreadableFileError(f"column {number} has no name in the header row")
        if len(name.encode()) > MAX_COLUMN_NAME:
            raise UnreadableFileError(f"the name of column {number} is longer than {MAX_COLUMN_NAME} bytes")
        if name in seen:
            raise UnreadableFileError(f'two columns are named "{name}" in the header row')
        seen.add(name)
    return names


class _OutOfLinesError(Exception):
    """The record needs lines that have not arrived yet."""


class _TooLongError(Exception):
    """The record is longer than a row may be."""


class _LineSource:
    """The lines csv.reader pulls, remembering those of the record that is being read."""

    def __init__(self) -> None:
        self._lines: list[bytes | None] = []
        self._lines_before = 0
        self._last = False
        self._first = 0
        self._next = 0
        self._record_bytes = 0
        self._reread_left = _MAX_REREAD_BYTES
        self.problem = ""

    @property
    def record_line(self) -> int:
        """The line of the file that the record begins on, from 1."""
        return self._lines_before + self._first + 1

    def add(self, lines: list[bytes | None], *, last: bool) -> None:
        self._lines_before += self._next
        self._lines = self._lines[self._next :] + lines
        self._next = 0
        self._last = last

    def begin_record(self) -> None:
        self._first = self._next
        self._record_bytes = 0
        self.problem = ""

    def put_back_record(self) -> None:
        self._next = self._first

    def put_back_all_but_first_line(self) -> None:
        if self._next - self._first > 1 and self._record_bytes <= self._reread_left:
            self._reread_left -= self._record_bytes
            self._next = self._first + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._next == len(self._lines):
            if self._last:
                raise StopIteration
            raise _OutOfLinesError
        line = self._lines[self._next]
        self._next += 1
        if line is None:
            raise _TooLongError
        self._record_bytes += len(line)
        if self._record_bytes > MAX_ROW_BYTES:
            raise _TooLongError
        if b"\0" in line:
            self.problem = "has a NUL character"
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.problem = "not valid UTF-8"
            # Quotes and delimiters are still where they were, so that the record ends where it should.
            return line.decode(errors="surrogateescape")

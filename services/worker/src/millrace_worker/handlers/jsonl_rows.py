import re
from collections.abc import Iterator

import orjson

from millrace_worker.handlers.parsed_rows import MAX_COLUMN_NAME, MAX_COLUMNS, RejectedRow, too_long

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class JsonlRows:
    """Reads JSON Lines: an object on each line; lines of white space are skipped."""

    def __init__(self) -> None:
        self._columns: dict[str, None] = {}
        self._line = 0

    @property
    def columns(self) -> list[str]:
        """The keys of the objects read so far, in the order they appeared."""
        return list(self._columns)

    def parse(self, lines: list[bytes | None], *, last: bool) -> Iterator[str | RejectedRow]:  # noqa: ARG002 - RowParser's signature
        """As RowParser.parse; every line is complete by itself."""
        for line in lines:
            self._line += 1
            if line is None:
                yield too_long(self._line)
            elif line.strip():
                try:
                    yield self._row(line)
                except ValueError as error:
                    yield RejectedRow(self._line, str(error))

    def _row(self, line: bytes) -> str:
        """Return the object's text. Raises ValueError saying why it cannot be loaded."""
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise ValueError("not valid UTF-8") from None
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - the text is wrong, not a type of ours
        if _ESCAPED_NUL.search(text):
            raise ValueError("has a NUL character")
        self._add_columns(row)
        return text.strip()

    def _add_columns(self, row: dict[str, object]) -> None:
        new = [name for name in row if name not in self._columns]
        if not new:
            return
        if len(self._columns) + len(new) > MAX_COLUMNS:
            raise ValueError(f"its keys would make more than {MAX_COLUMNS:,} columns")
        if any(len(name.encode()) > MAX_COLUMN_NAME for name in new):
            raise ValueError(f"a key is longer than {MAX_COLUMN_NAME} bytes")
        self._columns.update(dict.fromkeys(new))

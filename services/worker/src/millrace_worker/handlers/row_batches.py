from collections.abc import Iterator
from dataclasses import dataclass, field

from millrace_database.datasets_repository import NewRow
from millrace_worker.handlers.parsed_rows import RejectedRow, RowParser

_MAX_ROWS = 10_000
_MAX_CHARACTERS = 2 << 20


@dataclass(slots=True)
class RowBatch:
    """Rows to be written together, and what was rejected between them with the number of each row."""

    rows: list[NewRow] = field(default_factory=list)
    rejected: list[tuple[int, RejectedRow]] = field(default_factory=list)
    last_row: int = 0


class RowBatcher:
    """Numbers the rows of a file from 1 and gathers them into batches, without the first `skip` ones."""

    def __init__(self, parser: RowParser, *, skip: int) -> None:
        self._parser = parser
        self._skip = skip
        self._row = 0
        self._batch = RowBatch()
        self._characters = 0

    @property
    def rows_read(self) -> int:
        """How many rows the file has up to where it has been read, with those that are still gathered."""
        return self._row

    def batches(self, lines: list[bytes | None], *, last: bool) -> Iterator[RowBatch]:
        """Yield the batches that are full with these lines; with the `last` ones, all that is left.

        Raises UnreadableFileError.
        """
        for parsed in self._parser.parse(lines, last=last):
            self._row += 1
            if self._row <= self._skip:
                continue
            self._add(parsed)
            rows = len(self._batch.rows) + len(self._batch.rejected)
            if rows >= _MAX_ROWS or self._characters >= _MAX_CHARACTERS:
                yield self._take()
        if last:
            yield self._take()

    def _add(self, parsed: str | RejectedRow) -> None:
        if isinstance(parsed, RejectedRow):
            self._batch.rejected.append((self._row, parsed))
        else:
            self._batch.rows.append(NewRow(self._row, parsed))
            self._characters += len(parsed)

    def _take(self) -> RowBatch:
        taken = self._batch
        taken.last_row = self._row
        self._batch = RowBatch()
        self._characters = 0
        return taken

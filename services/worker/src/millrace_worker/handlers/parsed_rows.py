from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_ROW_BYTES = 1 << 20
MAX_COLUMNS = 1_000
MAX_COLUMN_NAME = 255  # bytes


class UnreadableFileError(Exception):
    """The file as a whole cannot be read as what it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be loaded: why, and the line of the file it begins on, from 1."""

    line: int
    reason: str


class RowParser(Protocol):
    """Turns the lines of a file into rows, one call of `parse` after the other."""

    @property
    def columns(self) -> list[str]:
        """The columns seen so far, in their order."""

    def parse(self, lines: list[bytes | None], *, last: bool) -> Iterator[str | RejectedRow]:
        """Yield rows as texts of JSON objects, in order, and rows that cannot be loaded between them.

        `lines` follow those of the call before, with their ends; None stands for a line longer than
        MAX_ROW_BYTES. A row that is not complete yet waits for the next call unless this is the `last`.
        Raises UnreadableFileError.
        """


def too_long(line: int) -> RejectedRow:
    """Reject a row longer than MAX_ROW_BYTES."""
    return RejectedRow(line, f"longer than {MAX_ROW_BYTES:,} bytes")

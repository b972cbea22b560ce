from collections.abc import Callable
from pathlib import Path
from typing import Literal

import polars as pl
from fpdf import FPDF
from fpdf.enums import XPos, YPos

from millrace_worker.handlers.report_table import InvalidReportError

_MAX_ROWS = 20_000
_MAX_COLUMNS = 20
_COLUMNS_UPRIGHT = 5

_ENCODING = "windows-1252"
_LINE = 5.0  # millimetres
_TEXT_SIZE = 8  # points
_TITLE_SIZE = 14  # points
_NARROWEST = 10.0  # millimetres
_PADDING = 2.0  # millimetres
_MAX_CELL = 300  # characters; wider than any page
_ROWS_FOR_WIDTH = 200
_ROWS_BETWEEN_CALLS = 100
_ELLIPSIS = "…"


def render_pdf(table: pl.DataFrame, path: Path, title: str, on_rows: Callable[[int], None]) -> None:
    """Write a table on A4 pages, the header on each, numbered "page / pages".

    The built-in fonts know the characters of Windows-1252 only: any other is shown as "?", and the last page
    says so. A text wider than its column ends with "…". Raises InvalidReportError when the table is too large.
    """
    if table.height > _MAX_ROWS or table.width > _MAX_COLUMNS:
        raise InvalidReportError(
            f"{table.height:,} rows of {table.width:,} columns; a pdf holds {_MAX_ROWS:,} rows and {_MAX_COLUMNS} columns:"
            " use limit and columns, or another format"
        )
    texts = [_Column(table[name]) for name in table.columns]
    document = _Document(title, texts)
    for row in range(table.height):
        document.add_row(row)
        if (row + 1) % _ROWS_BETWEEN_CALLS == 0 or row + 1 == table.height:
            on_rows(row + 1)
    if any(column.is_incomplete for column in texts) or not _is_encodable(title):
        document.add_note('Characters that this font cannot show are written as "?".')
    document.output(str(path))


def _is_encodable(text: str) -> bool:
    return text.encode(_ENCODING, errors="replace").decode(_ENCODING) == text


def _encodable(text: str) -> str:
    return text.encode(_ENCODING, errors="replace").decode(_ENCODING)


class _Column:
    """A column as texts that the font can show, each on one line."""

    def __init__(self, column: pl.Series) -> None:
        original = [" ".join(text.split()) for text in [column.name, *_as_texts(column)]]
        shown = [_encodable(text[:_MAX_CELL]) for text in original]
        self.name, *self.values = shown
        self.align = "R" if column.dtype.is_numeric() else "L"
        self.is_incomplete = any(
            before[:_MAX_CELL] != after for before, after in zip(original, shown, strict=True)
        )


def _as_texts(column: pl.Series) -> list[str]:
    return column.cast(pl.String).fill_null("").to_list()


class _Document(FPDF):
    """The pages, with the header of the table on top of each."""

    def __init__(self, title: str, columns: list[_Column]) -> None:
        super().__init__(
            orientation="portrait" if len(columns) <= _COLUMNS_UPRIGHT else "landscape", format="A4"
        )
        self.core_fonts_encoding = _ENCODING
        self._columns = columns
        self.set_title(title)
        self.set_auto_page_break(auto=True, margin=15)
        self.set_font("Helvetica", size=_TEXT_SIZE)
        self._widths = self._fitting_widths()
        self._heading = _encodable(" ".join(title.split()))
        self.add_page()

    def header(self) -> None:
        """Begin a page with the header; called by fpdf."""
        if self.page_no() == 1:
            self.set_font("Helvetica", style="B", size=_TITLE_SIZE)
            self.cell(0, 2 * _LINE, self._heading, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_font("Helvetica", style="B", size=_TEXT_SIZE)
        self.set_fill_color(217, 226, 243)
        self._add_cells([column.name for column in self._columns], border="B", fill=True)

    def footer(self) -> None:
        """End a page with its number; called by fpdf."""
        self.set_y(-12)
        self.set_font("Helvetica", size=_TEXT_SIZE)
        self.cell(0, _LINE, f"{self.page_no()} / {{nb}}", align="C")

    def add_row(self, row: int) -> None:
        """Append the cells of a row, on a new page where this one is full."""
        self._add_cells([column.values[row] for column in self._columns], border=0, fill=False)

    def add_note(self, text: str) -> None:
        """Append a line below the table."""
        self.set_font("Helvetica", style="I", size=_TEXT_SIZE)
        self.cell(0, 2 * _LINE, text)

    def _add_cells(self, texts: list[str], *, border: Literal[0, "B"], fill: bool) -> None:
        if self.will_page_break(_LINE):
            self.add_page()
        for text, width, column in zip(texts, self._widths, self._columns, strict=True):
            self.cell(
                width,
                _LINE,
                self._shortened(text, width - _PADDING),
                border=border,
                align=column.align,
                fill=fill,
            )
        self.ln(_LINE)

    def _shortened(self, text: str, width: float) -> str:
        if self.get_string_width(text) <= width:
            return text
        while text and self.get_string_width(text + _ELLIPSIS) > width:
            text = text[:-1]
        return text + _ELLIPSIS

    def _fitting_widths(self) -> list[float]:
        """Give each column what it would like, made smaller or larger in proportion so that the page is full."""
        wanted = []
        for column in self._columns:
            sample = [column.name, *column.values[:_ROWS_FOR_WIDTH]]
            widest = max(self.get_string_width(text) for text in sample)
            wanted.append(min(max(widest * 1.1 + _PADDING, _NARROWEST), self.epw / 2))
        scale = self.epw / (sum(wanted) or 1)
        return [width * scale for width in wanted]

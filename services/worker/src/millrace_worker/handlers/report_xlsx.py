import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import xlsxwriter

from millrace_worker.handlers.report_table import InvalidReportError

# Excel's own limits.
_MAX_ROWS = 1_048_576
_MAX_COLUMNS = 16_384
_MAX_CELL = 32_767
_MAX_SHEET_NAME = 31
# Excel keeps 15 digits of a number; an integer with more keeps them all as a text.
_MAX_INTEGER = 10**15
_FORBIDDEN_IN_SHEET_NAME = re.compile(r"[\[\]:*?/\\\x00-\x1f]")

_ROWS_BETWEEN_CALLS = 1_000
_ROWS_FOR_WIDTH = 1_000
_NARROWEST, _WIDEST = 8, 60

_CellWriter = Callable[[int, int, Any], Any]


def render_xlsx(table: pl.DataFrame, path: Path, title: str, on_rows: Callable[[int], None]) -> None:
    """Write an Excel workbook of one sheet; texts are cells of text, never formulas.

    Raises InvalidReportError when the table has more rows or columns than a sheet.
    """
    if table.height >= _MAX_ROWS or table.width > _MAX_COLUMNS:
        raise InvalidReportError(
            f"{table.height:,} rows of {table.width:,} columns; an xlsx holds {_MAX_ROWS - 1:,} rows below its header and"
            f" {_MAX_COLUMNS:,} columns"
        )
    options = {"constant_memory": True, "tmpdir": str(path.parent), "strings_to_urls": False}
    with xlsxwriter.Workbook(str(path), options) as workbook:
        sheet = workbook.add_worksheet(_sheet_name(title))
        header = workbook.add_format({"bold": True, "bg_color": "#D9E2F3", "bottom": 1})
        sheet.freeze_panes(1, 0)
        for position, name in enumerate(table.columns):
            sheet.set_column(position, position, _width(table[name]))
            sheet.write_string(0, position, _cell_text(name), header)
        write = [_cell_writer(sheet, dtype) for dtype in table.dtypes]
        for row, values in enumerate(table.iter_rows(), start=1):
            for position, value in enumerate(values):
                if value is not None:
                    write[position](row, position, value)
            if row % _ROWS_BETWEEN_CALLS == 0 or row == table.height:
                on_rows(row)


def _cell_writer(sheet: Any, dtype: pl.DataType) -> _CellWriter:
    if dtype == pl.Boolean:
        write_boolean: _CellWriter = sheet.write_boolean
        return write_boolean
    if dtype.is_float():
        write_number: _CellWriter = sheet.write_number
        return write_number
    if dtype.is_integer():
        return lambda row, column, value: (
            sheet.write_number(row, column, value)
            if abs(value) < _MAX_INTEGER
            else sheet.write_string(row, column, str(value))
        )
    return lambda row, column, value: sheet.write_string(row, column, _cell_text(value))


def _cell_text(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"


def _sheet_name(title: str) -> str:
    name = _FORBIDDEN_IN_SHEET_NAME.sub(" ", title)[:_MAX_SHEET_NAME].strip().strip("'")
    # Excel keeps "History" for itself.
    return name if name and name.lower() != "history" else "Report"


def _width(column: pl.Series) -> int:
    texts = [column.name, *column.head(_ROWS_FOR_WIDTH).cast(pl.String).drop_nulls()]
    return max(_NARROWEST, min(_WIDEST, 2 + max(map(len, texts))))

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import polars as pl

from millrace_worker.handlers.report_pdf import render_pdf
from millrace_worker.handlers.report_xlsx import render_xlsx

_SLICE = 10_000

CONTENT_TYPES: Mapping[str, str] = {
    "csv": "text/csv",
    "json": "application/json",
    "pdf": "application/pdf",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class _Renderer(Protocol):
    def __call__(
        self, table: pl.DataFrame, path: Path, title: str, on_rows: Callable[[int], None]
    ) -> None: ...


def render(table: pl.DataFrame, path: Path, *, kind: str, title: str, on_rows: Callable[[int], None]) -> None:
    """Write the table to `path` as "csv", "json", "pdf" or "xlsx".

    `on_rows` is told now and then how many rows are written; what it raises ends the work. Raises
    InvalidReportError when the table does not fit into this kind of file.
    """
    renderers: Mapping[str, _Renderer] = {"csv": _csv, "json": _json, "pdf": render_pdf, "xlsx": render_xlsx}
    renderers[kind](table, path, title, on_rows)


def _csv(table: pl.DataFrame, path: Path, title: str, on_rows: Callable[[int], None]) -> None:  # noqa: ARG001 - a CSV has no title
    with path.open("wb") as file:
        table.clear().write_csv(file)
        for offset in range(0, table.height, _SLICE):
            table.slice(offset, _SLICE).write_csv(file, include_header=False)
            on_rows(min(offset + _SLICE, table.height))


def _json(table: pl.DataFrame, path: Path, title: str, on_rows: Callable[[int], None]) -> None:  # noqa: ARG001 - a JSON array has no title
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for offset in range(0, table.height, _SLICE):
            file.write(",\n" if offset else "\n")
            file.write(table.slice(offset, _SLICE).write_json().removeprefix("[").removesuffix("]"))
            on_rows(min(offset + _SLICE, table.height))
        file.write("\n]\n")

import csv
import json
from pathlib import Path
from typing import Any

import openpyxl
import polars as pl
import pypdf
import pytest

from millrace_worker.handlers.report_rendering import render
from millrace_worker.handlers.report_table import InvalidReportError

TABLE = pl.DataFrame(
    {
        "name": ['=HYPERLINK("http://x")', "Zoë, €5", None, "a\tb"],
        "count": [1, -2, None, 10**17],
        "share": [0.1, 1e-7, None, 2.0],
        "open": [True, False, None, True],
    },
    schema={"name": pl.String, "count": pl.Int64, "share": pl.Float64, "open": pl.Boolean},
)


def rendered(table: pl.DataFrame, path: Path, kind: str, title: str = "Report") -> Path:
    render(table, path, kind=kind, title=title, on_rows=lambda _: None)
    return path


def sheet_of(path: Path) -> Any:
    return openpyxl.load_workbook(path).worksheets[0]


def pages_of(path: Path) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(path).pages]


def test_csv(tmp_path: Path) -> None:
    with rendered(TABLE, tmp_path / "r", "csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["name", "count", "share", "open"],
            ['=HYPERLINK("http://x")', "1", "0.1", "true"],
            ["Zoë, €5", "-2", "1e-7", "false"],
            ["", "", "", ""],
            ["a\tb", "100000000000000000", "2.0", "true"],
        ]


def test_json(tmp_path: Path) -> None:
    assert json.loads(rendered(TABLE, tmp_path / "r", "json").read_text(encoding="utf-8")) == TABLE.to_dicts()


def test_xlsx_keeps_texts_texts_and_numbers_numbers(tmp_path: Path) -> None:
    sheet = sheet_of(rendered(TABLE, tmp_path / "r.xlsx", "xlsx"))
    assert [[cell.value for cell in row] for row in sheet.iter_rows()] == [
        ["name", "count", "share", "open"],
        ['=HYPERLINK("http://x")', 1, 0.1, True],
        ["Zoë, €5", -2, 1e-7, False],
        [None, None, None, None],
        ["a\tb", str(10**17), 2, True],
    ]
    assert sheet["A2"].data_type == "s"
    assert sheet["A1"].font.bold
    assert sheet.freeze_panes == "A2"
    assert sheet.column_dimensions["A"].width > sheet.column_dimensions["B"].width


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Q3: sales/region [draft]", "Q3  sales region  draft"),
        ("x" * 40, "x" * 31),
        ("'quoted'", "quoted"),
        ("History", "Report"),
        ("???", "Report"),
    ],
)
def test_any_title_makes_a_sheet_that_opens(tmp_path: Path, title: str, name: str) -> None:
    assert sheet_of(rendered(TABLE, tmp_path / "r.xlsx", "xlsx", title)).title == name


def test_xlsx_cuts_a_text_that_no_cell_can_hold_visibly(tmp_path: Path) -> None:
    sheet = sheet_of(rendered(pl.DataFrame({"a": ["x" * 40_000]}), tmp_path / "r.xlsx", "xlsx"))
    assert sheet["A2"].value == "x" * 32_766 + "…"


def test_pdf_repeats_the_header_and_numbers_the_pages(tmp_path: Path) -> None:
    table = pl.DataFrame({"city": [f"City {number}" for number in range(120)], "people": range(120)})
    pages = pages_of(rendered(table, tmp_path / "r.pdf", "pdf", "Cities of 2026"))
    assert len(pages) > 1
    for number, page in enumerate(pages, start=1):
        assert "city" in page
        assert "people" in page
        assert f"{number} / {len(pages)}" in page
    assert "Cities of 2026" in pages[0]
    text = "\n".join(pages)
    assert [text.count(f"City {number} {number}\n") for number in range(120)] == [1] * 120
    assert "cannot show" not in text


def test_pdf_shows_what_its_font_has_and_says_what_it_has_not(tmp_path: Path) -> None:
    table = pl.DataFrame({"name": ["Zoë, €5", "東京", "two\nlines"]})
    text = "\n".join(pages_of(rendered(table, tmp_path / "r.pdf", "pdf", "Report 東京")))
    assert "Report ??" in text
    assert "Zoë, €5" in text
    assert "??\n" in text
    assert "two lines" in text
    assert 'Characters that this font cannot show are written as "?".' in text


def test_pdf_shortens_what_is_wider_than_its_column(tmp_path: Path) -> None:
    table = pl.DataFrame({"a": ["word " * 200], "b": ["end"]})
    text = "\n".join(pages_of(rendered(table, tmp_path / "r.pdf", "pdf")))
    assert "…" in text
    assert "end" in text


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [("pdf", 20_001, 1), ("pdf", 1, 21), ("xlsx", 1_048_576, 1), ("xlsx", 1, 16_385)],
)
def test_says_when_a_table_does_not_fit(tmp_path: Path, kind: str, rows: int, columns: int) -> None:
    table = pl.DataFrame({str(number): pl.Series([None] * rows, dtype=pl.Int64) for number in range(columns)})
    with pytest.raises(InvalidReportError, match="rows of"):
        rendered(table, tmp_path / "r", kind)


@pytest.mark.parametrize("kind", ["csv", "json", "xlsx", "pdf"])
@pytest.mark.parametrize("table", [TABLE.clear(), pl.DataFrame({"a": []}), pl.DataFrame()])
def test_a_table_without_rows_makes_a_file_that_opens(tmp_path: Path, kind: str, table: pl.DataFrame) -> None:
    path = rendered(table, tmp_path / f"r.{kind}", kind)
    if kind == "json":
        assert json.loads(path.read_text(encoding="utf-8")) == []
    elif kind == "csv":
        assert path.read_text(encoding="utf-8") == ",".join(table.columns) + "\n"
    elif kind == "xlsx":
        assert [cell.value for cell in sheet_of(path)[1]][: table.width] == table.columns
    else:
        assert len(pages_of(path)) == 1


@pytest.mark.parametrize("kind", ["csv", "json", "xlsx", "pdf"])
def test_reports_rows_and_stops_when_told_so(tmp_path: Path, kind: str) -> None:
    table = pl.DataFrame({"a": range(15_000)})
    calls: list[int] = []
    render(table, tmp_path / "r", kind=kind, title="Report", on_rows=calls.append)
    assert calls == sorted(set(calls))
    assert calls[-1] == 15_000

    def stop(rows: int) -> None:
        assert rows < 15_000
        raise TimeoutError

    with pytest.raises(TimeoutError):
        render(table, tmp_path / "r", kind=kind, title="Report", on_rows=stop)


@pytest.mark.parametrize("kind", ["csv", "json", "xlsx", "pdf"])
def test_a_column_without_values_is_empty(tmp_path: Path, kind: str) -> None:
    path = rendered(pl.DataFrame({"a": [None, None], "b": ["x", "y"]}), tmp_path / f"r.{kind}", kind)
    if kind == "json":
        assert json.loads(path.read_text(encoding="utf-8")) == [{"a": None, "b": "x"}, {"a": None, "b": "y"}]
    elif kind == "csv":
        assert path.read_text(encoding="utf-8") == "a,b\n,x\n,y\n"
    elif kind == "xlsx":
        assert list(sheet_of(path).values) == [("a", "b"), (None, "x"), (None, "y")]
    else:
        assert "x\ny" in pages_of(path)[0]

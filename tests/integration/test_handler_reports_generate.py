import asyncio
import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import openpyxl
import pypdf
import pytest

from millrace_database.database import Database
from millrace_database.ids import parse_id
from millrace_storage import FileFilters
from millrace_worker import JobError
from millrace_worker.handlers import reports_generate
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files

AIRPORTS = Path(__file__).parents[2] / "examples" / "data" / "airports.csv"

PER_STATE = {
    "dataset": "airports",
    "group_by": ["state"],
    "aggregates": [{"function": "count", "as": "airports"}, {"function": "max", "column": "latitude"}],
    "sort": [{"column": "airports", "descending": True}],
    "limit": 3,
}
TOP_STATES = [("AK", 263), ("TX", 209), ("CA", 205)]


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    return HandlerRuns(database, local_files(database, tmp_path))


@pytest.fixture
async def airports(runs: HandlerRuns) -> HandlerRuns:
    file_id = await runs.upload(AIRPORTS.read_bytes(), "airports.csv")
    await runs.run("imports:load", {"file_id": file_id, "dataset": "airports"})
    runs.progress.clear()
    return runs


async def report(runs: HandlerRuns, input_: dict[str, Any]) -> tuple[Any, bytes]:
    output = await runs.run("reports:generate", input_)
    content = await runs.content(output.file_id)
    assert len(content) == output.bytes
    return output, content


async def test_airports_per_state_as_csv(airports: HandlerRuns) -> None:
    output, content = await report(airports, {**PER_STATE, "format": "csv"})
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [(row["state"], int(row["airports"])) for row in rows] == TOP_STATES
    assert rows[0]["max_latitude"] == "71.2854475"
    assert (output.name, output.format, output.rows) == ("airports.csv", "csv", 3)
    assert output.columns == ["state", "airports", "max_latitude"]


async def test_airports_per_state_as_xlsx(airports: HandlerRuns) -> None:
    output, content = await report(airports, {**PER_STATE, "format": "xlsx", "title": "Airports per state"})
    sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
    assert sheet.title == "Airports per state"
    assert [row[:2] for row in sheet.iter_rows(min_row=2, values_only=True)] == TOP_STATES
    assert output.name == "airports.xlsx"


async def test_airports_per_state_as_json(airports: HandlerRuns) -> None:
    _, content = await report(airports, {**PER_STATE, "format": "json", "columns": ["airports", "state"]})
    assert json.loads(content) == [{"airports": count, "state": state} for state, count in TOP_STATES]


async def test_all_airports_as_pdf(airports: HandlerRuns) -> None:
    output, content = await report(airports, {"dataset": "airports", "format": "pdf", "title": "US airports"})
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    assert output.rows == 3_376
    assert "US airports" in pages[0]
    assert "Thigpen" in pages[0]
    assert all("iata name city state" in page for page in pages)
    assert f"{len(pages)} / {len(pages)}" in pages[-1]


async def test_the_report_is_a_file_of_the_job(runs: HandlerRuns) -> None:
    context = await runs.context(
        "reports:generate", {"rows": [{"a": 1}], "format": "json", "file_name": "a report.JSON"}
    )
    output = await call(context)
    record = await runs.record(output.file_id)
    assert record.name == "a report.json"
    assert record.content_type == "application/json"
    assert record.created_by == "ann"
    assert record.job_id == parse_id("job", context.job_id)


async def test_rows_given_in_the_input(runs: HandlerRuns) -> None:
    rows = [{"name": "a", "n": 2}, {"name": "b", "n": 10, "note": "x"}]
    output, content = await report(
        runs, {"rows": rows, "format": "json", "filter": [{"column": "n", "op": "gt", "value": 5}]}
    )
    assert json.loads(content) == [rows[1]]
    assert output.name == "report.json"


async def test_a_report_without_rows(runs: HandlerRuns) -> None:
    output, content = await report(runs, {"rows": [], "format": "csv", "columns": ["a", "b"]})
    assert content == b"a,b\n"
    assert output.rows == 0


async def test_rows_of_several_imports_are_one_table(runs: HandlerRuns) -> None:
    for content in (b"n,a\n1,x\n", b"n,b\n2.5,y\n"):
        file_id = await runs.upload(content, "data.csv")
        await runs.run("imports:load", {"file_id": file_id, "dataset": "data"})
    _, content = await report(runs, {"dataset": "data", "format": "json"})
    assert json.loads(content) == [{"n": 1.0, "a": "x", "b": None}, {"n": 2.5, "a": None, "b": "y"}]


async def test_progress_rises_to_the_end(airports: HandlerRuns) -> None:
    await report(airports, {"dataset": "airports", "format": "xlsx"})
    percents = [update.percent for update in airports.progress if update.percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert airports.progress[-1].message == "3,376 rows"
    assert (3_376, 3_376) in {(update.processed_items, update.total_items) for update in airports.progress}


async def test_datasets_of_other_organisations_are_not_found(airports: HandlerRuns) -> None:
    with pytest.raises(JobError) as caught:
        await airports.run("reports:generate", {"dataset": "airports", "format": "csv"}, org_id="other")
    assert (caught.value.code, caught.value.retryable) == ("INVALID_INPUT", False)
    assert caught.value.message == 'there is no dataset "airports"'


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"columns": ["town"]}, 'unknown column "town"; there are "iata", "name"'),
        ({"filter": [{"column": "zip", "op": "eq", "value": "1"}]}, 'unknown column "zip"'),
        ({"group_by": ["county"]}, 'unknown column "county"'),
        ({"aggregates": [{"function": "mean", "column": "city"}]}, "mean needs a numeric column"),
        ({"group_by": ["state"], "sort": [{"column": "city"}]}, 'unknown column "city"'),
    ],
)
async def test_says_why_a_report_cannot_be_made(
    airports: HandlerRuns, query: dict[str, Any], reason: str
) -> None:
    with pytest.raises(JobError) as caught:
        await airports.run("reports:generate", {"dataset": "airports", "format": "csv", **query})
    assert (caught.value.code, caught.value.retryable) == ("INVALID_INPUT", False)
    assert reason in caught.value.message
    assert [record.name for record in await airports.files.list("acme", FileFilters(), None, 10)] == [
        "airports.csv"
    ]


async def test_a_cancelled_report_stops_its_thread_and_leaves_nothing(
    runs: HandlerRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    loop, started, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def endless(*_: Any, on_rows: Any, **__: Any) -> None:
        loop.call_soon_threadsafe(started.set)
        try:
            while True:
                on_rows(1)
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(reports_generate, "render", endless)
    context = await runs.context("reports:generate", {"rows": [{"a": 1}], "format": "csv"})
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(call(context))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await ended.wait()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert await runs.files.list("acme", FileFilters(), None, 10) == []

import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from millrace_database.database import Database
from millrace_database.jobs_repository import JobRecord
from millrace_worker.registry import load_handlers
from support.handler_runs import HandlerRuns
from support.local_files import local_files
from support.worker_runs import create, finished, worker

AIRPORTS = Path(__file__).parents[2] / "examples" / "data" / "airports.csv"


@pytest.fixture
async def runs(database: Database, tmp_path: Path) -> AsyncIterator[HandlerRuns]:
    """Files where the worker that runs meanwhile has them."""
    async with worker(database, load_handlers(["millrace_worker.handlers"]), tmp_path):
        yield HandlerRuns(database, local_files(database, tmp_path))


async def job(runs: HandlerRuns, type_: str, input_: Mapping[str, Any]) -> JobRecord:
    (job_id,) = await create(runs.database, type_, [input_])
    return await finished(runs.database, job_id, within=30)


async def output_of(runs: HandlerRuns, type_: str, input_: Mapping[str, Any]) -> dict[str, Any]:
    done = await job(runs, type_, input_)
    assert (done.status, done.progress, done.error_message) == ("completed", 100, None)
    output: dict[str, Any] = json.loads(done.output_json or "null")
    return output


async def test_an_upload_becomes_a_dataset_a_report_and_an_archive(runs: HandlerRuns) -> None:
    source = await runs.upload(AIRPORTS.read_bytes(), "airports.csv")
    imported = await job(runs, "imports:load", {"file_id": source, "dataset": "airports"})
    assert imported.status == "completed"
    assert imported.processed_items == 3_376
    assert json.loads(imported.output_json or "null")["rows_loaded"] == 3_376

    report = await output_of(
        runs, "reports:generate", {"dataset": "airports", "format": "xlsx", "group_by": ["state"]}
    )
    content = await runs.content(report["file_id"])
    sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
    counts = dict(sheet.iter_rows(min_row=2, values_only=True))
    assert counts["TX"] == 209
    assert sum(counts.values()) == 3_376
    assert report["rows"] == len(counts)

    archive = await output_of(runs, "files:archive", {"file_ids": [source, report["file_id"]]})
    with zipfile.ZipFile(io.BytesIO(await runs.content(archive["file_id"]))) as made:
        assert made.namelist() == ["airports.csv", "airports.xlsx"]
        assert made.read("airports.csv") == AIRPORTS.read_bytes()
        assert made.read("airports.xlsx") == content


async def test_what_another_attempt_cannot_mend_fails_at_once(runs: HandlerRuns) -> None:
    failed = await job(runs, "reports:generate", {"dataset": "none", "format": "csv"})
    assert (failed.status, failed.attempt) == ("failed", 1)
    assert (failed.error_code, failed.error_retryable) == ("INVALID_INPUT", False)
    assert failed.error_message == 'there is no dataset "none"'

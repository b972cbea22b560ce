from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from millrace_database.datasets_repository import (
    DatasetImport,
    ImportProgress,
    append_rows,
    begin_import,
    finish_import,
    get_import,
)
from millrace_database.files_repository import FileRecord
from millrace_worker import JobContext, JobError, job_handler
from millrace_worker.handlers.byte_blocks import in_blocks
from millrace_worker.handlers.csv_rows import CsvRows
from millrace_worker.handlers.jsonl_rows import JsonlRows
from millrace_worker.handlers.line_splitting import LineSplitter
from millrace_worker.handlers.parsed_rows import RowParser, UnreadableFileError
from millrace_worker.handlers.row_batches import RowBatch, RowBatcher
from millrace_worker.handlers.stored_files import FileId, open_file
from millrace_worker.handlers.thread_calls import call_in_thread

MAX_ERRORS = 100

DatasetName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

_ENDINGS: dict[str, Literal["csv", "jsonl"]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_CONTENT_TYPES: dict[str, Literal["csv", "jsonl"]] = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
}


class ImportInput(BaseModel):
    """Which file to load, and into which dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file_id: FileId = Field(description="The uploaded file of this organisation: CSV or JSON Lines, UTF-8.")
    dataset: DatasetName = Field(
        description="The dataset its rows are added to; it is made when there is none of this name."
    )
    format: Literal["csv", "jsonl"] | None = Field(
        default=None, description="What the file is; by default as its name or its content type says."
    )
    delimiter: str = Field(
        default=",",
        pattern=r'^[^"\r\n\x00]$',
        description="The one character between the fields of a CSV file.",
    )


class RowError(BaseModel):
    """A row that was not loaded."""

    row: int = Field(
        description="Its number among the rows of the file, from 1; a header row is not counted."
    )
    line: int = Field(description="The line of the file that it begins on, from 1.")
    reason: str


class ImportOutput(BaseModel):
    """What was loaded, over all attempts of the job."""

    dataset: str
    rows_read: int
    rows_loaded: int
    rows_failed: int
    errors: list[RowError] = Field(description=f"The first {MAX_ERRORS} rows that were not loaded.")
    columns: list[str]


@job_handler(
    "imports:load",
    concurrency=2,
    timeout=timedelta(hours=4),
    label="Load a file",
    description="Loads the rows of an uploaded CSV or JSON Lines file into a dataset.",
)
async def load_import(context: JobContext[ImportInput]) -> ImportOutput:
    """Write rows in batches, each together with the place in the file, so that a later attempt goes on there.

    They become visible together, when all are written. What is finished needs the file no more, which may be gone.
    """
    async with context.resources.database.connection() as connection:
        earlier = await get_import(connection, context.lease.id)
    progress = earlier.progress if earlier is not None and earlier.completed else await _load(context)
    await context.update_processed_items(progress.rows_read, progress.rows_read)
    await context.update_progress(
        100, f"{progress.rows_loaded:,} rows loaded, {progress.rows_failed:,} failed"
    )
    return ImportOutput(
        dataset=context.input.dataset,
        rows_read=progress.rows_read,
        rows_loaded=progress.rows_loaded,
        rows_failed=progress.rows_failed,
        errors=orjson.loads(progress.errors_json),
        columns=list(progress.columns),
    )


async def _load(context: JobContext[ImportInput]) -> ImportProgress:
    record, content = await open_file(context, context.input.file_id)
    parser = _parser(context.input, record)
    async with context.resources.database.transaction() as connection:
        begun = await begin_import(connection, context.lease, context.org_id, context.input.dataset)
    loading = _Loading(context, record, begun, parser)
    try:
        async with aclosing(content), aclosing(in_blocks(content)) as blocks:
            await loading.load(blocks)
    except UnreadableFileError as error:
        raise JobError("INVALID_INPUT", f"{record.name}: {error}") from error
    return loading.progress


def _parser(wanted: ImportInput, record: FileRecord) -> RowParser:
    kind = wanted.format or _guessed_format(record)
    if kind is None:
        raise JobError(
            "INVALID_INPUT",
            f'whether "{record.name}" ({record.content_type}) is CSV or JSON Lines cannot be told: give format',
        )
    return CsvRows(wanted.delimiter) if kind == "csv" else JsonlRows()


def _guessed_format(record: FileRecord) -> Literal["csv", "jsonl"] | None:
    name = record.name.lower()
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind
    return _CONTENT_TYPES.get(record.content_type.partition(";")[0].strip().lower())


class _Loading:
    """The rows of a file on their way into a dataset, from where an earlier attempt has come to."""

    def __init__(
        self, context: JobContext[ImportInput], record: FileRecord, begun: DatasetImport, parser: RowParser
    ) -> None:
        self._context = context
        self._size = record.size_bytes
        self._dataset_id = begun.dataset_id
        self._parser = parser
        self._batcher = RowBatcher(parser, skip=begun.progress.rows_read)
        self._errors: list[RowError] = [
            RowError(**error) for error in orjson.loads(begun.progress.errors_json)
        ]
        self.progress = begun.progress

    async def load(self, blocks: AsyncIterator[bytes]) -> None:
        splitter = LineSplitter()
        bytes_read = 0
        async for block in blocks:
            bytes_read += len(block)
            await self._load_lines(splitter.split(block, last=False), last=False)
            await self._report(bytes_read)
        await self._load_lines(splitter.split(b"", last=True), last=True)
        await self._report(bytes_read)
        async with self._context.resources.database.transaction() as connection:
            await finish_import(connection, self._context.lease)

    async def _load_lines(self, lines: list[bytes | None], *, last: bool) -> None:
        batches = self._batcher.batches(lines, last=last)
        while (batch := await call_in_thread(next, batches, None)) is not None:
            await self._write(batch)

    async def _write(self, batch: RowBatch) -> None:
        for row, rejected in batch.rejected[: MAX_ERRORS - len(self._errors)]:
            self._errors.append(RowError(row=row, line=rejected.line, reason=rejected.reason))
        progress = ImportProgress(
            rows_read=max(batch.last_row, self.progress.rows_read),
            rows_loaded=self.progress.rows_loaded + len(batch.rows),
            rows_failed=self.progress.rows_failed + len(batch.rejected),
            errors_json=orjson.dumps([error.model_dump() for error in self._errors]).decode(),
            columns=self._parser.columns,
        )
        async with self._context.resources.database.transaction() as connection:
            await append_rows(connection, self._context.lease, self._dataset_id, batch.rows, progress)
        self.progress = progress

    async def _report(self, bytes_read: int) -> None:
        await self._context.update_processed_items(self.progress.rows_read)
        await self._context.update_progress(
            min(bytes_read * 100 // (self._size or 1), 99), f"{self._batcher.rows_read:,} rows read"
        )

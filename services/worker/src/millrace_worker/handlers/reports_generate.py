from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from millrace_worker import JobContext, JobError, job_handler
from millrace_worker.handlers.byte_blocks import read_local_file
from millrace_worker.handlers.file_names import file_name
from millrace_worker.handlers.report_input import ReportInput
from millrace_worker.handlers.report_query import run_query
from millrace_worker.handlers.report_reading import read_table
from millrace_worker.handlers.report_rendering import CONTENT_TYPES, render
from millrace_worker.handlers.report_table import InvalidReportError
from millrace_worker.handlers.stored_files import save_file, shown_id
from millrace_worker.handlers.thread_calls import call_in_thread, watch_thread
from millrace_worker.handlers.working_folder import working_folder


class ReportOutput(BaseModel):
    """The file that was made, and the size of the table in it."""

    file_id: str
    name: str
    format: str
    rows: int
    bytes: int
    columns: list[str]


@job_handler(
    "reports:generate",
    concurrency=2,
    timeout=timedelta(hours=1),
    label="Generate a report",
    description="Filters, groups and sorts the rows of a dataset, or rows given here, into a csv, xlsx, json or pdf file.",
)
async def generate_report(context: JobContext[ReportInput]) -> ReportOutput:
    """Read, compute and render in threads, and store the file. Nothing is kept of an attempt that ends early."""
    try:
        table = await read_table(context)
        await context.update_progress(50, "Computing")
        table = await call_in_thread(run_query, table, context.input)
        async with working_folder() as folder:
            path = folder / f"report.{context.input.format}"
            await _Rendering(context, table, path).run()
            return await _store(context, table, path)
    except InvalidReportError as error:
        raise JobError("INVALID_INPUT", str(error)) from error


class _StoppedError(Exception):
    """The file is not wanted any more."""


class _Rendering:
    """The writing of the file in a thread, and what is known of it outside."""

    def __init__(self, context: JobContext[ReportInput], table: pl.DataFrame, path: Path) -> None:
        self._context = context
        self._table = table
        self._path = path
        self._rows = 0
        self._is_stopped = False

    async def run(self) -> None:
        """Write the file. Raises InvalidReportError."""
        await watch_thread(self._render, report=self._report, stop=self._stop)

    def _render(self) -> None:
        query = self._context.input
        render(self._table, self._path, kind=query.format, title=_title(query), on_rows=self._on_rows)

    def _on_rows(self, rows: int) -> None:
        if self._is_stopped:
            raise _StoppedError
        self._rows = rows

    def _stop(self) -> None:
        self._is_stopped = True

    async def _report(self) -> None:
        percent = 55 + self._rows * 40 // max(self._table.height, 1)
        await self._context.update_progress(percent, f"Writing row {self._rows:,} of {self._table.height:,}")


def _title(query: ReportInput) -> str:
    return query.title or query.dataset or "Report"


async def _store(context: JobContext[ReportInput], table: pl.DataFrame, path: Path) -> ReportOutput:
    query = context.input
    await context.update_progress(95, "Storing the file")
    async with aclosing(read_local_file(path)) as chunks:
        file = await save_file(
            context,
            name=file_name(query.file_name or query.dataset or query.title or "report", f".{query.format}"),
            content_type=CONTENT_TYPES[query.format],
            chunks=chunks,
        )
    await context.update_progress(100, f"{table.height:,} rows")
    return ReportOutput(
        file_id=shown_id(file.file_id),
        name=file.name,
        format=query.format,
        rows=table.height,
        bytes=file.size_bytes,
        columns=table.columns,
    )

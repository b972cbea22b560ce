from collections.abc import Sequence

import orjson
import polars as pl

from millrace_database.datasets_repository import count_rows, get_dataset, read_rows
from millrace_worker import JobContext
from millrace_worker.handlers.report_input import ReportInput
from millrace_worker.handlers.report_table import InvalidReportError, TableBuilder
from millrace_worker.handlers.thread_calls import call_in_thread

MAX_ROWS = 2_000_000

_BATCH_ROWS = 5_000


async def read_table(context: JobContext[ReportInput]) -> pl.DataFrame:
    """Return the rows to report on, with the columns that the query needs. Raises InvalidReportError."""
    builder = TableBuilder(context.input.columns_read())
    if context.input.dataset is not None:
        await _read_dataset(context, context.input.dataset, builder)
    elif context.input.rows:
        await call_in_thread(builder.add, context.input.rows)
    return await call_in_thread(builder.build)


async def _read_dataset(context: JobContext[ReportInput], name: str, builder: TableBuilder) -> None:
    database = context.resources.database
    async with database.connection() as connection:
        dataset = await get_dataset(connection, context.org_id, name)
        if dataset is None:
            raise InvalidReportError(f'there is no dataset "{name}"')
        total = await count_rows(connection, dataset.dataset_id)
    if total > MAX_ROWS:
        raise InvalidReportError(f"{total:,} rows; a report is made of at most {MAX_ROWS:,}")
    done = 0
    async for batch in read_rows(database, dataset.dataset_id, batch_size=_BATCH_ROWS):
        await call_in_thread(_add, builder, batch)
        done += len(batch)
        await context.update_processed_items(done, max(done, total))
        await context.update_progress(min(done * 50 // max(total, 1), 50), "Reading rows")


def _add(builder: TableBuilder, rows: Sequence[str]) -> None:
    builder.add([orjson.loads(row) for row in rows])

"""Datasets: named tables of rows, filled by imports and read by reports.

An import writes its rows batch by batch, each in one transaction with the place it has come to, and only while its
worker holds the job. So a later attempt goes on exactly behind the last batch, and no row is ever written twice. The
rows are seen once the import is finished: one that failed half-way leaves nothing to see, and can be run again.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import Lease

_INSERT_DATASET = """
INSERT INTO datasets (dataset_id, org_id, name) VALUES ($1::uuid, $2::text, $3::text)
ON CONFLICT (org_id, name) DO NOTHING
RETURNING dataset_id, org_id, name, created_at
"""

_GET_DATASET = """
SELECT dataset_id, org_id, name, created_at FROM datasets WHERE org_id = $1::text AND name = $2::text
"""

_BEGIN_IMPORT = """
INSERT INTO dataset_imports (job_id, dataset_id) VALUES ($1::uuid, $2::uuid) ON CONFLICT (job_id) DO NOTHING
"""

_GET_IMPORT = """
SELECT job_id, dataset_id, rows_read, rows_loaded, rows_failed, errors::text AS errors_json, columns,
    completed_at IS NOT NULL AS completed
FROM dataset_imports
WHERE job_id = $1::uuid
"""

_APPEND_ROWS = """
INSERT INTO dataset_rows (dataset_id, job_id, row_number, data)
SELECT $1::uuid, $2::uuid, row_number, data::json
FROM unnest($3::bigint[], $4::text[]) AS appended (row_number, data)
"""

_SAVE_IMPORT = """
UPDATE dataset_imports
SET rows_read = $2::bigint, rows_loaded = $3::bigint, rows_failed = $4::bigint, errors = $5::text::jsonb,
    columns = $6::text[]
WHERE job_id = $1::uuid
RETURNING job_id
"""

_FINISH_IMPORT = """
UPDATE dataset_imports SET completed_at = now() WHERE job_id = $1::uuid AND completed_at IS NULL
"""

_COUNT_ROWS = """
SELECT coalesce(sum(rows_loaded), 0)::bigint
FROM dataset_imports
WHERE dataset_id = $1::uuid AND completed_at IS NOT NULL
"""

_LIST_COLUMNS = """
SELECT name
FROM (
    SELECT DISTINCT ON (name) name, job_id, place
    FROM dataset_imports CROSS JOIN LATERAL unnest(columns) WITH ORDINALITY AS listed (name, place)
    WHERE dataset_id = $1::uuid AND completed_at IS NOT NULL
    ORDER BY name, job_id, place
) AS first_mention
ORDER BY job_id, place
"""

_FINISHED_IMPORTS = """
SELECT job_id FROM dataset_imports WHERE dataset_id = $1::uuid AND completed_at IS NOT NULL ORDER BY job_id
"""

_READ_ROWS = """
SELECT row_number, data::text AS data_json
FROM dataset_rows
WHERE dataset_id = $1::uuid AND job_id = $2::uuid AND row_number > $3::bigint
ORDER BY row_number
LIMIT $4::integer
"""


class LeaseLostError(Exception):
    """The job is no longer this worker's: nothing was written, and the handler has to stop."""


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """A dataset; its name is unique in its organisation."""

    dataset_id: UUID
    org_id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is, over all its attempts.

    Attributes:
        rows_read: rows of the file that need not be read again: loaded or refused.
        rows_loaded: rows that are in the dataset.
        rows_failed: rows that were refused.
        errors_json: why, a JSON array in the caller's own form.
        columns: the columns of the rows, in their order.

    """

    rows_read: int = 0
    rows_loaded: int = 0
    rows_failed: int = 0
    errors_json: str = "[]"
    columns: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DatasetImport:
    """An import of a job into a dataset, how far it is, and whether it is finished."""

    job_id: UUID
    dataset_id: UUID
    progress: ImportProgress
    completed: bool


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to append: its number in the file, from 1, and its values, a JSON object."""

    row_number: int
    data_json: str


async def get_dataset(conn: asyncpg.Connection, org_id: str, name: str) -> DatasetRecord | None:
    """Return a dataset of an organisation, or None when there is no such dataset."""
    row = await conn.fetchrow(_GET_DATASET, org_id, name)
    return None if row is None else DatasetRecord(**row)


async def get_or_create_dataset(conn: asyncpg.Connection, org_id: str, name: str) -> DatasetRecord:
    """Return a dataset of an organisation, made now if there is none.

    Waits for the end of an open transaction that makes the same one.
    """
    while True:
        row = await conn.fetchrow(_INSERT_DATASET, new_id(), org_id, name)
        if row is not None:
            return DatasetRecord(**row)
        # In a statement of its own: only a new snapshot sees the dataset whose transaction was waited for.
        if (dataset := await get_dataset(conn, org_id, name)) is not None:
            return dataset


async def begin_import(conn: asyncpg.Connection, lease: Lease, org_id: str, name: str) -> DatasetImport:
    """Begin the import of a job into a dataset, or return it as far as an earlier attempt has come.

    To be called in a transaction. Raises LeaseLostError when the job is no longer this worker's.
    """
    await _confirm(conn, lease)
    dataset = await get_or_create_dataset(conn, org_id, name)
    await conn.execute(_BEGIN_IMPORT, lease.id, dataset.dataset_id)
    [row] = await conn.fetch(_GET_IMPORT, lease.id)
    return _import(row)


async def get_import(conn: asyncpg.Connection, job_id: UUID) -> DatasetImport | None:
    """Return the import of a job as far as it has come, or None when it has not been begun."""
    row = await conn.fetchrow(_GET_IMPORT, job_id)
    return None if row is None else _import(row)


async def append_rows(
    conn: asyncpg.Connection,
    lease: Lease,
    dataset_id: UUID,
    rows: Sequence[NewRow],
    progress: ImportProgress,
) -> None:
    """Append a batch of rows to a dataset, and record how far the import is with them.

    To be called in a transaction, which holds the job's queue entry: rows and progress are written together, and
    only while the job is this worker's. Raises LeaseLostError when it no longer is.
    """
    await _confirm(conn, lease)
    if rows:
        await conn.execute(
            _APPEND_ROWS,
            dataset_id,
            lease.id,
            [row.row_number for row in rows],
            [row.data_json for row in rows],
        )
    saved = await conn.fetchval(
        _SAVE_IMPORT,
        lease.id,
        progress.rows_read,
        progress.rows_loaded,
        progress.rows_failed,
        progress.errors_json,
        list(progress.columns),
    )
    if saved is None:
        raise ValueError("begin_import comes before append_rows")


async def finish_import(conn: asyncpg.Connection, lease: Lease) -> None:
    """Record that an import is complete, which makes its rows visible.

    To be called in a transaction. Raises LeaseLostError when the job is no longer this worker's.
    """
    await _confirm(conn, lease)
    await conn.execute(_FINISH_IMPORT, lease.id)


async def count_rows(conn: asyncpg.Connection, dataset_id: UUID) -> int:
    """Return how many rows the finished imports of a dataset have loaded."""
    count: int = await conn.fetchval(_COUNT_ROWS, dataset_id)
    return count


async def list_columns(conn: asyncpg.Connection, dataset_id: UUID) -> list[str]:
    """Return the columns of a dataset, in the order in which its finished imports brought them."""
    return [row["name"] for row in await conn.fetch(_LIST_COLUMNS, dataset_id)]


async def read_rows(database: Database, dataset_id: UUID, *, batch_size: int) -> AsyncIterator[list[str]]:
    """Yield the rows of a dataset in batches, as JSON objects, import by import and in the order of the files.

    Each batch is a query of its own, so that no transaction stays open while the caller works on it. The rows are
    those of the imports that were finished at the beginning, and these do not change.
    """
    async with database.connection() as conn:
        finished = [row["job_id"] for row in await conn.fetch(_FINISHED_IMPORTS, dataset_id)]
    for job_id in finished:
        last_row = 0
        while True:
            async with database.connection() as conn:
                rows = await conn.fetch(_READ_ROWS, dataset_id, job_id, last_row, batch_size)
            if rows:
                yield [row["data_json"] for row in rows]
            if len(rows) < batch_size:
                break
            last_row = rows[-1]["row_number"]


async def _confirm(conn: asyncpg.Connection, lease: Lease) -> None:
    if not await millrace_queue.confirm(conn, [lease]):
        raise LeaseLostError(f"job {lease.id} is no longer held by this worker")


def _import(row: asyncpg.Record) -> DatasetImport:
    progress = ImportProgress(
        row["rows_read"], row["rows_loaded"], row["rows_failed"], row["errors_json"], row["columns"]
    )
    return DatasetImport(row["job_id"], row["dataset_id"], progress, row["completed"])

"""Files that are kept as long as their job go when the job's record does."""

from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.storage_cleanup import clean_up_storage
from millrace_worker import Registry
from support.stored_files import StoredFiles
from support.worker_runs import fetch, fetched, worker

_OLD = """
UPDATE jobs SET completed_at = now() - interval '31 days', created_at = now() - interval '31 days',
    job_id = (lpad(to_hex((extract(epoch FROM now() - interval '31 days') * 1000)::bigint), 12, '0') || '7000'
        || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid
WHERE job_id = $1
RETURNING job_id
"""


@pytest.fixture
def files(database: Database, tmp_path: Path) -> StoredFiles:
    return StoredFiles(database, LocalObjectStore(tmp_path / "files"))


async def _old_job(files: StoredFiles) -> UUID:
    [row] = await fetch(files.database, _OLD, await files.job())
    id_: UUID = row["job_id"]
    return id_


async def test_files_with_a_job_go_with_it(files: StoredFiles, tmp_path: Path) -> None:
    old, young = await _old_job(files), await files.job()
    week = timedelta(days=7)
    kept = {
        (await files.file("persistent", job_id=old))[1],
        (await files.file("temporary", week, job_id=old))[1],
        (await files.file("with_job", week, job_id=old, deleted=True))[1],
        (await files.file("with_job", job_id=young))[1],
    }
    gone = {(await files.file("with_job", job_id=old))[1] for _ in range(3)}

    async with worker(files.database, Registry(), tmp_path, retention_completed=30):
        await fetched(files.database, "SELECT FROM jobs", lambda rows: len(rows) == 1, within=20)

    expired = await fetch(files.database, "SELECT object_key FROM files WHERE expires_at <= now()")
    assert {row["object_key"] for row in expired} == gone
    await clean_up_storage(files.database, files.stores)
    assert await files.keys() == await files.rows("files") == kept
    await files.assert_consistent()

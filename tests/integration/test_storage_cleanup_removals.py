"""In which order clean-ups remove objects, and what they say of those that wait."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from millrace_database.database import Database
from millrace_storage.cleanup_report import NOTHING, Amount
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import StoreUnavailableError, UnfinishedWrite
from millrace_storage.storage_cleanup import clean_up_storage
from support.stored_files import AGO, StoredFiles, StoresOf
from support.worker_runs import fetch

_LATER = timedelta(hours=2)


@pytest.fixture
def files(database: Database, tmp_path: Path) -> StoredFiles:
    return StoredFiles(database, LocalObjectStore(tmp_path / "files"))


class _Recording(LocalObjectStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked += keys
        return await super().delete_many(keys)


class _Far(LocalObjectStore):
    provider = "s3"
    bucket = "far"


class _Away(_Far):
    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        raise StoreUnavailableError("no answer")

    def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:  # noqa: ARG002
        raise StoreUnavailableError("no answer")


async def test_what_waits_for_another_try_is_counted(files: StoredFiles, tmp_path: Path) -> None:
    away = StoredFiles(files.database, _Away(tmp_path / "far"))
    for _ in range(3):
        await away.file("temporary", AGO, content=b"12345")
    await files.removal(due_in=_LATER, size=2)
    stores = StoresOf(away.store, files.store)

    first = await clean_up_storage(files.database, stores)
    dry = await clean_up_storage(files.database, stores, dry_run=True)
    assert (first.removals, first.waiting) == (dry.removals, dry.waiting) == (NOTHING, Amount(4, 17))

    await fetch(files.database, "UPDATE file_removals SET due_at = now()")
    dry = await clean_up_storage(files.database, stores, dry_run=True)
    assert (dry.removals, dry.waiting) == (Amount(4, 17), NOTHING)
    back = StoresOf(_Far(tmp_path / "far"), files.store)
    last = await clean_up_storage(files.database, back)
    assert (last.removals, last.waiting) == (Amount(4, 17), NOTHING)


async def test_objects_are_removed_folder_by_folder(database: Database, tmp_path: Path) -> None:
    store = _Recording(tmp_path / "files")
    files = StoredFiles(database, store)
    async with database.connection() as conn:
        await conn.execute(
            "INSERT INTO file_removals (object_key, provider, due_at) "
            "SELECT 'org-acme/' || right(id, 2) || '/' || id, 'local', now() - random() * interval '1 day' "
            "FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS id FROM generate_series(1, 2500)) AS random"
        )

    report = await clean_up_storage(database, files.stores)

    assert report.removals.count == len(store.asked) == 2500
    folders = [key.rpartition("/")[0] for key in store.asked]
    changes = sum(before != after for before, after in itertools.pairwise(folders))
    assert changes == len(set(folders)) - 1

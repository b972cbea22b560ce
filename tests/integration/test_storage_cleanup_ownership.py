"""In whose store objects without a row are removed, and that a copy of a database removes nothing of the original's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from millrace_database.connection_url import asyncpg_dsn
from millrace_database.database import Database
from millrace_database.database_identity import read_database_identity
from millrace_runtime.settings import Settings
from millrace_storage import storage_cleanup
from millrace_storage.cleanup_report import Amount, CleanupReport
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_stores import ObjectStores, open_object_stores
from millrace_storage.storage_cleanup import clean_up_storage
from millrace_storage.store_owner import Owner, StoreOwners
from support.object_stores import KINDS, read
from support.s3_server import S3Bucket, S3Server, new_bucket
from support.stored_files import AGO, AT_ONCE, OWNER_KEY, StoredFiles, StoresOf, stored_files
from support.worker_runs import fetch

OTHER = b"7000000000000000000-5"


@pytest.fixture(params=KINDS)
async def files(
    request: pytest.FixtureRequest,
    database: Database,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[StoredFiles]:
    async with stored_files(request.param, database, tmp_path, s3_server, monkeypatch) as files:
        yield files


async def test_the_first_database_to_clean_a_store_up_owns_it(files: StoredFiles) -> None:
    async with files.database.connection() as conn:
        identity = await read_database_identity(conn)
    assert identity is not None

    await clean_up_storage(files.database, files.stores)

    assert await read(files.store, files.prefix + OWNER_KEY) == identity.encode()
    assert (await clean_up_storage(files.database, files.stores, times=AT_ONCE)).left_alone == []
    assert await read(files.store, files.prefix + OWNER_KEY) == identity.encode()


async def test_of_two_databases_that_look_at_the_same_moment_one_owns_the_store(tmp_path: Path) -> None:
    both_looked, one_is_sure = asyncio.Barrier(2), asyncio.Event()

    class Slow(LocalObjectStore):
        looked = created = 0

        async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
            self.looked += 1
            if self.looked <= 2:
                await both_looked.wait()
            return await super().get(key, start=start, end=end)

        async def create(self, key: str, content: bytes) -> bool:
            self.created += 1
            if self.created == 2:
                await one_is_sure.wait()
            return await super().create(key, content)

    async def owner(identity: str) -> Owner:
        found = await StoreOwners(identity, CleanupReport(dry_run=False)).of(store, "", claim=True)
        one_is_sure.set()
        return found

    store = Slow(tmp_path)
    assert set(await asyncio.gather(owner("a"), owner("b"))) == {Owner.THIS, Owner.OTHER}


async def test_what_another_database_owns_is_left_alone_until_somebody_says_otherwise(
    files: StoredFiles,
) -> None:
    await files.object(files.prefix + OWNER_KEY, OTHER)
    unknown = await files.object()
    write = await files.unfinished_write()
    await files.file("temporary", AGO)
    before = await files.keys()
    assert unknown in before

    report = await clean_up_storage(files.database, files.stores, times=AT_ONCE)

    assert await files.keys() == before
    assert await files.unfinished() == {write}
    # The file has gone from this database, which may be a copy; the original still has it.
    assert (report.files, report.removals) == (Amount(1, 7), Amount(0, 0))
    [reason] = report.left_alone
    assert OTHER.decode() in reason
    where = f"{files.prefix}{OWNER_KEY} in the bucket {files.store.bucket}"
    if isinstance(files.store, LocalObjectStore):
        where = str(files.store.root / OWNER_KEY)
    assert reason.endswith(f"delete {where}")
    assert report.problems == []

    await files.store.delete(files.prefix + OWNER_KEY)
    report = await clean_up_storage(files.database, files.stores, times=AT_ONCE)
    assert (report.removals, report.objects) == (Amount(1, 7), Amount(1, 1))
    assert await files.keys() == await files.unfinished() == set()


async def test_without_an_identity_nothing_is_searched(
    files: StoredFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_knows(_: asyncpg.Connection) -> None:
        return None

    monkeypatch.setattr(storage_cleanup, "read_database_identity", nobody_knows)
    unknown = await files.object()

    report = await clean_up_storage(files.database, files.stores, times=AT_ONCE)

    assert await files.keys() == {unknown}
    [reason] = report.left_alone
    assert "pg_control_system()" in reason


async def test_a_role_without_rights_may_not_know_the_identity(database: Database) -> None:
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC; CREATE ROLE plain")
        await conn.execute("SET LOCAL ROLE plain")
        assert await read_database_identity(conn) is None
        await transaction.rollback()


async def test_databases_of_one_server_are_told_apart(database: Database, postgres_url: str) -> None:
    other = await asyncpg.connect(asyncpg_dsn(postgres_url))
    async with database.connection() as conn:
        assert await read_database_identity(conn) != await read_database_identity(other)
    await other.close()


async def test_a_store_of_older_files_is_searched_too(files: StoredFiles, tmp_path: Path) -> None:
    older = StoredFiles(files.database, LocalObjectStore(tmp_path / "older"))
    kept = (await older.file())[1]
    await older.object()
    await files.object()
    stores = StoresOf(files.store, older.store, prefix=files.prefix)

    report = await clean_up_storage(files.database, stores, times=AT_ONCE)

    assert report.objects == Amount(2, 2)
    assert (await older.keys(), await files.keys()) == ({kept}, set())


async def test_a_copy_with_a_prefix_of_its_own_removes_nothing_of_the_original(
    database: Database, s3_bucket: S3Bucket
) -> None:
    original = StoredFiles(database, s3_bucket.store(), "original/")
    await original.object("original/" + OWNER_KEY, OTHER)
    await original.file("temporary", AGO)
    await original.object(await original.upload("presigned", AGO))
    before = await original.keys()
    copy = StoredFiles(database, s3_bucket.store(), "copy/")
    own = await copy.file("temporary", AGO)

    report = await clean_up_storage(database, copy.stores, times=AT_ONCE)

    assert own[1] not in await original.keys()
    assert before <= await original.keys()
    assert await copy.rows("file_removals") == before
    [reason] = report.left_alone
    where = f"original/{OWNER_KEY} in the bucket {s3_bucket.name}"
    assert f"{where} says {OTHER.decode()}" in reason
    assert report.problems == []

    await original.store.delete("original/" + OWNER_KEY)
    await fetch(database, "UPDATE file_removals SET due_at = now()")
    assert (await clean_up_storage(database, copy.stores, times=AT_ONCE)).removals.count == 2
    assert await original.keys() == {"copy/" + OWNER_KEY}


async def test_a_copy_with_a_bucket_of_its_own_removes_nothing_of_the_original(
    database: Database,
    s3_bucket: S3Bucket,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    original = StoredFiles(database, s3_bucket.store(), "files/")
    await original.object("files/" + OWNER_KEY, OTHER)
    await original.file("temporary", AGO)
    before = await original.keys()
    async with (
        new_bucket(s3_server, monkeypatch) as bucket,
        _settings_stores(tmp_path, bucket, "s3", "files/") as stores,
    ):
        report = await clean_up_storage(database, stores, times=AT_ONCE)
    assert await original.keys() == before
    assert len(report.left_alone) == 1


@pytest.mark.parametrize(("owner", "left"), [(None, 1), (OTHER, 1), (b"", 0)])
async def test_a_bucket_that_new_files_do_not_go_to_is_searched_if_it_says_that_it_is_this_databases(
    database: Database, s3_bucket: S3Bucket, tmp_path: Path, owner: bytes | None, left: int
) -> None:
    older = StoredFiles(database, s3_bucket.store(), "files/")
    kept = (await older.file())[1]
    await older.object()
    async with database.connection() as conn:
        identity = await read_database_identity(conn)
    assert identity is not None
    if owner is not None:
        await older.object("files/" + OWNER_KEY, owner or identity.encode())
    async with _settings_stores(tmp_path, s3_bucket, "local", "files/") as stores:
        report = await clean_up_storage(database, stores, times=AT_ONCE)
    assert len(await older.keys() - {kept}) == left
    assert kept in await older.keys()
    assert report.objects.count == 1 - left
    assert (await older.store.head("files/" + OWNER_KEY) is None) == (owner is None)


def _settings_stores(
    folder: Path, bucket: S3Bucket, provider: Literal["local", "s3"], prefix: str
) -> AbstractAsyncContextManager[ObjectStores]:
    settings = Settings(
        data_dir=folder,
        storage_provider=provider,
        s3_bucket=bucket.name,
        s3_endpoint=bucket.server.endpoint,
        s3_prefix=prefix,
    )
    return open_object_stores(settings)

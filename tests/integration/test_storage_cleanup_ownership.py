"""In whose store objects without a row are removed, and that a copy of a database removes nothing of the original's."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from millrace_database.connection_url import asyncpg_dsn
from millrace_database.database import Database
from millrace_database.database_identity import read_database_identity
from millrace_storage import storage_cleanup
from millrace_storage.cleanup_report import Amount
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.storage_cleanup import clean_up_storage
from support.object_stores import KINDS, read
from support.s3_server import S3Server, running_s3_server
from support.stored_files import AGO, AT_ONCE, OWNER_KEY, StoredFiles, StoresOf, stored_files


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3_server() as server:
        yield server


@pytest.fixture(params=KINDS)
async def files(
    request: pytest.FixtureRequest,
    database: Database,
    tmp_path: Path,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[StoredFiles]:
    async with stored_files(request.param, database, tmp_path, server, monkeypatch) as files:
        yield files


async def test_the_first_database_to_clean_a_store_up_owns_it(files: StoredFiles) -> None:
    async with files.database.connection() as conn:
        identity = await read_database_identity(conn)
    assert identity is not None

    await clean_up_storage(files.database, files.stores)

    assert await read(files.store, files.prefix + OWNER_KEY) == identity.encode()
    assert (await clean_up_storage(files.database, files.stores, times=AT_ONCE)).left_alone == []
    assert await read(files.store, files.prefix + OWNER_KEY) == identity.encode()


async def test_what_another_database_owns_is_left_alone_until_somebody_says_otherwise(
    files: StoredFiles,
) -> None:
    await files.object(files.prefix + OWNER_KEY, b"7000000000000000000-5")
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
    assert "7000000000000000000-5" in reason
    assert f"delete {files.prefix}{OWNER_KEY}" in reason
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

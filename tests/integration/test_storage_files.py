import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from millrace_database import Database, files_repository
from millrace_database.ids import new_id
from millrace_storage import (
    ContentMismatch,
    ContentMissing,
    FileMissing,
    FileRecord,
    FileStore,
    LocalObjectStore,
)
from support.polling import eventually

CONTENT = b"id,name\n1,CDG\n" * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "files")


@pytest.fixture
def files(database: Database, objects: LocalObjectStore) -> FileStore:
    return FileStore(database, objects)


async def _chunks(content: bytes = CONTENT) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


async def _save(files: FileStore, name: str = "airports.csv", org_id: str = "acme") -> FileRecord:
    return await files.save(
        org_id=org_id, name=name, content_type="text/csv", created_by="ada", chunks=_chunks()
    )


async def _object_keys(objects: LocalObjectStore) -> list[str]:
    return [stored.key async for stored in objects.list()]


async def test_a_file_comes_back_with_its_content(files: FileStore) -> None:
    job_id = new_id()
    saved = await files.save(
        org_id="acme",
        name="airports.csv",
        content_type="text/csv",
        created_by="ada",
        chunks=_chunks(),
        job_id=job_id,
        expected_size=len(CONTENT),
        expected_sha256=SHA256.upper(),
    )
    assert (saved.size_bytes, saved.sha256, saved.job_id) == (len(CONTENT), SHA256, job_id)
    assert (saved.name, saved.content_type, saved.created_by) == ("airports.csv", "text/csv", "ada")
    record, chunks = await files.open("acme", saved.file_id)
    assert record == saved == await files.get("acme", saved.file_id)
    assert b"".join([chunk async for chunk in chunks]) == CONTENT


async def test_an_empty_file(files: FileStore) -> None:
    saved = await files.save(
        org_id="acme",
        name="empty",
        content_type="text/plain",
        created_by="",
        chunks=_chunks(b""),
        expected_size=0,
        expected_sha256=hashlib.sha256().hexdigest(),
    )
    _, chunks = await files.open("acme", saved.file_id)
    assert [chunk async for chunk in chunks] == []


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"expected_size": len(CONTENT) - 1}, "more than the announced"),
        ({"expected_size": 1}, "more than the announced"),
        ({"expected_size": len(CONTENT) + 1}, "were announced"),
        ({"expected_sha256": "0" * 64}, "SHA-256"),
    ],
)
async def test_other_content_than_announced_is_refused_and_nothing_stays(
    files: FileStore, objects: LocalObjectStore, expected: dict[str, Any], words: str
) -> None:
    with pytest.raises(ContentMismatch, match=words):
        await files.save(
            org_id="acme", name="x", content_type="text/csv", created_by="", chunks=_chunks(), **expected
        )
    assert await files.list("acme", None, 10) == []
    assert await _object_keys(objects) == []


async def test_an_aborted_upload_leaves_nothing(files: FileStore, objects: LocalObjectStore) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield CONTENT
        waiting.set()
        await asyncio.Event().wait()

    saving = asyncio.create_task(
        files.save(org_id="acme", name="x", content_type="text/csv", created_by="", chunks=endless())
    )
    await waiting.wait()
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await files.list("acme", None, 10) == []
    assert await _object_keys(objects) == []


async def test_a_file_that_cannot_be_recorded_leaves_no_object(
    files: FileStore, objects: LocalObjectStore, database: Database
) -> None:
    async with database.connection() as connection:
        await connection.execute("ALTER TABLE files ADD CHECK (name <> 'refused')")
    with pytest.raises(asyncpg.CheckViolationError):
        await _save(files, "refused")
    assert await _object_keys(objects) == []


async def test_an_upload_aborted_while_it_is_recorded_leaves_nothing(
    files: FileStore, objects: LocalObjectStore, database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE files IN SHARE MODE")
        saving = asyncio.create_task(_save(files))
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with database.connection() as other:
            await eventually(lambda: other.fetchval(blocked))
        saving.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await files.list("acme", None, 10) == []
    assert await _object_keys(objects) == []


async def test_content_is_kept_when_nobody_knows_whether_it_was_recorded(
    files: FileStore, objects: LocalObjectStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = files_repository.insert_file

    async def insert_and_lose_the_answer(
        connection: asyncpg.Connection, file: files_repository.NewFile
    ) -> FileRecord:
        await original(connection, file)
        monkeypatch.setattr(files_repository, "delete_file", _away)
        raise ConnectionResetError("the server is gone")

    monkeypatch.setattr(files_repository, "insert_file", insert_and_lose_the_answer)
    with pytest.raises(ConnectionResetError):
        await _save(files)
    [record] = await files.list("acme", None, 10)
    assert await _object_keys(objects) == [record.object_key]


async def _away(*_: object) -> None:
    raise ConnectionRefusedError("no connection")


async def test_a_users_file_name_is_no_path(files: FileStore, objects: LocalObjectStore) -> None:
    saved = await _save(files, name="../../etc/passwd", org_id="..")
    assert saved.name == "../../etc/passwd"
    [key] = await _object_keys(objects)
    assert "passwd" not in key
    assert key == saved.object_key == f"org-../{saved.file_id.hex[-2:]}/{saved.file_id.hex}"


async def test_files_are_listed_newest_first_in_pages(files: FileStore) -> None:
    ids = [(await _save(files)).file_id for _ in range(3)]
    await _save(files, org_id="other")
    page = await files.list("acme", None, 2)
    rest = await files.list("acme", page[-1].file_id, 2)
    assert [record.file_id for record in page + rest] == ids[::-1]


async def test_a_file_that_does_not_exist_or_is_anothers(files: FileStore) -> None:
    saved = await _save(files)
    for org_id, file_id in (("acme", new_id()), ("other", saved.file_id)):
        assert await files.get(org_id, file_id) is None
        with pytest.raises(FileMissing):
            await files.open(org_id, file_id)


async def test_content_that_is_gone_is_told_apart(files: FileStore, objects: LocalObjectStore) -> None:
    saved = await _save(files)
    _, chunks = await files.open("acme", saved.file_id)
    await objects.delete(saved.object_key)
    with pytest.raises(ContentMissing):
        await anext(chunks)
    with pytest.raises(ContentMissing):
        await files.open("acme", saved.file_id)


async def test_truncated_content_is_not_handed_out(files: FileStore, objects: LocalObjectStore) -> None:
    saved = await _save(files)
    await objects.put(saved.object_key, _chunks(CONTENT[:-1]))
    with pytest.raises(ContentMissing):
        await files.open("acme", saved.file_id)


async def test_uploads_at_the_same_time_do_not_mix(files: FileStore) -> None:
    contents = [bytes([number]) * 300_000 for number in range(8)]

    async def save(content: bytes) -> FileRecord:
        return await files.save(
            org_id="acme", name="x", content_type="", created_by="", chunks=_chunks(content)
        )

    saved = await asyncio.gather(*(save(content) for content in contents))
    for record, content in zip(saved, contents, strict=True):
        _, chunks = await files.open("acme", record.file_id)
        assert b"".join([chunk async for chunk in chunks]) == content

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from millrace_database import Database
from millrace_database.ids import new_id
from millrace_queue import Lease
from millrace_storage import (
    ContentMismatch,
    ContentMissing,
    FileFilters,
    FileMissing,
    FileRecord,
    FileStore,
    LeaseLost,
    ObjectStore,
    RangeBeyondEnd,
    StoreNotConfigured,
    TypeNotAllowed,
    UploadGivenUp,
    object_writing,
)
from support.local_files import local_files
from support.polling import eventually
from support.stored_files import StoredFiles

CONTENT = b"id,name\n1,CDG\n" * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return local_files(database, tmp_path)


@pytest.fixture
def objects(files: FileStore) -> ObjectStore:
    return files.stores.default


@pytest.fixture
async def inside(files: FileStore, database: Database) -> AsyncIterator[StoredFiles]:
    """What there is inside, which is consistent at the end of each test."""
    inside = StoredFiles(database, files.stores.default)
    yield inside
    await inside.assert_consistent()


async def _chunks(content: bytes = CONTENT) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


async def _save(
    files: FileStore, content: bytes = CONTENT, name: str = "airports.csv", org_id: str = "acme", **more: Any
) -> FileRecord:
    return await files.save(
        org_id=org_id,
        name=name,
        content_type="text/csv",
        created_by="ada",
        chunks=_chunks(content),
        **more,
    )


async def _read(files: FileStore, file: FileRecord, **part: int) -> bytes:
    _, chunks = await files.open(file.org_id, file.file_id, **part)
    return b"".join([chunk async for chunk in chunks])


async def _is_empty(files: FileStore, inside: StoredFiles) -> bool:
    """No file, no object, and nothing that tells of any."""
    rows = [await inside.rows(table) for table in ("files", "file_uploads", "file_removals")]
    usage = await files.usage("acme")
    return not any(rows) and not await inside.keys() and (usage.files, usage.total_bytes) == (0, 0)


async def test_a_file_comes_back_with_its_content(files: FileStore, inside: StoredFiles) -> None:
    job_id = new_id()
    saved = await _save(
        files, job_id=job_id, expected_size=len(CONTENT), expected_sha256=SHA256.upper(), state="with_job"
    )
    assert (saved.size_bytes, saved.sha256, saved.job_id) == (len(CONTENT), SHA256, job_id)
    assert (saved.name, saved.content_type, saved.created_by) == ("airports.csv", "text/csv", "ada")
    assert (saved.state, saved.expires_at, saved.deleted_at) == ("with_job", None, None)
    record, _ = await files.open("acme", saved.file_id)
    assert record == saved == await files.get("acme", saved.file_id)
    assert await _read(files, saved) == CONTENT


async def test_an_empty_file(files: FileStore, inside: StoredFiles) -> None:
    saved = await _save(files, b"", expected_size=0, expected_sha256=hashlib.sha256().hexdigest())
    assert await _read(files, saved) == b""


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (1, None), (49_999, 50_001), (len(CONTENT) - 1, None), (len(CONTENT), None)]
)
async def test_a_part_of_a_file(files: FileStore, start: int, end: int | None) -> None:
    saved = await _save(files)
    part = {"start": start} if end is None else {"start": start, "end": end}
    assert await _read(files, saved, **part) == CONTENT[start:end]


async def test_a_part_behind_the_end(files: FileStore) -> None:
    saved = await _save(files)
    assert await _read(files, saved, start=5, end=2**40) == CONTENT[5:]
    assert await _read(files, saved, start=5, end=5) == b""
    with pytest.raises(RangeBeyondEnd) as caught:
        await files.open("acme", saved.file_id, start=len(CONTENT) + 1)
    assert caught.value.size == len(CONTENT)


@pytest.mark.parametrize(
    ("expected", "field", "words"),
    [
        ({"expected_size": len(CONTENT) - 1}, "size_bytes", "more than the announced"),
        ({"expected_size": 1}, "size_bytes", "more than the announced"),
        ({"expected_size": len(CONTENT) + 1}, "size_bytes", "were announced"),
        ({"expected_sha256": "0" * 64}, "sha256", "SHA-256"),
    ],
)
async def test_other_content_than_announced_is_refused_and_nothing_stays(
    files: FileStore, inside: StoredFiles, expected: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ContentMismatch, match=words) as caught:
        await _save(files, **expected)
    assert caught.value.field == field
    assert await _is_empty(files, inside)


async def test_the_content_says_what_it_is(files: FileStore) -> None:
    pdf = await _save(files, b"%PDF-1.7\n\x00\x01")
    assert pdf.content_type == "application/pdf"


async def test_a_type_that_is_not_allowed_is_refused_by_its_first_bytes(
    database: Database, tmp_path: Path, inside: StoredFiles
) -> None:
    files = local_files(database, tmp_path, files_allowed_types=("text/*",))
    taken = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(100):
            taken.append(number)
            yield b"\x89PNG\r\n\x1a\n" + bytes(10_000)

    with pytest.raises(TypeNotAllowed) as caught:
        await files.save(
            org_id="acme", name="a", content_type="text/csv", created_by="", chunks=chunks(), by_caller=True
        )
    assert caught.value.content_type == "image/png"
    assert taken == [0]
    assert await _is_empty(files, inside)
    # What jobs make is not asked.
    assert (await _save(files, b"%PDF-1.7\n")).content_type == "application/pdf"
    assert (await _save(files, by_caller=True)).content_type == "text/csv"


async def test_an_aborted_upload_leaves_nothing(files: FileStore, inside: StoredFiles) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield CONTENT
        waiting.set()
        await asyncio.Event().wait()

    saving = asyncio.create_task(
        files.save(org_id="acme", name="x", content_type="text/csv", created_by="", chunks=endless())
    )
    await waiting.wait()
    assert len(await inside.rows("file_uploads")) == 1
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await _is_empty(files, inside)


async def test_a_file_that_cannot_be_recorded_leaves_no_object(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    async with database.connection() as connection:
        await connection.execute("ALTER TABLE files ADD CHECK (name <> 'refused')")
    with pytest.raises(asyncpg.CheckViolationError):
        await _save(files, name="refused")
    assert await _is_empty(files, inside)


async def test_an_upload_aborted_while_it_is_recorded_leaves_nothing(
    files: FileStore, inside: StoredFiles, database: Database
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
    assert await _is_empty(files, inside)


@pytest.mark.parametrize("lives", [False, True])
async def test_an_upload_that_was_given_up_is_not_recorded(
    files: FileStore,
    inside: StoredFiles,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lives: bool,
) -> None:
    """A clean-up takes an upload for abandoned while its chunks still come, or while they have come."""
    if lives:
        monkeypatch.setattr(object_writing, "_PUT_OFF_EVERY_SECONDS", 0.0)

    async def chunks() -> AsyncIterator[bytes]:
        yield CONTENT
        async with database.connection() as connection:
            await connection.execute("DELETE FROM file_uploads")
        yield CONTENT

    with pytest.raises(UploadGivenUp):
        await files.save(org_id="acme", name="x", content_type="", created_by="", chunks=chunks())
    assert await _is_empty(files, inside)


async def test_an_upload_whose_writing_a_clean_up_has_undone_is_given_up(
    files: FileStore, objects: ObjectStore, inside: StoredFiles, database: Database
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield CONTENT * 3
        yield b"x"
        async with database.connection() as connection:
            await connection.execute("DELETE FROM file_uploads")
        writes = [write async for write in objects.list_unfinished()]
        assert writes
        for write in writes:
            await objects.abort_unfinished(write)
        yield CONTENT * 3

    with pytest.raises(UploadGivenUp):
        await files.save(org_id="acme", name="x", content_type="", created_by="", chunks=chunks())
    assert await _is_empty(files, inside)


async def test_an_upload_is_not_given_up_while_its_chunks_come(
    files: FileStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_writing, "_PUT_OFF_EVERY_SECONDS", 0.0)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield CONTENT
            async with database.connection() as connection:
                left = await connection.fetchval("SELECT expires_at - now() FROM file_uploads")
                await connection.execute("UPDATE file_uploads SET expires_at = now()")
            assert left.total_seconds() > 800

    saved = await files.save(org_id="acme", name="x", content_type="", created_by="", chunks=chunks())
    assert await _read(files, saved) == CONTENT * 3


async def test_a_file_of_a_job_needs_the_jobs_lease(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    job_id = new_id()
    with pytest.raises(LeaseLost):
        await _save(files, job_id=job_id, lease=Lease(job_id, 1), state="with_job")
    assert await _is_empty(files, inside)


async def test_a_file_whose_answer_was_lost_goes_again(
    files: FileStore, inside: StoredFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files._saving, "_finish", _and_then(files._saving._finish, ConnectionResetError))
    with pytest.raises(ConnectionResetError):
        await _save(files)
    assert await _is_empty(files, inside)


async def test_what_cannot_be_taken_back_is_left_to_the_clean_up_and_told_once(
    files: FileStore,
    inside: StoredFiles,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def away(*_: object, **__: object) -> bool:
        raise ConnectionRefusedError("no connection")

    monkeypatch.setattr(files._saving, "_finish", away)
    monkeypatch.setattr(files._writing, "_disown", away)
    with caplog.at_level(logging.WARNING, "millrace_storage"), pytest.raises(ConnectionRefusedError):
        await _save(files)
    [said] = [record for record in caplog.records if record.name.startswith("millrace_storage")]
    assert "left to the clean-up" in said.message
    assert await inside.rows("file_uploads") == await inside.keys() != set()


def _and_then(done: Callable[..., Any], error: type[Exception]) -> Callable[..., Any]:
    async def call(*arguments: Any) -> Any:
        await done(*arguments)
        raise error("the answer is lost")

    return call


async def test_a_users_file_name_is_no_path(files: FileStore, inside: StoredFiles) -> None:
    saved = await _save(files, name="../../etc/passwd", org_id="..")
    assert saved.name == "../../etc/passwd"
    [key] = await inside.keys()
    assert "passwd" not in key
    assert key == saved.object_key == f"org-../{saved.file_id.hex[-2:]}/{saved.file_id.hex}"


async def test_files_are_listed_newest_first_in_pages(files: FileStore) -> None:
    ids = [(await _save(files)).file_id for _ in range(3)]
    await _save(files, org_id="other")
    page = await files.list("acme", FileFilters(), None, 2)
    rest = await files.list("acme", FileFilters(), page[-1].file_id, 2)
    assert [record.file_id for record in page + rest] == ids[::-1]


async def test_a_file_that_does_not_exist_or_is_anothers(files: FileStore) -> None:
    saved = await _save(files)
    for org_id, file_id in (("acme", new_id()), ("other", saved.file_id)):
        assert await files.get(org_id, file_id) is None
        with pytest.raises(FileMissing):
            await files.open(org_id, file_id)


async def test_content_that_is_gone_is_told_apart(files: FileStore, objects: ObjectStore) -> None:
    saved = await _save(files)
    _, chunks = await files.open("acme", saved.file_id)
    await objects.delete(saved.object_key)
    with pytest.raises(ContentMissing):
        await anext(chunks)
    with pytest.raises(ContentMissing):
        await files.open("acme", saved.file_id)


async def test_truncated_content_is_not_handed_out(files: FileStore, objects: ObjectStore) -> None:
    saved = await _save(files)
    await objects.put(saved.object_key, _chunks(CONTENT[:-1]))
    with pytest.raises(ContentMissing):
        await files.open("acme", saved.file_id)


async def test_a_file_in_a_store_that_the_settings_name_no_more(files: FileStore, database: Database) -> None:
    saved = await _save(files)
    async with database.connection() as connection:
        await connection.execute("UPDATE files SET provider = 's3', bucket = 'older'")
    with pytest.raises(StoreNotConfigured) as caught:
        await files.open("acme", saved.file_id)
    assert (caught.value.provider, caught.value.bucket) == ("s3", "older")


async def test_uploads_at_the_same_time_do_not_mix(files: FileStore, inside: StoredFiles) -> None:
    contents = [bytes([number]) * 300_000 for number in range(8)]
    saved = await asyncio.gather(*(_save(files, content) for content in contents))
    for record, content in zip(saved, contents, strict=True):
        assert await _read(files, record) == content

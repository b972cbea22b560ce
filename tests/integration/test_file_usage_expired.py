"""Files whose time is over keep nobody from storing others, whether the clean-up has come by or not."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from millrace_database import Database
from millrace_database.storage_cleanup_repository import remove_expired_files
from millrace_storage import FileRecord, FileStore, LimitExceeded, current_usage
from millrace_storage.storage_cleanup import clean_up_storage
from support.direct_uploads import initiate, send
from support.local_files import local_files
from support.object_stores import chunks_of
from support.polling import eventually
from support.stored_files import AGO, AT_ONCE, StoredFiles
from support.worker_runs import fetch

_SOON = timedelta(minutes=1)


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    """Room for one file of 10 bytes."""
    return local_files(database, tmp_path, files_max_total_bytes=10, files_max_count=1)


@pytest.fixture(autouse=True)
async def inside(files: FileStore, database: Database) -> AsyncIterator[StoredFiles]:
    """What there is inside, which is consistent after a clean-up."""
    inside = StoredFiles(database, files.stores.default)
    yield inside
    await clean_up_storage(database, inside.stores, times=AT_ONCE)
    await inside.assert_consistent()


async def _save(files: FileStore, content: bytes = b"0123456789", org_id: str = "acme") -> FileRecord:
    return await files.save(
        org_id=org_id, name="a", content_type="text/plain", created_by="", chunks=chunks_of(content)
    )


async def test_an_expired_file_leaves_its_place_to_the_next(files: FileStore, inside: StoredFiles) -> None:
    _, key = await inside.file("temporary", AGO, content=b"0123456789")

    saved = await _save(files)

    # Its object is left to the clean-up.
    assert await inside.rows("file_removals") == {key}
    assert await inside.rows("files") == {saved.object_key}
    with pytest.raises(LimitExceeded):
        await _save(files)


async def test_a_stream_of_unknown_length_may_take_what_an_expired_file_took(
    database: Database, tmp_path: Path, inside: StoredFiles
) -> None:
    files = local_files(database, tmp_path, files_max_total_bytes=10)
    await inside.file("temporary", AGO, content=b"012345678")
    assert (await _save(files)).size_bytes == 10


async def test_what_expires_while_another_is_stored_is_made_room_of(
    database: Database, inside: StoredFiles, tmp_path: Path
) -> None:
    files = local_files(database, tmp_path, files_max_total_bytes=10, files_max_count=2)
    await inside.file("temporary", _SOON, content=b"0")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"0123"
        # Somebody else takes the last place, and then the time of the first one is over.
        await inside.file("persistent", content=b"1")
        await fetch(database, "UPDATE files SET expires_at = now() WHERE state = 'temporary'")

    await files.save(org_id="acme", name="a", content_type="", created_by="", chunks=chunks())
    assert (await files.usage("acme")).total_bytes == 5


async def test_direct_uploads_find_room(files: FileStore, database: Database, inside: StoredFiles) -> None:
    await inside.file("temporary", AGO, content=b"0")
    upload = await initiate(files, b"0123456789")
    await send(files, database, upload, b"0123456789")
    await inside.file("temporary", AGO, content=b"0")
    file = await files.confirm_upload("acme", upload.upload_id)
    assert await inside.rows("files") == {file.object_key}


async def test_a_deleted_file_comes_back_in_the_place_of_an_expired_one(
    files: FileStore, inside: StoredFiles
) -> None:
    file_id, key = await inside.file("persistent", _SOON, deleted=True)
    await inside.file("temporary", AGO)
    await files.undelete("acme", file_id)
    assert await inside.rows("files") == {key}


async def test_what_is_shown_is_without_them(
    files: FileStore, inside: StoredFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_usage, "_BATCH", 2)
    for _ in range(5):
        await inside.file("temporary", AGO)
    await inside.file("temporary", _SOON, content=b"123")
    other = (await inside.file("temporary", AGO, org="other"))[1]
    deleted = (await inside.file("persistent", AGO, deleted=True))[1]

    usage = await files.usage("acme")

    assert (usage.files, usage.total_bytes) == (1, 3)
    assert await inside.rows("files") >= {other, deleted}


async def test_who_has_no_limits_does_not_look_for_them(
    database: Database, tmp_path: Path, inside: StoredFiles
) -> None:
    files = local_files(database, tmp_path)
    _, key = await inside.file("temporary", AGO)
    await _save(files)
    assert key in await inside.rows("files")


async def test_who_comes_while_a_clean_up_removes_them_waits_for_it(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    await inside.file("temporary", AGO)
    async with database.transaction() as cleaning:
        assert (await remove_expired_files(cleaning, None, limit=10)).count == 1
        saving = asyncio.create_task(_save(files))

        async def waits() -> bool:
            blocked = await fetch(
                database,
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%doomed%'",
            )
            return bool(blocked) or saving.done()

        await eventually(waits)
        assert not saving.done()
    await saving


async def test_of_many_at_once_so_many_find_room_as_expired_files_leave(
    files: FileStore, database: Database, tmp_path: Path, inside: StoredFiles
) -> None:
    files = local_files(database, tmp_path, files_max_count=5)
    for _ in range(5):
        await inside.file("temporary", AGO)
    cleaning = asyncio.create_task(clean_up_storage(database, inside.stores, times=AT_ONCE))
    results = await asyncio.gather(*(_save(files) for _ in range(12)), return_exceptions=True)
    await cleaning
    assert sum(isinstance(result, FileRecord) for result in results) == 5
    assert sum(isinstance(result, LimitExceeded) for result in results) == 7

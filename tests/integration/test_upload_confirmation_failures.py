"""Confirmations of uploads that fail, are killed or lose their answer: what was uploaded is not lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millrace_database import Database
from millrace_storage import (
    FileRecord,
    FileStore,
    StoredObject,
    StoreUnavailableError,
    UploadGivenUp,
    upload_confirmation,
)
from millrace_storage.cleanup_report import NOTHING
from millrace_storage.storage_cleanup import clean_up_storage
from support.direct_uploads import CONTENT, initiate, send
from support.local_files import local_files
from support.object_stores import put
from support.stored_files import AT_ONCE, OWNER_KEY, StoredFiles

# Who is cancelled waits longer for what it has asked of a store.
_SERVED_LATE_SECONDS = 0.5


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return local_files(database, tmp_path, files_allowed_types=("text/*",))


@pytest.fixture(autouse=True)
async def inside(files: FileStore, database: Database) -> AsyncIterator[StoredFiles]:
    """What there is inside, which is consistent at the end of each test."""
    inside = StoredFiles(database, files.stores.default)
    yield inside
    await inside.assert_consistent()


async def _read(files: FileStore, file: FileRecord) -> bytes:
    _, chunks = await files.open(file.org_id, file.file_id)
    return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("is_newer_there", [False, True])
async def test_a_confirmation_that_failed_for_another_reason_can_be_repeated(
    files: FileStore,
    inside: StoredFiles,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_newer_there: bool,
) -> None:
    upload = await initiate(files)
    key = await send(files, database, upload)
    newer = b"NEWER" + CONTENT[5:]

    async def get(_: str) -> AsyncIterator[bytes]:
        if is_newer_there:
            await put(files.stores.default, key, newer)
        raise StoreUnavailableError("no answer")

    with monkeypatch.context() as patches:
        patches.setattr(files.stores.default, "get", get)
        with pytest.raises(StoreUnavailableError):
            await files.confirm_upload("acme", upload.upload_id)
    assert await inside.keys() == {key}

    file = await files.confirm_upload("acme", upload.upload_id)
    assert await _read(files, file) == (newer if is_newer_there else CONTENT)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_confirmation_can_be_repeated_when_its_store_was_away_in_the_middle(
    files: FileStore, database: Database, inside: StoredFiles, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """What was uploaded is moved, cannot be read there, and cannot be moved back."""
    store = files.stores.default
    moves, real = 0, store.move

    async def move(source: str, target: str) -> StoredObject:
        nonlocal moves
        moves += 1
        if 1 < moves <= 1 + times:
            raise StoreUnavailableError("no answer")
        return await real(source, target)

    async def get(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("no answer")

    upload = await initiate(files)
    await send(files, database, upload)
    with monkeypatch.context() as patch:
        patch.setattr(store, "move", move)
        patch.setattr(store, "get", get)
        for _ in range(times):
            with pytest.raises(StoreUnavailableError):
                await files.confirm_upload("acme", upload.upload_id)
            assert await inside.rows("file_uploads") >= await inside.keys()

    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_what_a_store_that_was_away_kept_stays_as_long_as_the_upload_is_open(
    files: FileStore, database: Database, inside: StoredFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    with monkeypatch.context() as patch:
        _leave_halfway(files, patch)
        with pytest.raises(StoreUnavailableError):
            await files.confirm_upload("acme", upload.upload_id)
    kept = await inside.keys()
    assert len(kept) == 1

    dry = await clean_up_storage(database, files.stores, dry_run=True, times=AT_ONCE)
    report = await clean_up_storage(database, files.stores, times=AT_ONCE)

    assert dry.uploads == report.uploads == report.removals == NOTHING
    assert await inside.keys() == kept
    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_what_a_store_that_was_away_kept_is_cleaned_up_when_the_upload_is_over(
    files: FileStore, database: Database, inside: StoredFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, cancelled = await initiate(files), await initiate(files)
    with monkeypatch.context() as patch:
        _leave_halfway(files, patch)
        for each in (upload, cancelled):
            await send(files, database, each)
            with pytest.raises(StoreUnavailableError):
                await files.confirm_upload("acme", each.upload_id)
    assert len(await inside.keys()) == 2
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE file_uploads SET expires_at = now() WHERE upload_id = $1", upload.upload_id
        )
    await files.cancel_upload("acme", cancelled.upload_id)

    await clean_up_storage(database, files.stores)

    assert await inside.keys() == set()


def _leave_halfway(files: FileStore, patch: pytest.MonkeyPatch) -> None:
    """Have the store go away when what was uploaded has been moved, so that it can be neither read nor moved back."""
    store = files.stores.default
    real = store.head

    async def head(key: str) -> StoredObject | None:
        if "incoming" in key:
            raise StoreUnavailableError("no answer")
        return await real(key)

    async def get(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("no answer")

    patch.setattr(store, "head", head)
    patch.setattr(store, "get", get)


async def test_a_clean_up_takes_nothing_of_what_is_being_put_back(
    files: FileStore, database: Database, inside: StoredFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes by while the store thinks about what it is asked after the failure."""
    upload = await initiate(files)
    key = await send(files, database, upload)
    store = files.stores.default
    real_head, real_get = store.head, store.get

    async def head(asked: str) -> StoredObject | None:
        if asked == key:
            report = await clean_up_storage(database, files.stores, times=AT_ONCE)
            assert report.problems == []
        return await real_head(asked)

    async def get(asked: str, **range_: Any) -> AsyncIterator[bytes]:
        if asked == OWNER_KEY:
            return await real_get(asked, **range_)
        raise StoreUnavailableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(store, "head", head)
        patch.setattr(store, "get", get)
        with pytest.raises(StoreUnavailableError):
            await files.confirm_upload("acme", upload.upload_id)
    assert await inside.keys() == {key}
    assert await inside.rows("file_removals") == set()

    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_a_confirmation_that_fails_after_the_upload_was_cancelled_leaves_nothing(
    files: FileStore, inside: StoredFiles, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)

    async def get(_: str) -> AsyncIterator[bytes]:
        await files.cancel_upload("acme", upload.upload_id)
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr(files.stores.default, "get", get)
    with pytest.raises(StoreUnavailableError):
        await files.confirm_upload("acme", upload.upload_id)

    assert await inside.keys() == set()


async def test_a_confirmation_that_is_cancelled_while_it_moves_what_was_uploaded_keeps_it(
    files: FileStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on S3: it is copied and then deleted, and what the server was asked it does although nobody waits for it."""
    upload = await initiate(files)
    key = await send(files, database, upload)
    store, real_head = files.stores.default, files.stores.default.head
    asked, looked, served = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def delete_late() -> None:
        await served.wait()
        await store.delete(key)

    async def move(source: str, target: str) -> StoredObject:
        assert source == key
        await put(store, target, CONTENT)
        moved = await real_head(target)
        assert moved is not None
        deletion = asyncio.ensure_future(delete_late())
        asked.set()
        await asyncio.shield(deletion)
        return moved

    async def head(looked_for: str) -> StoredObject | None:
        found = await real_head(looked_for)
        looked.set()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(store, "move", move)
        patch.setattr(store, "head", head)
        confirming = asyncio.create_task(files.confirm_upload("acme", upload.upload_id))
        await asked.wait()
        patch.undo()
        patch.setattr(store, "head", head)
        confirming.cancel()
        looking = asyncio.create_task(looked.wait())
        await asyncio.wait([looking], timeout=_SERVED_LATE_SECONDS)
        served.set()
        with pytest.raises(asyncio.CancelledError):
            await confirming
        await looking

    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_a_confirmation_whose_answer_was_lost_stands(
    files: FileStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    finish = files._confirmation._finish

    async def lost(*arguments: Any) -> FileRecord:
        await finish(*arguments)
        raise ConnectionResetError("the answer is lost")

    with monkeypatch.context() as patches:
        patches.setattr(files._confirmation, "_finish", lost)
        with pytest.raises(ConnectionResetError):
            await files.confirm_upload("acme", upload.upload_id)

    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_a_confirmation_goes_on_where_one_was_killed_long_ago(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    await _kill_while_it_confirms(files, upload.upload_id)
    async with database.connection() as connection:
        await connection.execute("UPDATE file_uploads SET expires_at = now() WHERE kind = 'stream'")
    await clean_up_storage(database, files.stores, times=AT_ONCE)

    file = await files.confirm_upload("acme", upload.upload_id)

    assert await _read(files, file) == CONTENT
    assert await inside.keys() == {file.object_key}


async def test_whoever_goes_on_with_a_confirmation_keeps_its_owner_from_finishing_it(
    files: FileStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner was stopped for long, and comes back while the other one moves what was uploaded."""
    upload = await initiate(files)
    await send(files, database, upload)
    finish = files._confirmation._finish

    async def move(*_: Any) -> Any:
        raise StoreUnavailableError("no answer")

    async def finish_late(*arguments: Any) -> FileRecord:
        async with database.connection() as connection:
            await connection.execute("UPDATE file_uploads SET expires_at = now() WHERE kind = 'stream'")
        with monkeypatch.context() as patch:
            patch.setattr(files.stores.default, "move", move)
            with pytest.raises(StoreUnavailableError):
                await files.confirm_upload("acme", upload.upload_id)
        return await finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files._confirmation, "_finish", finish_late)
        with pytest.raises(UploadGivenUp):
            await files.confirm_upload("acme", upload.upload_id)

    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def _kill_while_it_confirms(files: FileStore, upload_id: Any) -> None:
    """Leave what a process leaves that is killed while it reads what was uploaded."""
    confirmation = files._confirmation
    presigned = await confirmation._get("acme", upload_id)
    attempt = upload_confirmation._attempt(presigned)
    assert await files._writing.announce(attempt)
    await confirmation._taken(presigned, attempt)

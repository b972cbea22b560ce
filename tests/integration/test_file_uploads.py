"""Uploads that go straight to the object store: what they become, and who wins."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace_database import Database
from millrace_database.ids import new_id
from millrace_storage import (
    ContentMismatch,
    FileMissing,
    FileRecord,
    FileStore,
    LimitExceeded,
    NothingUploaded,
    TypeNotAllowed,
    UploadConfirmed,
    UploadGivenUp,
    UploadMissing,
    upload_confirmation,
)
from millrace_storage.storage_cleanup import clean_up_storage
from support.direct_uploads import CONTENT, initiate, send
from support.local_files import local_files, own_limits
from support.object_stores import put
from support.stored_files import AT_ONCE, StoredFiles


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


async def _expire_uploads(database: Database) -> None:
    async with database.connection() as connection:
        # Each by itself: the same uploads may be confirmed or cleaned up meanwhile.
        for row in await connection.fetch("SELECT upload_id FROM file_uploads"):
            await connection.execute(
                "UPDATE file_uploads SET expires_at = now() WHERE upload_id = $1", row["upload_id"]
            )


async def test_an_upload_becomes_the_file_of_its_id(files: FileStore, database: Database) -> None:
    upload = await initiate(
        files, sha256=hashlib.sha256(CONTENT).hexdigest(), content_type="text/plain; charset=utf-8"
    )
    key = await send(files, database, upload)

    file = await files.confirm_upload("acme", upload.upload_id)

    assert file.file_id == upload.upload_id
    assert (file.name, file.content_type, file.created_by) == ("a.csv", "text/plain; charset=utf-8", "ada")
    assert (file.size_bytes, file.sha256, file.state) == (
        len(CONTENT),
        hashlib.sha256(CONTENT).hexdigest(),
        "persistent",
    )
    assert file.object_key != key
    assert await _read(files, file) == CONTENT
    assert (await files.usage("acme")).total_bytes == len(CONTENT)


async def test_what_is_sent_after_the_confirmation_changes_nothing_and_goes(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    upload = await initiate(files)
    key = await send(files, database, upload)
    file = await files.confirm_upload("acme", upload.upload_id)

    await put(files.stores.default, key, b"x" * len(CONTENT))

    assert await files.confirm_upload("acme", upload.upload_id) == file
    assert await _read(files, file) == CONTENT
    await _expire_uploads(database)
    assert await files.confirm_upload("acme", upload.upload_id) == file
    await clean_up_storage(database, files.stores, times=AT_ONCE)
    assert await inside.keys() == {file.object_key}


async def test_many_confirmations_at_once_make_one_file(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)

    confirmed = await asyncio.gather(*(files.confirm_upload("acme", upload.upload_id) for _ in range(10)))

    assert confirmed == [confirmed[0]] * 10
    assert await inside.keys() == {confirmed[0].object_key}
    assert (await files.usage("acme")).files == 1


async def test_a_confirmation_waits_for_another_one_but_not_for_ever(
    files: FileStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    reading, may_go_on = asyncio.Event(), asyncio.Event()
    original = files.stores.default.get

    async def get(key: str) -> AsyncIterator[bytes]:
        reading.set()
        await may_go_on.wait()
        return await original(key)

    monkeypatch.setattr(files.stores.default, "get", get)
    first = asyncio.create_task(files.confirm_upload("acme", upload.upload_id))
    await reading.wait()

    with monkeypatch.context() as patches:
        patches.setattr(upload_confirmation, "_WAITED_SECONDS", 0.0)
        with pytest.raises(UploadGivenUp):
            await files.confirm_upload("acme", upload.upload_id)
    second = asyncio.create_task(files.confirm_upload("acme", upload.upload_id))
    may_go_on.set()

    assert await first == await second


async def test_nothing_uploaded(files: FileStore, database: Database) -> None:
    upload = await initiate(files)

    with pytest.raises(NothingUploaded):
        await files.confirm_upload("acme", upload.upload_id)

    await send(files, database, upload)
    assert await files.confirm_upload("acme", upload.upload_id)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (CONTENT[:-1], ContentMismatch),
        (CONTENT + b"2", ContentMismatch),
        (b"x" * len(CONTENT), ContentMismatch),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * (len(CONTENT) - 8), TypeNotAllowed),
    ],
)
async def test_wrong_content_is_removed_and_can_be_sent_again(
    files: FileStore, inside: StoredFiles, database: Database, sent: bytes, error: type[Exception]
) -> None:
    is_hashed = error is ContentMismatch
    upload = await initiate(files, sha256=hashlib.sha256(CONTENT).hexdigest() if is_hashed else None)
    await send(files, database, upload, sent)

    with pytest.raises(error):
        await files.confirm_upload("acme", upload.upload_id)

    assert await inside.keys() == await inside.rows("file_removals") == set()
    await send(files, database, upload)
    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_a_confirmation_that_the_limits_refuse_can_be_repeated(
    files: FileStore, database: Database
) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    await files.set_limits("acme", own_limits(len(CONTENT) - 1, None, None))
    with pytest.raises(LimitExceeded):
        await files.confirm_upload("acme", upload.upload_id)

    await files.set_limits("acme", own_limits(None, None, None))

    assert await _read(files, await files.confirm_upload("acme", upload.upload_id)) == CONTENT


async def test_a_cancelled_upload_is_gone_and_so_is_what_is_sent_later(
    files: FileStore, inside: StoredFiles, database: Database
) -> None:
    upload = await initiate(files)
    key = await send(files, database, upload)

    await files.cancel_upload("acme", upload.upload_id)
    await files.cancel_upload("acme", upload.upload_id)

    assert await inside.keys() == set()
    with pytest.raises(UploadMissing):
        await files.confirm_upload("acme", upload.upload_id)
    # Its URL is still good.
    await put(files.stores.default, key)
    assert await inside.rows("file_removals") == {key}
    async with database.connection() as connection:
        left = await connection.fetchval("SELECT due_at - now() FROM file_removals")
        assert timedelta(minutes=119) < left < timedelta(minutes=121)
        await connection.execute("UPDATE file_removals SET due_at = now()")
    await clean_up_storage(database, files.stores, times=AT_ONCE)
    assert await inside.keys() == set()


async def test_a_confirmed_upload_is_not_cancelled(files: FileStore, database: Database) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    file = await files.confirm_upload("acme", upload.upload_id)

    with pytest.raises(UploadConfirmed) as caught:
        await files.cancel_upload("acme", upload.upload_id)

    assert caught.value.file_id == file.file_id
    assert await _read(files, file) == CONTENT


async def test_uploads_that_do_not_exist(files: FileStore, database: Database) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    for org_id, upload_id in (("acme", new_id()), ("other", upload.upload_id)):
        with pytest.raises(UploadMissing):
            await files.confirm_upload(org_id, upload_id)
        await files.cancel_upload(org_id, upload_id)

    await _expire_uploads(database)
    with pytest.raises(UploadMissing):
        await files.confirm_upload("acme", upload.upload_id)
    await clean_up_storage(database, files.stores, times=AT_ONCE)


async def test_the_file_of_a_confirmed_upload_that_is_gone(files: FileStore, database: Database) -> None:
    upload = await initiate(files)
    await send(files, database, upload)
    await files.confirm_upload("acme", upload.upload_id)
    await files.delete("acme", upload.upload_id, permanently=True)

    with pytest.raises(UploadMissing):
        await files.confirm_upload("acme", upload.upload_id)


async def test_a_temporary_upload(files: FileStore, database: Database) -> None:
    upload = await initiate(files, temporary=True)
    await send(files, database, upload)

    file = await files.confirm_upload("acme", upload.upload_id)

    assert file.state == "temporary"
    assert file.expires_at is not None
    assert timedelta(hours=23) < file.expires_at - datetime.now(UTC) < timedelta(hours=25)


async def test_a_type_that_is_not_allowed_is_told_at_once(files: FileStore, inside: StoredFiles) -> None:
    with pytest.raises(TypeNotAllowed):
        await initiate(files, content_type="application/zip")
    assert await inside.rows("file_uploads") == set()


async def test_more_than_one_request_can_put(files: FileStore) -> None:
    await files.set_limits("acme", own_limits(0, 0, 0))
    most = files.stores.default.max_presigned_bytes
    assert await initiate(files, size_bytes=most)
    with pytest.raises(LimitExceeded) as caught:
        await initiate(files, size_bytes=most + 1)
    assert (caught.value.limit, caught.value.allowed) == ("file_bytes", most)


@pytest.mark.parametrize("doing", ["expire", "cancel"])
async def test_a_confirmation_and_the_end_of_the_upload_at_once(
    files: FileStore, inside: StoredFiles, database: Database, doing: str
) -> None:
    uploads = [await initiate(files) for _ in range(15)]
    for upload in uploads:
        await send(files, database, upload)

    async def confirmed(upload_id: Any) -> FileRecord | None:
        try:
            return await files.confirm_upload("acme", upload_id)
        except (UploadMissing, NothingUploaded, UploadGivenUp):
            return None

    async def end(upload_id: Any) -> None:
        if doing == "cancel":
            try:
                await files.cancel_upload("acme", upload_id)
            except UploadConfirmed:
                return
        else:
            await _expire_uploads(database)
            await clean_up_storage(database, files.stores, times=AT_ONCE)

    async with asyncio.TaskGroup() as group:
        confirming = [group.create_task(confirmed(upload.upload_id)) for upload in uploads]
        for upload in uploads[:: 1 if doing == "cancel" else 5]:
            group.create_task(end(upload.upload_id))
    results = [task.result() for task in confirming]

    await inside.assert_consistent()
    for upload, file in zip(uploads, results, strict=True):
        if file is None:
            with pytest.raises(FileMissing):
                await files.open("acme", upload.upload_id)
        else:
            assert await _read(files, file) == CONTENT
    await _expire_uploads(database)
    await clean_up_storage(database, files.stores, times=AT_ONCE)
    assert await inside.keys() == {file.object_key for file in results if file}


async def test_an_upload_that_expires_while_it_is_confirmed(
    files: FileStore, inside: StoredFiles, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clean-up takes the upload and the attempt to confirm it, between the move and the end."""
    upload = await initiate(files)
    await send(files, database, upload)
    finish = files._confirmation._finish

    async def after_a_clean_up(*arguments: Any) -> FileRecord:
        await _expire_uploads(database)
        await clean_up_storage(database, files.stores, times=AT_ONCE)
        return await finish(*arguments)

    monkeypatch.setattr(files._confirmation, "_finish", after_a_clean_up)
    with pytest.raises(UploadMissing):
        await files.confirm_upload("acme", upload.upload_id)
    assert await inside.keys() == await inside.rows("file_removals") == set()

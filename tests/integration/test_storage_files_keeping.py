"""For how long files are kept, and who wins of those who say so at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace_database import Database
from millrace_database.ids import new_id
from millrace_storage import (
    FileDeleted,
    FileFilters,
    FileMissing,
    FileRecord,
    FileStore,
    LimitExceeded,
    StoreUnavailableError,
)
from millrace_storage.storage_cleanup import clean_up_storage
from support.local_files import local_files
from support.object_stores import chunks_of
from support.stored_files import AT_ONCE, StoredFiles


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return local_files(database, tmp_path, files_temporary_hours=2, files_deleted_days=3)


@pytest.fixture(autouse=True)
async def inside(files: FileStore, database: Database) -> AsyncIterator[StoredFiles]:
    """What there is inside, which is consistent at the end of each test."""
    inside = StoredFiles(database, files.stores.default)
    yield inside
    await inside.assert_consistent()


async def _save(files: FileStore, name: str = "a.csv", **more: Any) -> FileRecord:
    given = {"org_id": "acme", "content_type": "text/csv", "created_by": "ada", **more}
    return await files.save(name=name, chunks=chunks_of(b"content"), **given)


async def _expire(database: Database) -> None:
    """Let the time pass until whatever expires has expired."""
    async with database.connection() as connection:
        await connection.execute("UPDATE files SET expires_at = now() WHERE expires_at IS NOT NULL")


def _is_in(time: datetime | None, length: timedelta) -> bool:
    return time is not None and abs(time - datetime.now(UTC) - length) < timedelta(minutes=5)


async def test_a_temporary_file_goes_unless_it_is_persisted(files: FileStore, database: Database) -> None:
    goes, stays = await _save(files, state="temporary"), await _save(files, state="temporary")
    assert _is_in(goes.expires_at, timedelta(hours=2))

    kept = await files.persist("acme", stays.file_id)
    await _expire(database)

    assert (kept.state, kept.expires_at) == ("persistent", None)
    assert await files.get("acme", stays.file_id) == kept == await files.persist("acme", stays.file_id)
    assert await files.get("acme", goes.file_id) is None
    assert [file.file_id for file in await files.list("acme", FileFilters(), None, 10)] == [stays.file_id]
    for attempt in (files.open, files.persist, files.delete, files.undelete):
        with pytest.raises(FileMissing):
            await attempt("acme", goes.file_id)
    with pytest.raises(FileMissing):
        await files.delete("acme", goes.file_id, permanently=True)


async def test_a_deleted_file_can_be_seen_and_undeleted_but_not_read(
    files: FileStore, database: Database
) -> None:
    saved = await _save(files)

    deleted = await files.delete("acme", saved.file_id)

    assert deleted is not None
    assert _is_in(deleted.deleted_at, timedelta(0))
    assert _is_in(deleted.expires_at, timedelta(days=3))
    assert deleted.state == "persistent"
    assert await files.get("acme", saved.file_id) == deleted == await files.delete("acme", saved.file_id)
    assert await files.list("acme", FileFilters(), None, 10) == []
    assert await files.list("acme", FileFilters(states=["deleted"]), None, 10) == [deleted]
    with pytest.raises(FileDeleted):
        await files.open("acme", saved.file_id)
    with pytest.raises(FileDeleted):
        await files.persist("acme", saved.file_id)
    with pytest.raises(FileDeleted):
        await files.download_url("acme", saved.file_id, timedelta(hours=1))

    assert await files.undelete("acme", saved.file_id) == saved == await files.undelete("acme", saved.file_id)
    _, chunks = await files.open("acme", saved.file_id)
    assert [chunk async for chunk in chunks] == [b"content"]


@pytest.mark.parametrize("state", ["temporary", "persistent", "with_job"])
async def test_an_undeleted_file_is_what_it_was(files: FileStore, database: Database, state: Any) -> None:
    saved = await _save(files, state=state, job_id=new_id())
    await files.delete("acme", saved.file_id)

    undeleted = await files.undelete("acme", saved.file_id)

    assert undeleted.state == state
    if state == "temporary":
        assert _is_in(undeleted.expires_at, timedelta(hours=2))
    else:
        assert undeleted.expires_at is None


async def test_a_deleted_file_is_gone_when_its_time_is_over(files: FileStore, database: Database) -> None:
    saved = await _save(files)
    await files.delete("acme", saved.file_id)
    await _expire(database)

    assert await files.get("acme", saved.file_id) is None
    assert await files.list("acme", FileFilters(states=["deleted"]), None, 10) == []
    with pytest.raises(FileMissing):
        await files.undelete("acme", saved.file_id)


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_a_file_that_is_deleted_for_good_is_gone_at_once(
    files: FileStore, inside: StoredFiles, *, is_deleted: bool
) -> None:
    saved = await _save(files)
    if is_deleted:
        await files.delete("acme", saved.file_id)

    assert await files.delete("acme", saved.file_id, permanently=True) is None

    assert await inside.keys() == await inside.rows("file_removals") == set()
    assert (await files.usage("acme")).files == 0
    with pytest.raises(FileMissing):
        await files.delete("acme", saved.file_id, permanently=True)


async def test_content_that_the_store_does_not_give_up_is_left_to_the_clean_up(
    files: FileStore, inside: StoredFiles, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = await _save(files)

    async def away(key: str) -> None:
        raise StoreUnavailableError("no answer")

    with monkeypatch.context() as patches:
        patches.setattr(files.stores.default, "delete", away)
        await files.delete("acme", saved.file_id, permanently=True)

    assert await files.get("acme", saved.file_id) is None
    assert await inside.rows("file_removals") == await inside.keys() == {saved.object_key}
    await clean_up_storage(database, files.stores, times=AT_ONCE)
    assert await inside.rows("file_removals") == await inside.keys() == set()


async def test_a_file_of_another_organisation_is_not_touched(files: FileStore) -> None:
    saved = await _save(files)

    for attempt in (files.persist, files.delete, files.undelete):
        with pytest.raises(FileMissing):
            await attempt("other", saved.file_id)
    with pytest.raises(FileMissing):
        await files.delete("other", saved.file_id, permanently=True)
    assert await files.get("acme", saved.file_id) == saved


async def test_what_is_persisted_at_the_moment_it_expires_is_kept_or_gone(
    files: FileStore, database: Database
) -> None:
    saved = [await _save(files, state="temporary") for _ in range(20)]
    await _expire_in_a_moment(database)

    async def persisted(file: FileRecord) -> bool:
        try:
            await files.persist("acme", file.file_id)
        except FileMissing:
            return False
        return True

    *kept, _, _ = await asyncio.gather(
        *(persisted(file) for file in saved),
        clean_up_storage(database, files.stores, times=AT_ONCE),
        clean_up_storage(database, files.stores, times=AT_ONCE),
    )

    await clean_up_storage(database, files.stores, times=AT_ONCE)
    assert [await files.get("acme", file.file_id) is not None for file in saved] == kept


async def _expire_in_a_moment(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE files SET expires_at = clock_timestamp() + random() * interval '50 milliseconds'"
        )


async def test_many_who_do_all_kinds_of_things_to_a_file_leave_it_consistent(
    files: FileStore, inside: StoredFiles
) -> None:
    saved = await _save(files)

    async def attempt(number: int) -> None:
        doing = (files.delete, files.undelete, files.persist)[number % 3]
        with suppress(FileDeleted, FileMissing, LimitExceeded):
            await doing("acme", saved.file_id)

    await asyncio.gather(*(attempt(number) for number in range(60)))

    await inside.assert_consistent()
    await files.delete("acme", saved.file_id, permanently=True)
    assert (await files.usage("acme")).files == 0

"""A clean-up that is stopped anywhere, meets others, or stores that do not do what they are asked."""

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.file_statements import DELETE_FILE, PERSIST_FILE, UNDELETE_FILE
from millrace_database.ids import new_id
from millrace_storage import FileStore
from millrace_storage.cleanup_report import NOTHING, Amount
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import (
    StoredObject,
    StoreRefusedError,
    StoreUnavailableError,
    UnfinishedWrite,
    WriteState,
)
from millrace_storage.s3_object_store import S3ObjectStore
from millrace_storage.storage_cleanup import clean_up_storage
from support.breaking import Breaker, BreakingDatabase, BreakingStore, Killed
from support.s3_server import S3Bucket
from support.stored_files import AGO, AT_ONCE, OWNER_KEY, StoredFiles, StoresOf
from support.worker_runs import fetch

_LATER = timedelta(hours=2)
_SOON = timedelta(seconds=1)


@pytest.fixture
def files(database: Database, tmp_path: Path) -> StoredFiles:
    return StoredFiles(database, LocalObjectStore(tmp_path / "files"))


async def _one_of_each(files: StoredFiles) -> set[str]:
    """Everything that there can be, for clean-ups to remove or not; returns the keys that are to stay."""
    kept = {
        (await files.file())[1],
        (await files.file("temporary", _LATER))[1],
        (await files.file("persistent", _LATER, deleted=True))[1],
        (await files.file("with_job", job_id=await files.job()))[1],
        await files.object(await files.upload("presigned", _LATER)),
    }
    await files.file("temporary", AGO)
    await files.file("temporary", AGO, org="other")
    await files.file("persistent", AGO, deleted=True)
    await files.file("with_job", job_id=new_id())
    await files.object(await files.upload("presigned", AGO))
    await files.unfinished_write(await files.upload("stream", AGO))
    await files.object(await files.removal())
    await files.removal()
    await files.object()
    await files.unfinished_write()
    return kept


async def _new_round(database: Database, folder: Path) -> tuple[StoredFiles, set[str]]:
    for table in ("files", "file_uploads", "file_removals", "file_usage", "jobs"):
        await fetch(database, f"TRUNCATE {table}")
    files = StoredFiles(database, LocalObjectStore(folder))
    return files, await _one_of_each(files)


async def _clean_up_until(breaker: Breaker, files: StoredFiles) -> None:
    stores = StoresOf(BreakingStore(files.store, breaker))
    await clean_up_storage(BreakingDatabase(files.database, breaker), stores, times=AT_ONCE)


async def test_wherever_it_is_stopped_another_one_brings_it_to_its_end(
    database: Database, tmp_path: Path
) -> None:
    files, _ = await _new_round(database, tmp_path / "whole")
    whole = Breaker()
    await _clean_up_until(whole, files)
    assert whole.passed > 30

    for at in range(1, whole.passed + 1):
        files, kept = await _new_round(database, tmp_path / str(at))
        with pytest.raises(Killed):
            await _clean_up_until(Breaker(at), files)
        assert await files.rows("files") | kept <= await files.keys()

        report = await clean_up_storage(database, files.stores, times=AT_ONCE)

        assert (report.problems, report.failed) == ([], NOTHING)
        assert await files.keys() == kept
        assert await files.rows("files") | await files.rows("file_uploads") == kept
        assert await files.unfinished() == await files.rows("file_removals") == set()
        await files.assert_consistent()


async def test_several_at_once_do_no_harm(files: StoredFiles) -> None:
    kept = set()
    for _ in range(5):
        kept |= await _one_of_each(files)

    reports = await asyncio.gather(
        *(clean_up_storage(files.database, files.stores, times=AT_ONCE) for _ in range(4))
    )

    assert sum((report.files for report in reports), NOTHING) == Amount(20, 140)
    assert sum(report.uploads.count for report in reports) == 10
    assert [report.problems for report in reports] == [[]] * 4
    assert await files.keys() == kept
    await files.assert_consistent()


async def test_what_is_kept_at_the_last_moment_is_never_removed(files: StoredFiles) -> None:
    """Files expire all the time while they are made persistent, deleted and undeleted, and clean-ups run."""
    ids = [await files.file("temporary", _SOON * n / 60, org=f"org-{n % 3}") for n in range(60)]
    kept: set[str] = set()
    done = asyncio.Event()

    async def change(file_id: UUID, org: str, key: str) -> None:
        row = await _changed(files.database, PERSIST_FILE, file_id, org)
        if row is not None:
            kept.add(key)
            await _counted_out(files.database, file_id, org)
            if await _undeleted(files.database, file_id, org) is None:
                kept.discard(key)

    async def clean_up() -> None:
        while not done.is_set():
            await clean_up_storage(files.database, files.stores, times=AT_ONCE)

    cleaning = [asyncio.create_task(clean_up()) for _ in range(2)]
    for number, (file_id, key) in enumerate(ids):
        await change(file_id, f"org-{number % 3}", key)
    done.set()
    await asyncio.gather(*cleaning)

    async with files.database.connection() as conn:
        await conn.execute("UPDATE files SET expires_at = now() WHERE state = 'temporary'")
    await clean_up_storage(files.database, files.stores, times=AT_ONCE)
    assert await files.keys() == await files.rows("files") == kept
    assert kept
    await files.assert_consistent()


async def _changed(
    database: Database, statement: str, file_id: UUID, org: str, *more: object
) -> asyncpg.Record | None:
    async with database.connection() as conn:
        return await conn.fetchrow(statement, file_id, org, *more)


async def _counted_out(database: Database, file_id: UUID, org: str) -> None:
    await _changed(database, DELETE_FILE, file_id, org, timedelta(milliseconds=3))


async def _undeleted(database: Database, file_id: UUID, org: str) -> asyncpg.Record | None:
    async with database.transaction() as conn:
        row = await conn.fetchrow(UNDELETE_FILE, file_id, org, _LATER)
        if row is not None:
            await conn.execute(
                "UPDATE file_usage SET total_bytes = total_bytes + 7, files = files + 1 WHERE org_id = $1",
                org,
            )
        return row


async def test_a_file_that_somebody_changes_at_that_moment_stays(files: StoredFiles) -> None:
    file_id, key = await files.file("temporary", AGO)
    await files.file("temporary", AGO)
    async with files.database.transaction() as conn:
        # As a release may that does not look at the time.
        await conn.execute(
            "UPDATE files SET state = 'persistent', expires_at = NULL WHERE file_id = $1", file_id
        )
        report = await clean_up_storage(files.database, files.stores)
    assert report.files == Amount(1, 7)
    assert await files.keys() == await files.rows("files") == {key}


class _Refusing(LocalObjectStore):
    """Does not delete some objects."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.refused: set[str] = set()
        self.asked: list[str] = []

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked += keys
        failed = dict.fromkeys(self.refused & set(keys), "AccessDenied")
        return {**await super().delete_many([key for key in keys if key not in failed]), **failed}


async def test_an_object_that_cannot_be_deleted_stops_no_other_and_is_tried_again_later(
    database: Database, tmp_path: Path
) -> None:
    store = _Refusing(tmp_path / "files")
    files = StoredFiles(database, store)
    store.refused = {(await files.file("temporary", AGO))[1]}
    for _ in range(3):
        await files.file("temporary", AGO)

    pauses = []
    for attempt in range(1, 13):
        report = await clean_up_storage(database, files.stores)
        assert report.failed == Amount(1, 7)
        assert await files.keys() == await files.rows("file_removals") == store.refused
        # Not before it is due.
        assert (await clean_up_storage(database, files.stores)).failed == NOTHING
        [row] = await fetch(database, "SELECT attempts, due_at - now() AS pause FROM file_removals")
        assert row["attempts"] == attempt
        pauses.append(round(row["pause"] / timedelta(minutes=5)))
        await fetch(database, "UPDATE file_removals SET due_at = now()")
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 288, 288, 288]

    store.refused = set()
    assert (await clean_up_storage(database, files.stores)).removals == Amount(1, 7)
    assert await files.keys() == set()


class _Far(LocalObjectStore):
    provider = "s3"
    bucket = "far"


class _Away(_Far):
    error: Exception = StoreUnavailableError("no answer")

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        raise self.error

    def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:  # noqa: ARG002
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreUnavailableError("no answer"), "the object store s3 (far) is away: no answer"),
        (StoreRefusedError("AccessDenied"), "the object store s3 (far) refused the request: AccessDenied"),
    ],
)
async def test_a_store_that_is_away_does_not_keep_others_from_being_cleaned(
    files: StoredFiles, tmp_path: Path, error: Exception, said: str
) -> None:
    away = StoredFiles(files.database, _Away(tmp_path / "far"))
    _Away.error = error
    for _ in range(3):
        await away.file("temporary", AGO)
        await files.file("temporary", AGO)
    await files.object()

    report = await clean_up_storage(files.database, StoresOf(away.store, files.store), times=AT_ONCE)

    assert report.problems == [said]
    assert (report.files.count, report.removals.count, report.objects.count) == (6, 3, 1)
    assert await files.keys() == set()
    assert await away.keys() == await files.rows("file_removals")
    back = StoresOf(_Far(tmp_path / "far"), files.store)
    assert (await clean_up_storage(files.database, back, times=AT_ONCE)).removals.count == 3
    assert await away.keys() == set()


async def test_of_a_store_that_nobody_configured_objects_wait(files: StoredFiles) -> None:
    waiting = await files.removal(provider="s3")
    await files.removal()

    report = await clean_up_storage(files.database, files.stores, times=AT_ONCE)

    assert len(report.problems) == 1
    assert "not configured: s3" in report.problems[0]
    assert await files.rows("file_removals") == {waiting}


async def test_a_full_disk_that_nobody_has_cleaned_up_before_is_emptied(
    database: Database, tmp_path: Path
) -> None:
    class Full(LocalObjectStore):
        async def create(self, key: str, content: bytes) -> bool:  # noqa: ARG002
            raise StoreUnavailableError("No space left on device")

    files = StoredFiles(database, Full(tmp_path / "files"))
    await files.file("temporary", AGO)
    unknown = await files.object()

    report = await clean_up_storage(database, files.stores, times=AT_ONCE)

    assert report.removals == Amount(1, 7)
    assert report.problems == ["the object store local is away: No space left on device"]
    # Nobody knows yet that this is ours.
    assert await files.keys() == {unknown}


class _Hiding(LocalObjectStore):
    """Tells of unfinished writes only by their whole key, as some servers of S3 do, and does not end what it began."""

    is_away = False

    async def put(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        expected_bytes: int | None = None,
        state: WriteState | None = None,
    ) -> StoredObject:
        self.is_away = key != OWNER_KEY
        return await super().put(key, chunks, expected_bytes=expected_bytes, state=state)

    async def delete(self, key: str) -> None:
        if self.is_away:
            raise StoreUnavailableError("no answer")
        await super().delete(key)

    def _discard(self, incoming: Sequence[str]) -> None:
        if self.is_away:
            raise OSError(errno.EIO, "no answer")
        super()._discard(incoming)

    async def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:
        async for write in super().list_unfinished(prefix):
            if write.key == prefix:
                yield write


async def test_a_write_of_announced_length_is_undone_when_its_store_is_back(
    database: Database, tmp_path: Path
) -> None:
    store = _Hiding(tmp_path / "files")
    files = StoredFiles(database, store)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise ValueError

    with pytest.raises(StoreUnavailableError):
        await FileStore(database, files.stores).save(
            org_id="acme", name="a", content_type="", created_by="", chunks=broken(), expected_size=2_000_000
        )
    store.is_away = False
    [key] = await files.rows("file_removals")
    assert [write.key async for write in store.list_unfinished(key)] == [key]

    report = await clean_up_storage(database, files.stores)

    assert [write.key async for write in store.list_unfinished(key)] == []
    # Nobody knows how much it was.
    assert report.removals == Amount(1, 0)


async def test_a_cancelled_clean_up_ends_at_once_and_another_goes_on(files: StoredFiles) -> None:
    kept = await _one_of_each(files)
    begun = asyncio.Event()

    class Waiting(LocalObjectStore):
        async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    stores = StoresOf(Waiting(files.store.root))  # type: ignore[attr-defined]
    cleaning = asyncio.create_task(clean_up_storage(files.database, stores, times=AT_ONCE))
    await begun.wait()
    cleaning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cleaning
    await clean_up_storage(files.database, files.stores, times=AT_ONCE)
    assert await files.keys() == kept
    await files.assert_consistent()


async def test_removals_from_a_bucket_that_never_was_can_be_forgotten_as_the_page_says(
    database: Database, s3_bucket: S3Bucket
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "storage-cleanup.md").read_text()
    [statement] = re.findall(r"```sql\n(DELETE FROM file_removals .*)\n```", page)
    files = StoredFiles(database, s3_bucket.store(), "millrace/")
    gone = S3ObjectStore(s3_bucket.clients, "never-was")
    stores = StoresOf(files.store, gone, prefix="millrace/")
    await StoredFiles(database, gone, "millrace/").removal()
    due = await files.object(await files.removal())
    report = await clean_up_storage(database, stores, times=AT_ONCE)
    assert any("NoSuchBucket" in problem for problem in report.problems)
    assert due not in await files.keys()

    kept = await files.removal()
    await fetch(database, statement.replace("NAME", "never-was"))

    assert await files.rows("file_removals") == {kept}
    assert (await clean_up_storage(database, files.stores, times=AT_ONCE)).problems == []

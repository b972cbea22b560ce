"""What the files of an organisation take up, and the limits of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest

from millrace_database import Database
from millrace_database.file_usage_repository import LimitName
from millrace_storage import FileLimits, FileRecord, FileStore, FileUsage, LimitExceeded
from support.direct_uploads import initiate, send
from support.local_files import local_files, own_limits
from support.object_stores import chunks_of
from support.stored_files import StoredFiles
from support.worker_runs import fetch


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return local_files(
        database, tmp_path, files_max_total_bytes=1_000, files_max_count=20, file_max_bytes=500
    )


@pytest.fixture(autouse=True)
async def inside(files: FileStore, database: Database) -> AsyncIterator[StoredFiles]:
    """What there is inside, which is consistent at the end of each test."""
    inside = StoredFiles(database, files.stores.default)
    yield inside
    await inside.assert_consistent()


async def _save(
    files: FileStore, size: int, org_id: str = "acme", *, by_caller: bool = True, **more: Any
) -> FileRecord:
    return await files.save(
        org_id=org_id,
        name="a",
        content_type="text/plain",
        created_by="",
        chunks=chunks_of(*[b"x"] * size),
        by_caller=by_caller,
        **more,
    )


async def _exceeded(attempt: Awaitable[object]) -> tuple[str, int]:
    with pytest.raises(LimitExceeded) as caught:
        await attempt
    return caught.value.limit, caught.value.allowed


def _usage(
    total_bytes: int,
    files: int,
    limits: FileLimits | None = None,
    own: Mapping[LimitName, int] | None = None,
) -> FileUsage:
    return FileUsage("acme", total_bytes, files, limits or FileLimits(1_000, 20, 500), own or {})


async def test_what_files_take_up(files: FileStore, database: Database) -> None:
    assert await files.usage("acme") == _usage(0, 0)
    first, _ = await _save(files, 10), await _save(files, 20)
    await _save(files, 7, "other")
    upload = await initiate(files, b"12345")
    assert await files.usage("acme") == _usage(30, 2)
    await send(files, database, upload, b"12345")
    await files.confirm_upload("acme", upload.upload_id)
    assert await files.usage("acme") == _usage(35, 3)

    await files.delete("acme", first.file_id)
    await files.delete("acme", first.file_id)
    assert await files.usage("acme") == _usage(25, 2)
    await files.undelete("acme", first.file_id)
    await files.undelete("acme", first.file_id)
    assert await files.usage("acme") == _usage(35, 3)
    await files.delete("acme", first.file_id)
    await files.delete("acme", first.file_id, permanently=True)
    await files.delete("acme", upload.upload_id, permanently=True)
    assert await files.usage("acme") == _usage(20, 1)


@pytest.mark.parametrize("permanently", [True, False])
async def test_files_that_nobody_counted_take_up_no_less_than_nothing(
    files: FileStore, database: Database, permanently: bool
) -> None:
    """Releases before the usage add files beside this one, and do not count them."""
    file = await _save(files, 10)
    await fetch(database, "UPDATE file_usage SET total_bytes = 0, files = 0")
    await files.delete("acme", file.file_id, permanently=permanently)
    assert await files.usage("acme") == _usage(0, 0)


async def test_the_limits_of_an_organisation(files: FileStore) -> None:
    set_ = _usage(0, 0, FileLimits(5, 20, 0), {"max_total_bytes": 5, "max_file_bytes": 0})
    assert await files.set_limits("acme", own_limits(5, None, 0)) == set_
    assert await files.usage("acme") == set_
    assert (await files.usage("other")).limits == FileLimits(1_000, 20, 500)
    await _save(files, 600, "other", by_caller=False)
    assert await _exceeded(_save(files, 6)) == ("total_bytes", 5)
    await files.set_limits("acme", own_limits(None, None, None))
    assert await files.usage("acme") == _usage(0, 0)
    await _save(files, 6)


async def test_a_stream_is_cut_as_soon_as_it_is_too_long(files: FileStore, inside: StoredFiles) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100
            yield bytes(100)

    async def save(**more: Any) -> FileRecord:
        return await files.save(
            org_id="acme", name="a", content_type="", created_by="", chunks=endless(), **more
        )

    assert await _exceeded(save(by_caller=True)) == ("file_bytes", 500)
    assert taken == 600
    # The length of one file is not the matter of jobs, but what all of them take up is.
    assert await _exceeded(save(by_caller=False)) == ("total_bytes", 1_000)
    assert taken == 600 + 1_100
    assert (
        await inside.keys()
        == await inside.rows("file_uploads")
        == await inside.rows("file_removals")
        == set()
    )


async def test_what_is_announced_to_be_too_long_is_refused_at_once(files: FileStore) -> None:
    async def no_chunks() -> AsyncIterator[bytes]:
        raise AssertionError("nothing is to be read")
        yield b""

    async def save(size: int) -> FileRecord:
        return await files.save(
            org_id="acme",
            name="a",
            content_type="",
            created_by="",
            chunks=no_chunks(),
            expected_size=size,
            by_caller=True,
        )

    assert await _exceeded(save(501)) == ("file_bytes", 500)
    await _save(files, 600, by_caller=False)
    assert await _exceeded(save(401)) == ("total_bytes", 1_000)
    await files.set_limits("acme", own_limits(None, 1, None))
    assert await _exceeded(save(0)) == ("files", 1)


async def test_files_that_exceed_a_new_limit_stay(files: FileStore) -> None:
    first, second = await _save(files, 400), await _save(files, 500)
    await files.set_limits("acme", own_limits(1, 1, 1))
    for file in (first, second):
        _, chunks = await files.open("acme", file.file_id)
        assert [chunk async for chunk in chunks]
    await files.delete("acme", first.file_id)
    assert await _exceeded(files.undelete("acme", first.file_id)) == ("files", 1)
    await files.set_limits("acme", own_limits(899, None, None))
    assert await _exceeded(files.undelete("acme", first.file_id)) == ("total_bytes", 899)
    deleted = await files.get("acme", first.file_id)
    assert deleted is not None
    assert deleted.deleted_at is not None
    await files.set_limits("acme", own_limits(900, 2, None))
    await files.undelete("acme", first.file_id)
    assert (await files.usage("acme")).total_bytes == 900


async def test_open_uploads_take_their_part_until_they_expire(files: FileStore, database: Database) -> None:
    await _save(files, 300)
    await initiate(files, b"x" * 300)
    assert await _exceeded(initiate(files, b"x" * 401)) == ("total_bytes", 1_000)
    assert await _exceeded(initiate(files, b"x" * 501)) == ("file_bytes", 500)
    await initiate(files, b"x" * 400)
    assert await _exceeded(initiate(files, b"x")) == ("total_bytes", 1_000)
    # What is open keeps nobody from saving.
    await _save(files, 300)
    async with database.connection() as connection:
        await connection.execute("UPDATE file_uploads SET expires_at = now()")
    await initiate(files, b"x" * 400)


async def _succeeded(attempts: list[Awaitable[FileRecord]]) -> list[FileRecord]:
    results = await asyncio.gather(*attempts, return_exceptions=True)
    files = []
    for result in results:
        if isinstance(result, BaseException):
            assert isinstance(result, LimitExceeded), result
        else:
            files.append(result)
    return files


@pytest.mark.parametrize(
    ("size", "limit", "expected"), [(30, (1_000, 0), 33), (30, (0, 7), 7), (1, (0, 0), 50), (0, (1, 0), 50)]
)
async def test_many_saves_at_once_never_exceed_a_limit_and_leave_nothing(
    files: FileStore, inside: StoredFiles, size: int, limit: tuple[int, int], expected: int
) -> None:
    await files.set_limits("acme", own_limits(*limit, None))

    saved = await _succeeded([_save(files, size) for _ in range(50)])

    assert len(saved) == expected
    own: Mapping[LimitName, int] = {"max_total_bytes": limit[0], "max_files": limit[1]}
    assert await files.usage("acme") == _usage(size * expected, expected, FileLimits(*limit, 500), own)
    assert await inside.keys() == {file.object_key for file in saved}
    assert await inside.rows("file_uploads") == await inside.rows("file_removals") == set()


async def test_many_of_all_kinds_at_once_never_exceed_a_limit(files: FileStore, database: Database) -> None:
    await files.set_limits("acme", own_limits(100, 0, None))
    deleted = [await _save(files, 10) for _ in range(5)]
    for file in deleted:
        await files.delete("acme", file.file_id)
    uploads = [await initiate(files, b"0123456789") for _ in range(10)]
    for upload in uploads:
        await send(files, database, upload, b"0123456789")

    saved = await _succeeded(
        [
            *(files.confirm_upload("acme", upload.upload_id) for upload in uploads),
            *(files.undelete("acme", file.file_id) for file in deleted),
            *(_save(files, 10) for _ in range(10)),
        ]
    )

    assert len(saved) == 10
    assert (await files.usage("acme")).total_bytes == 100


async def test_many_uploads_begun_at_once_never_exceed_a_limit(files: FileStore) -> None:
    results = await asyncio.gather(*(initiate(files, b"x" * 100) for _ in range(30)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 10

import asyncio
import errno
import os
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from millrace_storage import (
    InvalidKeyError,
    LocalObjectStore,
    ObjectMissingError,
    StoreRefusedError,
    StoreUnavailableError,
    UnfinishedWrite,
)
from millrace_storage.local_object_store import _CHUNK_BYTES
from support.object_stores import chunks_of, keys, put, read, unfinished_keys
from support.polling import eventually

KEY = "org-acme/4f/object"


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "root")


def _all_files(store: LocalObjectStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if not path.is_dir()]


def _all_folders(store: LocalObjectStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_dir())


async def _waiting_after(content: bytes, waiting: asyncio.Event) -> AsyncIterator[bytes]:
    yield content
    waiting.set()
    await asyncio.Event().wait()


async def test_a_source_that_fails_leaves_nothing(store: LocalObjectStore) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * (2 * _CHUNK_BYTES)
        raise ZeroDivisionError

    await put(store, KEY, b"before")
    with pytest.raises(ZeroDivisionError):
        await store.put(KEY, failing())
    assert await read(store, KEY) == b"before"
    assert len(_all_files(store)) == 1


async def test_an_error_of_the_source_is_not_taken_for_one_of_the_store(store: LocalObjectStore) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x"
        raise OSError(errno.ENOSPC, "of the source")

    with pytest.raises(OSError, match="of the source"):
        await store.put(KEY, failing())


async def test_cancelling_while_chunks_are_awaited_leaves_nothing(store: LocalObjectStore) -> None:
    waiting = asyncio.Event()
    putting = asyncio.create_task(store.put(KEY, _waiting_after(b"x" * _CHUNK_BYTES, waiting)))
    await waiting.wait()
    assert _all_files(store) != []
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert _all_files(store) == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", ["_begin", "_append", "_sync", "_publish"])
async def test_cancelling_while_a_thread_works_leaves_nothing(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch, step: str, times: int
) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    original = getattr(store, step)

    def slow(*arguments: object) -> object:
        began.set()
        go_on.wait(10)
        try:
            return original(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(store, step, slow)
    putting = asyncio.create_task(put(store, KEY))
    assert await asyncio.to_thread(began.wait, 10)
    for _ in range(times):
        putting.cancel()
        # Enough for a removal that does not wait for the step.
        await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await asyncio.to_thread(ended.wait, 10)
    assert _all_files(store) == []
    assert await store.head(KEY) is None


async def test_a_reader_of_a_deleted_or_replaced_object_is_told(store: LocalObjectStore) -> None:
    for instead in (None, b"y" * (3 * _CHUNK_BYTES)):
        await put(store, KEY, b"x" * (3 * _CHUNK_BYTES))
        chunks = await store.get(KEY)
        await anext(chunks)
        if instead is None:
            await store.delete(KEY)
        else:
            await put(store, KEY, instead)
        with pytest.raises(ObjectMissingError):
            await anext(chunks)


async def test_keys_lead_nowhere_else(store: LocalObjectStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for key in ("../secret", "/etc/passwd", "a/../../secret", "a\0b", "", ".presigning-key", "n" * 256):
        for refused in (
            store.get(key),
            put(store, key),
            store.delete(key),
            store.head(key),
            store.move(key, "a"),
        ):
            with pytest.raises(InvalidKeyError):
                await refused
    assert secret.read_bytes() == b"secret"


async def test_symbolic_links_are_not_followed(store: LocalObjectStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    await put(store, "org/real")
    (store.root / "org/file-link").symlink_to(outside / "secret")
    (store.root / "org/folder-link").symlink_to(outside)

    for key in ("org/file-link", "org/folder-link/secret"):
        with pytest.raises(ObjectMissingError):
            await store.get(key)
        with pytest.raises(ObjectMissingError):
            await store.move(key, "org/stolen")
    with pytest.raises(StoreRefusedError):
        await put(store, "org/folder-link/new")
    with pytest.raises(StoreRefusedError):
        await store.move("org/real", "org/folder-link/new")
    # What is behind a link has not gone because somebody put one there.
    with pytest.raises(StoreRefusedError):
        await store.delete("org/folder-link/secret")
    assert list(await store.delete_many(["org/real-one", "org/folder-link/secret"])) == [
        "org/folder-link/secret"
    ]
    assert await keys(store) == ["org/real"]
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_what_is_no_object_is_not_listed(store: LocalObjectStore) -> None:
    await put(store, KEY)
    os.mkfifo(store.root / "org-acme/4f/pipe")
    (store.root / "org-acme/4f/with space").write_bytes(b"x")
    (store.root / "org-acme/.hidden").write_bytes(b"x")
    await store.signer()
    assert await keys(store) == [KEY]
    assert await store.head("org-acme/4f/pipe") is None


async def test_what_a_killed_writer_left_is_found_by_its_key_and_removed(store: LocalObjectStore) -> None:
    longest = "/".join("k" * 127 for _ in range(4))
    writers = []
    for key in (KEY, longest, f"{longest[:-1]}x", "a"):
        waiting = asyncio.Event()
        writers.append(asyncio.create_task(store.put(key, _waiting_after(b"x" * _CHUNK_BYTES, waiting))))
        await waiting.wait()
    assert sorted(await unfinished_keys(store)) == sorted([KEY, longest, f"{longest[:-1]}x", "a"])
    assert await unfinished_keys(store, "org-acme/") == [KEY]
    assert await keys(store) == []

    found = [write async for write in store.list_unfinished()]
    for write in found:
        assert abs(datetime.now(UTC) - write.begun_at) < timedelta(minutes=1)
        await store.abort_unfinished(write)
        await store.abort_unfinished(write)
    assert _all_files(store) == []
    assert _all_folders(store) == [".incoming"]
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)


async def test_a_writer_whose_work_was_removed_fails(store: LocalObjectStore) -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * _CHUNK_BYTES
        await go_on.wait()

    putting = asyncio.create_task(store.put(KEY, slow()))
    await eventually(lambda: asyncio.to_thread(_all_files, store))
    async for write in store.list_unfinished():
        await store.abort_unfinished(write)
    go_on.set()
    with pytest.raises(StoreUnavailableError):
        await putting
    assert _all_files(store) == []


async def test_what_older_releases_left_is_found_too(store: LocalObjectStore) -> None:
    await put(store, KEY)
    left = store.root / ".incoming" / "0123456789abcdef0123456789abcdef"
    left.write_bytes(b"x")
    long_ago = time.time() - 3600
    os.utime(left, (long_ago, long_ago))
    (write,) = [write async for write in store.list_unfinished()]
    assert datetime.now(UTC) - write.begun_at > timedelta(minutes=59)
    await store.abort_unfinished(write)
    assert not left.exists()


async def test_only_what_is_unfinished_can_be_aborted(store: LocalObjectStore) -> None:
    await put(store, KEY)
    for token in ("", "..", "../org-acme/4f/object", "/etc/passwd", "a\0", KEY, "org-acme+4f+object"):
        await store.abort_unfinished(UnfinishedWrite(KEY, token, datetime.now(UTC)))
    assert await keys(store) == [KEY]


async def test_folders_go_with_the_last_object_in_them(store: LocalObjectStore) -> None:
    await put(store, "org-a/4f/1")
    await put(store, "org-a/4f/2")
    await put(store, "org-a/50/3")
    await store.delete("org-a/4f/1")
    assert _all_folders(store) == [".incoming", "org-a", "org-a/4f", "org-a/50"]
    assert await store.delete_many(["org-a/4f/2"]) == {}
    assert _all_folders(store) == [".incoming", "org-a", "org-a/50"]
    await store.move("org-a/50/3", "org-b/1/2/3")
    assert _all_folders(store) == [".incoming", "org-b", "org-b/1", "org-b/1/2"]
    await store.delete("org-b/1/2/3")
    assert _all_folders(store) == [".incoming"]


async def test_writers_are_not_disturbed_by_folders_that_go(store: LocalObjectStore) -> None:
    async def come_and_go(name: str) -> None:
        for _ in range(60):
            await put(store, f"org/4f/{name}", name.encode())
            assert await read(store, f"org/4f/{name}") == name.encode()
            moved = await store.move(f"org/4f/{name}", f"other/4f/{name}")
            assert await store.delete_many([moved.key]) == {}

    await asyncio.gather(*(come_and_go(name) for name in "abcd"))
    assert await keys(store) == []


async def test_a_folder_that_goes_before_anything_is_in_it_is_made_again(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir
    to_go = ["org", "4f", "other"]

    def make(name: str, *arguments: int, **options: int) -> None:
        mkdir(name, *arguments, **options)
        if to_go and name == to_go[0]:
            os.rmdir(to_go.pop(0), **options)

    monkeypatch.setattr(os, "mkdir", make)
    await put(store, "org/4f/a", b"content")
    await store.move("org/4f/a", "other/a")
    assert to_go == []
    assert await read(store, "other/a") == b"content"


async def test_a_moved_object_counts_as_written_then(store: LocalObjectStore) -> None:
    await put(store, "incoming/1", b"content")
    long_ago = time.time() - 7200
    os.utime(store.root / "incoming/1", (long_ago, long_ago))
    moved = await store.move("incoming/1", KEY)
    assert moved == await store.head(KEY)
    assert abs(datetime.now(UTC) - moved.written_at) < timedelta(minutes=1)


async def test_what_the_disk_refuses_is_told_by_its_kind(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(store, "_append", fail)

    failing(errno.ENOSPC)
    with pytest.raises(StoreUnavailableError, match="No space left"):
        await put(store, KEY)
    failing(errno.EROFS)
    with pytest.raises(StoreRefusedError, match="Read-only"):
        await put(store, KEY)
    assert _all_files(store) == []


async def test_those_that_cannot_be_deleted_are_named(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1", "b/1", "b/2"):
        await put(store, name)
    unlink = os.unlink

    def refuse(name: str, **options: int) -> None:
        if name == "2":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(name, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    failed = await store.delete_many(["a/1", "b/1", "b/2", "none"])
    assert failed == {"b/2": "Permission denied"}
    assert await keys(store) == ["b/2"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_a_file_system_without_links_has_objects_that_replace_no_other(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    assert await store.create("owner", b"first")
    assert not await store.create("owner", b"second")
    assert await read(store, "owner") == b"first"
    assert _all_files(store) == [store.root / "owner"]


async def test_files_are_for_nobody_else(store: LocalObjectStore) -> None:
    await put(store, KEY)
    await store.signer()
    for path in (KEY, "org-acme", ".incoming", ".presigning-key", ""):
        assert (store.root / path).stat().st_mode & 0o077 == 0


async def test_listing_many_takes_the_memory_of_one_folder(store: LocalObjectStore) -> None:
    def make() -> None:
        for folder in range(256):
            path = store.root / f"org/{folder:02x}"
            path.mkdir(parents=True)
            for number in range(40):
                (path / f"{number:032}").touch()

    await asyncio.to_thread(make)
    tracemalloc.start()
    try:
        count = 0
        last = ""
        async for stored in store.list():
            assert last < stored.key
            last = stored.key
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 256 * 40
    # All of them at once would be four times that.
    assert peak < 2 << 20


async def test_big_objects_never_hold_up_the_loop(store: LocalObjectStore) -> None:
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)

    measuring = asyncio.create_task(measure())
    stored = await store.put(KEY, chunks_of(*(bytes(1 << 20) for _ in range(64))))
    async for _ in await store.get(KEY):
        pass
    measuring.cancel()
    assert stored.size_bytes == 64 << 20
    assert longest < 0.5

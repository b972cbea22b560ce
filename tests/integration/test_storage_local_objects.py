import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace_storage import InvalidKeyError, LocalObjectStore, ObjectMissingError, open_object_store
from millrace_storage.local_object_store import _CHUNK_BYTES
from support.polling import eventually

KEY = "org-acme/4f/object"


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "root")


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _read(store: LocalObjectStore, key: str, **bounds: int) -> bytes:
    return b"".join([chunk async for chunk in await store.get(key, **bounds)])


async def _keys(store: LocalObjectStore, prefix: str = "") -> list[str]:
    return [stored.key async for stored in store.list(prefix)]


def _all_files(store: LocalObjectStore) -> list[Path]:
    return [path for path in store._root.rglob("*") if not path.is_dir()]


async def test_an_object_comes_back_as_it_was_put(store: LocalObjectStore) -> None:
    content = os.urandom(3 * _CHUNK_BYTES + 17)
    pieces = [content[start : start + 10_007] for start in range(0, len(content), 10_007)]
    stored = await store.put(KEY, _chunks(*pieces))
    assert stored.size_bytes == len(content)
    assert await store.head(KEY) == stored
    assert await _read(store, KEY) == content
    chunks = [chunk async for chunk in await store.get(KEY)]
    assert max(map(len, chunks)) <= 1 << 20


async def test_an_empty_object_is_an_object(store: LocalObjectStore) -> None:
    await store.put(KEY, _chunks())
    stored = await store.head(KEY)
    assert stored is not None
    assert stored.size_bytes == 0
    assert await _read(store, KEY) == b""


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 5, b"34"), (0, 99, b"0123456789"), (10, None, b"")],
)
async def test_a_part_of_an_object(
    store: LocalObjectStore, start: int, end: int | None, expected: bytes
) -> None:
    await store.put(KEY, _chunks(b"01234", b"56789"))
    chunks = await store.get(KEY, start=start, end=end)
    assert b"".join([chunk async for chunk in chunks]) == expected


async def test_what_does_not_exist(store: LocalObjectStore) -> None:
    assert await store.head(KEY) is None
    assert await _keys(store) == []
    await store.delete(KEY)
    with pytest.raises(ObjectMissingError):
        await store.get(KEY)
    await store.put(KEY, _chunks(b"x"))
    with pytest.raises(ObjectMissingError):
        await store.get("org-acme/4f")
    assert await store.head("org-acme/4f/object/below") is None


async def test_putting_again_replaces(store: LocalObjectStore) -> None:
    await store.put(KEY, _chunks(b"first, and longer"))
    await store.put(KEY, _chunks(b"second"))
    assert await _read(store, KEY) == b"second"
    assert len(_all_files(store)) == 1


async def test_deleting(store: LocalObjectStore) -> None:
    for name in ("a", "b", "c"):
        await store.put(f"org/{name}", _chunks(b"x"))
    await store.delete("org/a")
    await store.delete_many(["org/b", "org/none"])
    assert await _keys(store) == ["org/c"]


async def test_listing_by_prefix_in_the_order_of_the_keys(store: LocalObjectStore) -> None:
    keys = ["a", "a-b/x", "a/x", "a/y/z", "ab", "b/1"]
    for key in reversed([key for key in keys if key != "a"]):
        await store.put(key, _chunks(b"x"))
    keys.remove("a")
    assert await _keys(store) == sorted(keys)
    assert await _keys(store, "a/") == ["a/x", "a/y/z"]
    assert await _keys(store, "a") == ["a-b/x", "a/x", "a/y/z", "ab"]
    assert await _keys(store, "a/y/z") == ["a/y/z"]
    assert await _keys(store, "c") == []
    assert await _keys(store, "../") == []


async def test_a_source_that_fails_leaves_nothing(store: LocalObjectStore) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * (2 * _CHUNK_BYTES)
        raise ZeroDivisionError

    await store.put(KEY, _chunks(b"before"))
    with pytest.raises(ZeroDivisionError):
        await store.put(KEY, failing())
    assert await _read(store, KEY) == b"before"
    assert len(_all_files(store)) == 1


async def test_cancelling_while_chunks_are_awaited_leaves_nothing(store: LocalObjectStore) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * _CHUNK_BYTES
        waiting.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put(KEY, endless()))
    await waiting.wait()
    assert _all_files(store) != []
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert _all_files(store) == []


@pytest.mark.parametrize("step", ["_begin", "_append", "_sync", "_publish"])
async def test_cancelling_while_a_thread_works_leaves_nothing(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    began, go_on = threading.Event(), threading.Event()
    original = getattr(store, step)

    def slow(*arguments: object) -> object:
        began.set()
        go_on.wait(10)
        return original(*arguments)

    monkeypatch.setattr(store, step, slow)
    putting = asyncio.create_task(store.put(KEY, _chunks(b"x")))
    assert await asyncio.to_thread(began.wait, 10)
    putting.cancel()
    # Enough for a removal that does not wait for the step.
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await asyncio.sleep(0.05)
    assert _all_files(store) == []
    assert await store.head(KEY) is None


async def test_an_object_is_never_seen_half(store: LocalObjectStore) -> None:
    resume = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * _CHUNK_BYTES
        await resume.wait()
        yield b"y"

    putting = asyncio.create_task(store.put(KEY, slow()))
    await eventually(lambda: asyncio.to_thread(_all_files, store))
    assert await store.head(KEY) is None
    assert await _keys(store) == []
    resume.set()
    await putting
    assert await _keys(store) == [KEY]


async def test_a_reader_of_a_deleted_object_is_told(store: LocalObjectStore) -> None:
    await store.put(KEY, _chunks(b"x" * (3 * _CHUNK_BYTES)))
    chunks = await store.get(KEY)
    await anext(chunks)
    await store.delete(KEY)
    with pytest.raises(ObjectMissingError):
        await anext(chunks)


async def test_keys_lead_nowhere_else(store: LocalObjectStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for key in ("../secret", "/etc/passwd", "a/../../secret", "a\0b", ""):
        with pytest.raises(InvalidKeyError):
            await store.get(key)
        with pytest.raises(InvalidKeyError):
            await store.put(key, _chunks(b"x"))
        with pytest.raises(InvalidKeyError):
            await store.delete(key)
        with pytest.raises(InvalidKeyError):
            await store.head(key)
    assert secret.read_bytes() == b"secret"


async def test_symbolic_links_are_not_followed(store: LocalObjectStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    await store.put("org/real", _chunks(b"x"))
    (store._root / "org/file-link").symlink_to(outside / "secret")
    (store._root / "org/folder-link").symlink_to(outside)

    for key in ("org/file-link", "org/folder-link/secret"):
        with pytest.raises(ObjectMissingError):
            await store.get(key)
    with pytest.raises(NotADirectoryError):
        await store.put("org/folder-link/new", _chunks(b"x"))
    await store.delete("org/folder-link/secret")
    assert await _keys(store) == ["org/real"]
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_what_a_killed_process_left_is_removed_in_time(store: LocalObjectStore) -> None:
    await store.put(KEY, _chunks(b"x"))
    incoming = store._root / ".incoming"
    (incoming / "old").write_bytes(b"x")
    (incoming / "young").write_bytes(b"x")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(incoming / "old", (two_days_ago, two_days_ago))
    await store.put("another", _chunks(b"x"))
    assert [path.name for path in incoming.iterdir()] == ["young"]


async def test_files_are_for_nobody_else(store: LocalObjectStore) -> None:
    await store.put(KEY, _chunks(b"x"))
    assert (store._root / KEY).stat().st_mode & 0o077 == 0
    assert store._root.stat().st_mode & 0o077 == 0


async def test_big_objects_take_little_memory_and_never_hold_up_the_loop(store: LocalObjectStore) -> None:
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)

    async def megabytes(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(1 << 20)

    measuring = asyncio.create_task(measure())
    stored = await store.put(KEY, megabytes(64))
    async for _ in await store.get(KEY):
        pass
    measuring.cancel()
    assert stored.size_bytes == 64 << 20
    assert longest < 0.5


def test_providers_by_name(tmp_path: Path) -> None:
    assert open_object_store("local", data_dir=tmp_path).provider == "local"
    with pytest.raises(ValueError, match="there is: local"):
        open_object_store("floppy", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []

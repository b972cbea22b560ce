"""What every object store does when writing does not go well."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from millrace_storage.object_store import ObjectMissingError, ObjectStore, StoredObject
from support.object_stores import chunks_of, keys, put, read, unfinished_keys
from support.polling import eventually

KEY = "org-acme/4f/object"
MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def _all_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need more than a writer that is cancelled waits for."""
    monkeypatch.setattr("millrace_storage.s3_writing._SETTLING_SECONDS", 30.0)
    monkeypatch.setattr("millrace_storage.s3_write._TAKING_BACK_SECONDS", 30.0)


class _Source:
    """Chunks of a mebibyte, so many; then it waits until it may go on, and ends or fails."""

    def __init__(self, chunks: int, error: Exception | None = None) -> None:
        self._chunks = chunks
        self._error = error
        self.waiting = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def read(self) -> AsyncIterator[bytes]:
        for _ in range(self._chunks):
            yield b"x" * MEBIBYTE
        self.waiting.set()
        await self.may_go_on.wait()
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("chunks", [0, 1, 8, 30])
async def test_a_source_that_fails_leaves_nothing(store: ObjectStore, chunks: int) -> None:
    await put(store, KEY, b"before")
    source = _Source(chunks, ZeroDivisionError("of the source"))
    source.may_go_on.set()
    with pytest.raises(ZeroDivisionError, match="of the source"):
        await store.put(KEY, source.read())
    with pytest.raises(ZeroDivisionError):
        await store.put("another", source.read())
    assert await read(store, KEY) == b"before"
    assert await keys(store) == [KEY]
    assert await unfinished_keys(store) == []


@pytest.mark.parametrize("chunks", [0, 1, 8, 30])
async def test_cancelling_while_chunks_are_awaited_leaves_nothing(store: ObjectStore, chunks: int) -> None:
    await put(store, KEY, b"before")
    source = _Source(chunks)
    putting = asyncio.create_task(store.put(KEY, source.read()))
    await source.waiting.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await read(store, KEY) == b"before"
    assert await unfinished_keys(store) == []


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 17 * MEBIBYTE])
async def test_cancelling_at_any_point_leaves_nothing(store: ObjectStore, size: int, times: int) -> None:
    """Stops the writing after ever more turns of the event loop, until it is done before it is stopped."""
    turns, cancelled = 0, 0
    content = bytes(size)
    while True:
        key = f"org/{turns}"
        putting = asyncio.create_task(store.put(key, chunks_of(content)))
        for _ in range(turns):
            await asyncio.sleep(0)
        if putting.done():
            break
        for _ in range(times):
            putting.cancel()
            await asyncio.sleep(0)
        try:
            await putting
        except asyncio.CancelledError:
            cancelled += 1
            assert await store.head(key) is None
            assert await unfinished_keys(store) == []
        turns = 2 * turns + 1
    assert cancelled >= 2
    await putting
    assert await store.head(key) is not None


async def test_an_object_is_never_seen_half(store: ObjectStore) -> None:
    source = _Source(20)
    putting = asyncio.create_task(store.put(KEY, source.read()))
    await source.waiting.wait()
    await eventually(lambda: unfinished_keys(store))
    assert await store.head(KEY) is None
    assert await keys(store) == []
    with pytest.raises(ObjectMissingError):
        await store.get(KEY)
    source.may_go_on.set()
    await putting
    assert await keys(store) == [KEY]
    assert await unfinished_keys(store) == []


async def test_unfinished_writes_are_listed_and_given_up(store: ObjectStore) -> None:
    sources = {f"org/{name}/object": _Source(20) for name in ("a", "b")}
    putting = {key: asyncio.create_task(store.put(key, source.read())) for key, source in sources.items()}
    for source in sources.values():
        await source.waiting.wait()
    await eventually(lambda: _both(store))
    assert sorted(await unfinished_keys(store, "org/")) == list(sources)
    assert await unfinished_keys(store, "org/a") == ["org/a/object"]
    assert await unfinished_keys(store, "none") == []

    (found,) = [write async for write in store.list_unfinished("org/a/object")]
    assert found.key == "org/a/object"
    # moto says 2010 whenever it was.
    assert found.begun_at < datetime.now(UTC) + timedelta(minutes=1)
    await store.abort_unfinished(found)
    await store.abort_unfinished(found)
    assert await unfinished_keys(store) == ["org/b/object"]

    for source in sources.values():
        source.may_go_on.set()
    # Mostly it fails that way; a server may bring back an upload whose part was on its way.
    outcomes = await asyncio.gather(*putting.values(), return_exceptions=True)
    assert not isinstance(outcomes[1], BaseException)
    stored = [
        key for key, outcome in zip(sources, outcomes, strict=True) if isinstance(outcome, StoredObject)
    ]
    assert await keys(store) == stored
    assert await unfinished_keys(store) == []


async def _both(store: ObjectStore) -> bool:
    return len(await unfinished_keys(store)) == 2


async def test_many_write_at_a_time(store: ObjectStore) -> None:
    contents = {f"org/{number:02}": os.urandom(number * 300_000) for number in range(40)}
    await asyncio.gather(*(put(store, key, content) for key, content in contents.items()))
    assert await keys(store) == list(contents)
    for key, content in contents.items():
        assert await read(store, key) == content


async def test_many_that_fail_do_not_keep_others_from_writing(store: ObjectStore) -> None:
    async def fail(number: int) -> None:
        source = _Source(number % 20, ZeroDivisionError())
        source.may_go_on.set()
        with pytest.raises(ZeroDivisionError):
            await store.put(f"org/{number}", source.read())

    await asyncio.gather(*(fail(number) for number in range(70)))
    await asyncio.gather(*(put(store, f"org/{number:02}", bytes(9 * MEBIBYTE)) for number in range(40)))
    assert len(await keys(store)) == 40

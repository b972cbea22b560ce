"""So many objects are written to S3 at a time; who comes later waits, and not for ever."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from millrace_storage import s3_parts, s3_writing
from millrace_storage.object_store import StoreUnavailableError
from support.object_stores import chunks_of, keys
from support.s3_server import S3Bucket

MEBIBYTE = 1 << 20


async def test_who_waits_too_long_for_a_place_is_sent_away(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_writing, "MAX_WRITES", 2)
    monkeypatch.setattr(s3_writing, "_WAITING_SECONDS", 0.05)
    store = s3_bucket.store()
    begun = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.release()
        await go_on.wait()
        yield b"at last"

    async with asyncio.TaskGroup() as writers:
        for number in range(2):
            writers.create_task(store.put(f"org-acme/00/slow-{number}", slow()))
            await begun.acquire()
        with pytest.raises(StoreUnavailableError, match="2 objects are being written already"):
            await store.put("org-acme/00/late", chunks_of(b"late"))
        go_on.set()
    await store.put("org-acme/00/later", chunks_of(b"later"))
    assert await keys(store) == ["org-acme/00/later", "org-acme/00/slow-0", "org-acme/00/slow-1"]


async def test_objects_that_come_in_slowly_hold_no_more_than_the_parts_they_fill(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has one part in the store, and waits for the end of the next."""
    monkeypatch.setattr(s3_writing, "MAX_WRITES", 6)
    monkeypatch.setattr(s3_writing, "MAX_UPLOADS", 1)
    store = s3_bucket.store()
    almost = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield bytes(MEBIBYTE)
        almost.release()
        await go_on.wait()

    tracemalloc.start()
    try:
        async with asyncio.TaskGroup() as writers:
            for number in range(6):
                writers.create_task(store.put(f"org-acme/00/slow-{number}", slow()))
            for _ in range(6):
                await almost.acquire()
            held = _held_by_parts()
            go_on.set()
        gc.collect()
        left = _held_by_parts()
    finally:
        tracemalloc.stop()
    # The last of each may still be on its way.
    assert held < (6 + 1) * 6 * MEBIBYTE
    assert left < MEBIBYTE
    assert len(await keys(store)) == 6


def _held_by_parts() -> int:
    of_parts = tracemalloc.Filter(inclusive=True, filename_pattern=s3_parts.__file__)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([of_parts]).traces)

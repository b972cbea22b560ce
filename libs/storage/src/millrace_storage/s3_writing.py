"""Writing objects to S3 in bounded memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from millrace_storage.object_store import (
    StoredObject,
    StoreRefusedError,
    StoreUnavailableError,
    WriteState,
)
from millrace_storage.s3_parts import MAX_PARTS, MEBIBYTE, PART_BYTES, PartBuffers, cut, part_bytes, size_of
from millrace_storage.s3_silence import SilenceWatch
from millrace_storage.s3_write import S3Write
from millrace_storage.uninterrupted import to_the_end

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

MAX_WRITES = 32
"""So many objects of a store are written at a time; more wait for a minute. Each fills one part."""

MAX_UPLOADS = 16
"""So many parts are on their way at a time. With 5 MiB each, writing takes (32 + 16) * 5 MiB = 240 MiB at most."""

# One more would not make an upload faster that comes in more slowly than the server takes it, and costs 5 MiB each.
_UPLOADS_PER_WRITE = 1

# Who waits for longer is given up by others, as one that makes no progress.
_WAITING_SECONDS = 60.0

# For a request of a cancelled writer that cannot be undone without its answer.
_SETTLING_SECONDS = 2.0


class S3Writer:
    """Writes the objects of a bucket: short ones as one request, long ones in parts that are uploaded while others come in."""

    def __init__(self, client: "S3Client", bucket: str, watch: SilenceWatch) -> None:
        self._client = client
        self._bucket = bucket
        self._watch = watch
        self._writes = asyncio.Semaphore(MAX_WRITES)
        self._uploads = asyncio.Semaphore(MAX_UPLOADS)
        self._buffers = PartBuffers()
        self._writing = 0
        self.waiting = 0
        """How many objects wait until others are written."""

    async def put(
        self, key: str, chunks: AsyncIterator[bytes], expected_bytes: int | None, state: WriteState
    ) -> StoredObject:
        """Store an object, as `ObjectStore.put` says."""
        # Before anything is sent, so that it is certain that nothing stays.
        await self._watch.admit()
        length = part_bytes(expected_bytes)
        buffers = self._buffers if length == PART_BYTES else PartBuffers()
        write = S3Write(self._client, self._bucket, key, state, buffers)
        async with self._place(), aclosing(cut(chunks, length, buffers)) as parts:
            first = await anext(parts)
            try:
                if size_of(first) < length:
                    return await to_the_end(write.whole(first), _SETTLING_SECONDS)
                await to_the_end(write.begin(), _SETTLING_SECONDS)
                await self._upload(write, first, parts)
                return await to_the_end(write.complete(), _SETTLING_SECONDS)
            except BaseException:
                await to_the_end(write.take_back())
                raise

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            async with asyncio.timeout(_WAITING_SECONDS):
                await self._writes.acquire()
        except TimeoutError:
            raise StoreUnavailableError(f"{MAX_WRITES} objects are being written already") from None
        finally:
            self.waiting -= 1
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            self._buffers.keep(self._writing)
            self._writes.release()

    async def _upload(self, write: S3Write, first: BytesIO, others: AsyncIterator[BytesIO]) -> None:
        free = asyncio.Semaphore(_UPLOADS_PER_WRITE)
        try:
            async with asyncio.TaskGroup() as group:
                await self._start(group, free, write, 1, first)
                number = 1
                async for part in others:
                    if not size_of(part):
                        break
                    number += 1
                    if number > MAX_PARTS:
                        limit = MAX_PARTS * size_of(first) // MEBIBYTE
                        raise StoreRefusedError(f"an object of unknown length can have {limit} MiB at most")
                    await self._start(group, free, write, number, part)
        except BaseExceptionGroup as errors:
            # Of what failed together, the first was the cause.
            raise errors.exceptions[0] from None

    async def _start(
        self, group: asyncio.TaskGroup, free: asyncio.Semaphore, write: S3Write, number: int, part: BytesIO
    ) -> None:
        await free.acquire()
        await self._uploads.acquire()
        uploading = write.part(number, part)
        try:
            task = group.create_task(uploading)
        except BaseException:
            # Another part has failed.
            uploading.close()
            self._uploads.release()
            raise

        def ended(task: asyncio.Task[None]) -> None:
            # After an error somebody may still be reading it.
            if not task.cancelled() and task.exception() is None:
                write.buffers.give_back(part)
            free.release()
            self._uploads.release()

        # Not in the task itself, which may be cancelled before it begins.
        task.add_done_callback(ended)

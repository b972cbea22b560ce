"""Cutting what is written to S3 into parts."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from io import BytesIO

MEBIBYTE = 1 << 20
PART_BYTES = 5 * MEBIBYTE
"""The length of a part, the shortest that servers take, unless the object needs longer ones."""

MAX_PARTS = 10_000
"""So many parts can be put together."""


def part_bytes(expected_bytes: int | None) -> int:
    """Return how long the parts of an object of this length are to be, so that there are not too many."""
    needed = -(-(expected_bytes or 0) // MAX_PARTS)
    return max(PART_BYTES, -(-needed // MEBIBYTE) * MEBIBYTE)


class PartBuffers:
    """The memory of parts of one length, used again: what is freed and asked for in turn would leave a heap full of holes.

    Objects that are written at the same time share it, so that none keeps what it has no use for yet.
    """

    def __init__(self) -> None:
        self._free: list[BytesIO] = []

    def take(self) -> BytesIO:
        """Return a buffer to fill from its beginning; what is in it is of no use."""
        buffer = self._free.pop() if self._free else BytesIO()
        buffer.seek(0)
        return buffer

    def give_back(self, buffer: BytesIO) -> None:
        """Take a buffer that nobody reads any more."""
        self._free.append(buffer)

    def keep(self, count: int) -> None:
        """Free the memory of all but so many of the buffers that nobody uses."""
        del self._free[count:]


async def cut(
    chunks: AsyncIterator[bytes], length: int, buffers: PartBuffers
) -> AsyncGenerator[BytesIO, None]:
    """Yield the same bytes in parts of `length`, read from the beginning, but the last, which is shorter; some servers take no others.

    There is always a last one, which is empty when nothing else is left.
    """
    part = buffers.take()
    async for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[part.write(rest[: length - part.tell()]) :]
            if part.tell() == length:
                part.seek(0)
                yield part
                part = buffers.take()
    part.truncate()
    part.seek(0)
    yield part


def size_of(part: BytesIO) -> int:
    """Return the length of a part."""
    return part.getbuffer().nbytes


async def md5_of(part: BytesIO) -> str:
    """Return the value of Content-MD5, made in a thread."""
    return base64.b64encode(await asyncio.to_thread(_md5, part)).decode()


def _md5(part: BytesIO) -> bytes:
    with part.getbuffer() as content:
        return hashlib.md5(content, usedforsecurity=False).digest()

"""The bytes of presigned requests on their way, within limits of time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import StreamReader, web

_T = TypeVar("_T")

_PROGRESS_BYTES = 64 * 1024


class ClientStalled(Exception):  # noqa: N818 - it is no error of this process
    """Fewer than 64 KiB passed in the time that is given for them."""


class ClientGone(Exception):  # noqa: N818
    """The client ended its request, or the connection broke."""


async def received(body: StreamReader, *, stalled_after: float) -> AsyncIterator[bytes]:
    """Yield what a client sends, in blocks of 64 KiB and more, the last of any size.

    Raises:
        ClientStalled: a block takes longer than `stalled_after` seconds.
        ClientGone: the request breaks off.

    """
    while block := await _within(_block(body), stalled_after):
        yield block


async def send(response: web.StreamResponse, chunks: AsyncIterator[bytes], *, stalled_after: float) -> None:
    """Send what a client has asked for, no faster than it takes it.

    Raises:
        ClientStalled: a block of 64 KiB takes longer than `stalled_after` seconds.
        ClientGone: the client wants no more.

    """
    async for chunk in chunks:
        for start in range(0, len(chunk), _PROGRESS_BYTES):
            await _within(response.write(chunk[start : start + _PROGRESS_BYTES]), stalled_after)


async def _block(body: StreamReader) -> bytes:
    block = bytearray()
    while len(block) < _PROGRESS_BYTES and (some := await body.readany()):
        block += some
    return bytes(block)


async def _within(progress: Awaitable[_T], seconds: float) -> _T:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await progress
    except Exception as error:
        # aiohttp raises what the connection ended with, whatever that is.
        raise (ClientStalled() if limit.expired() else ClientGone()) from error

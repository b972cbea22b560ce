"""The HTTP sessions of an S3 client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from millrace_storage.s3_parts import size_of
from millrace_storage.s3_silence import SilenceWatch


def watched_session(watch: SilenceWatch, read_seconds: float) -> type[AIOHTTPSession]:
    """Return sessions whose requests fail with StoreUnavailableError, and are not repeated, when the server is silent.

    A server that lives has `read_seconds` to take more of a body, too, for which aiohttp would wait without an end.
    """

    class WatchedSession(AIOHTTPSession):
        async def send(self, request: Any) -> Any:
            async with watch.answer_due():
                try:
                    async with _taken(request.body, read_seconds):
                        return await super().send(request)
                except ConnectTimeoutError:
                    # That took long, and each repetition would take as long again.
                    await watch.ask()
                    raise
                except TimeoutError as error:
                    raise ReadTimeoutError(endpoint_url=request.url, error=error) from error

    return WatchedSession


@asynccontextmanager
async def _taken(body: Any, seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError in this block when nothing of a body is taken for so long, or twice that, and some is left."""
    if not isinstance(body, BytesIO):
        yield
        return
    loop = asyncio.get_running_loop()
    taken = body.tell()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal taken, timer
        before, taken = taken, body.tell()
        if taken == before and taken < size_of(body):
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(seconds, look)

    timer = loop.call_later(seconds, look)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    finally:
        timer.cancel()

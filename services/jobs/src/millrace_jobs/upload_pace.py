"""How fast the content of an upload has to arrive."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from millrace_storage import UploadGivenUp

_BLOCK_BYTES = 64 * 1024
_BLOCK_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 2.0


class UploadPace:
    """Ends an upload that holds its place in the store for nearly nothing while others wait for one.

    Less than 64 KiB in 60 seconds is too little; only the time counts in which content is waited for.
    """

    def __init__(self, others_wait: Callable[[], bool]) -> None:
        """Take what tells whether others wait, which is asked now and then once the upload is too slow."""
        self._others_wait = others_wait
        self._waited = 0.0
        self._bytes = 0

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for content in this block. Raises UploadGivenUp."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        limit = asyncio.timeout(None)
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if self._others_wait():
                limit.reschedule(loop.time())
            else:
                timer = loop.call_later(_LOOK_EVERY_SECONDS, look)

        timer = loop.call_later(_BLOCK_SECONDS - self._waited, look)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise UploadGivenUp("too little of the upload arrived while others were waiting") from None
        finally:
            timer.cancel()
            self._waited += loop.time() - begin

    def arrived(self, count: int) -> None:
        """Say how many bytes have arrived."""
        self._bytes += count
        if self._bytes >= _BLOCK_BYTES:
            self._bytes = 0
            self._waited = 0.0

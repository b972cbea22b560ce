"""Sending content straight to the object store, by a request that the Files service has signed."""

import asyncio
import contextlib
import http.client
import io
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from millrace_client.errors import TransferError
from millrace_client.file_upload import Upload
from millrace_client.upload import Progress

# Small, since a whole block has to be taken within the time in which something must happen.
_BLOCK_BYTES = 128 * 1024
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.3
_CONNECTING_SECONDS = 10.0

STALL_SECONDS = 60.0
"""A store that neither takes more of a content nor answers for so long has gone away."""


async def put_directly(
    upload: Upload,
    source: str | os.PathLike[str] | bytes,
    size_bytes: int,
    on_progress: Progress | None,
    stall_seconds: float = STALL_SECONDS,
) -> None:
    """Send the content of a path, or bytes, by the request of `upload`; tried again when the store cannot be reached.

    That is also one that takes no connection within 10 seconds, or nothing more and does not answer for `stall_seconds`.

    Raises:
        TransferError: the store refused it, could not be reached in three tries, or the content is shorter than announced.
        OSError: the path cannot be read.

    """
    loop = asyncio.get_running_loop()

    def tell(sent: int) -> None:
        if on_progress is not None:
            loop.call_soon_threadsafe(on_progress, sent, size_bytes)

    tries = 0
    while True:
        sending = _Sending(upload, source, size_bytes, tell, stall_seconds)
        try:
            return await _in_thread(sending)
        except TransferError as error:
            tries += 1
            if not error.retryable or tries == _TRIES:
                raise
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**tries)


async def _in_thread(sending: "_Sending") -> None:
    """Run one try in a thread; when cancelled, close its connection, which ends it, and wait for that."""
    running = asyncio.ensure_future(asyncio.to_thread(sending.run))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        sending.stop()
        await asyncio.gather(running, return_exceptions=True)
        raise


class _Sending:
    """One try."""

    def __init__(
        self,
        upload: Upload,
        source: str | os.PathLike[str] | bytes,
        size_bytes: int,
        tell: Callable[[int], None],
        stall_seconds: float,
    ) -> None:
        self._upload = upload
        self._source = source
        self._size = size_bytes
        self._tell = tell
        self._stall_seconds = stall_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._is_connected = False
        self._stopped = False

    def run(self) -> None:
        with _opened(self._source) as content:
            status, reason = self._send(_Watched(content, self._size, self._tell, lambda: self._stopped))
        if not 200 <= status < 300:
            raise TransferError(
                f"the object store answered {status} {reason}", retryable=status >= 500 or status == 429
            )

    def _unreachable(self, store: str, error: Exception) -> TransferError:
        if not isinstance(error, TimeoutError):
            why = getattr(error, "strerror", None) or str(error) or "the connection broke"
        elif self._is_connected:
            why = f"it took nothing more and did not answer for {self._stall_seconds:g} s"
        else:
            why = f"no connection within {_CONNECTING_SECONDS:g} s"
        return TransferError(f"the object store at {store} cannot be reached: {why}", retryable=True)

    def _send(self, body: "_Watched") -> tuple[int, str]:
        """Make the request, and return status and reason of the answer."""
        url = urlsplit(self._upload.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.netloc, timeout=_CONNECTING_SECONDS, blocksize=_BLOCK_BYTES)
        self._connection = connection
        headers = {**self._upload.headers} | {"Content-Length": str(self._size)}
        try:
            connection.connect()
            self._is_connected = True
            connection.sock.settimeout(self._stall_seconds)
            # A store that refuses may answer and close before everything has been sent.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(self._upload.method, f"{url.path}?{url.query}", body=body, headers=headers)
            answer = connection.getresponse()
            answer.read(_BLOCK_BYTES)
        except (http.client.HTTPException, OSError) as error:
            if body.failure is not None:
                raise body.failure from None
            raise self._unreachable(url.netloc, error) from error
        finally:
            connection.close()
        return answer.status, answer.reason

    def stop(self) -> None:
        """Have it end soon."""
        self._stopped = True
        sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            # Closing it would not wake a thread that waits for it. Not connected any more: it has ended.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class _Watched:
    """Content that is being read, as much as was announced, and what is told of it."""

    content: BinaryIO
    size_bytes: int
    tell: Callable[[int], None]
    stopped: Callable[[], bool]
    sent: int = 0
    failure: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        if self.stopped():
            raise ConnectionAbortedError("cancelled")
        left = self.size_bytes - self.sent
        try:
            block = self.content.read(left if size < 0 else min(size, left))
        except OSError as error:
            self.failure = error
            raise
        if left and not block:
            # The store would wait for the rest.
            raise TransferError("the content has become shorter while it was sent", retryable=False)
        self.sent += len(block)
        self.tell(self.sent)
        return block


def _opened(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")

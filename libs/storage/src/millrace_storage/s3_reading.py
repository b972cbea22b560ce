"""Reading an object from S3."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from millrace_storage.object_store import ObjectMissingError, StoreRefusedError
from millrace_storage.s3_errors import BROKEN_CONNECTION, s3_errors, status
from millrace_storage.s3_silence import SilenceWatch

if TYPE_CHECKING:
    from aiobotocore.response import StreamingBody
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

_KIBIBYTE = 1024
_FIRST_WINDOW_BYTES = 256 * _KIBIBYTE
_LONGEST_WINDOW_BYTES = 4096 * _KIBIBYTE
_CHUNK_BYTES = 1024 * _KIBIBYTE
_READ_BYTES = 256 * _KIBIBYTE
_FIRST_PAUSE_SECONDS = 0.1
_BEHIND_THE_END = 416
_SIZE = re.compile(r"/(\d+)$", re.ASCII)


class S3Reading:
    """One object being read by windows: each is a request of its own, which has ended before its bytes are given away."""

    def __init__(
        self, client: "S3Client", bucket: str, key: str, *, attempts: int, watch: SilenceWatch
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._attempts = attempts
        self._watch = watch
        self._etag = ""
        self._size_bytes: int | None = None

    async def open(self, start: int, end: int | None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to `end`, at least one. Raises ObjectMissingError."""
        stop = start + _FIRST_WINDOW_BYTES
        window = await self._window(start, stop if end is None else min(stop, end))
        return self._chunks(window, start, end)

    async def _chunks(self, window: bytearray, start: int, end: int | None) -> AsyncIterator[bytes]:
        size = self._size_bytes or 0
        stop = size if end is None else min(end, size)
        length = _FIRST_WINDOW_BYTES
        while window:
            start += len(window)
            for offset in range(0, len(window), _CHUNK_BYTES):
                yield bytes(memoryview(window)[offset : offset + _CHUNK_BYTES])
            length = min(2 * length, _LONGEST_WINDOW_BYTES)
            window = await self._window(start, min(start + length, stop))
        if start < stop:
            # It is not as long any more as it was, or not there as a whole.
            raise ObjectMissingError(self._key)

    async def _window(self, start: int, stop: int) -> bytearray:
        """Read a part of the object, on from where the connection broke; less, when there is not as much."""
        window = bytearray()
        tries, pause = 0, _FIRST_PAUSE_SECONDS
        with s3_errors(self._key):
            while start + len(window) < stop:
                # This is repeated already when it is not answered.
                body = await self._request(start + len(window), stop)
                if body is None:
                    break
                before = len(window)
                try:
                    async with body:
                        while chunk := await self._read(body):
                            window += chunk
                    break
                except BROKEN_CONNECTION:
                    tries = 1 if len(window) > before else tries + 1
                    if tries >= self._attempts:
                        raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter is no secret
                pause *= 2
        return window

    async def _read(self, body: "StreamingBody") -> bytes:
        async with self._watch.answer_due():
            return await body.read(_READ_BYTES)

    async def _request(self, start: int, stop: int) -> "StreamingBody | None":
        """Ask for bytes of the object as it was at first; None: there are none."""
        asked: GetObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._key,
            "Range": f"bytes={start}-{stop - 1}",
        }
        if self._etag:
            asked["IfMatch"] = self._etag
        try:
            answer = await self._client.get_object(**asked)
        except ClientError as error:
            if status(error) == _BEHIND_THE_END:
                return None
            raise
        self._etag = answer["ETag"]
        self._size_bytes = _size(answer)
        if answer["ContentLength"] > stop - start:
            answer["Body"].close()
            raise StoreRefusedError("the object store does not give parts of objects")
        return answer["Body"]


def _size(answer: "GetObjectOutputTypeDef") -> int:
    found = _SIZE.search(answer.get("ContentRange", ""))
    return int(found[1]) if found else answer["ContentLength"]

"""One object being written to S3."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TYPE_CHECKING
from uuid import uuid4

from millrace_storage.object_store import (
    ObjectMissingError,
    Remains,
    StoredObject,
    StoreRefusedError,
    StoreUnavailableError,
    WriteState,
)
from millrace_storage.s3_errors import s3_errors
from millrace_storage.s3_parts import PartBuffers, md5_of, size_of
from millrace_storage.s3_unfinished import abort_upload

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, ResponseMetadataTypeDef

_TAKING_BACK_SECONDS = 3.0
# Metadata of an object that tell which write it comes from.
_WRITE = "millrace-write"
_logger = logging.getLogger(__name__)


class S3Write:
    """The requests that write one object, and those that leave nothing of it."""

    def __init__(
        self, client: "S3Client", bucket: str, key: str, state: WriteState, buffers: PartBuffers
    ) -> None:
        """Take where to say how far the write has come, and where its parts go when they are uploaded."""
        self._state = state
        self._client = client
        self._bucket = bucket
        self._key = key
        self.buffers = buffers
        self._token = uuid4().hex
        self._upload_id = ""
        self._parts: dict[int, CompletedPartTypeDef] = {}
        self._size_bytes = 0
        self._may_exist = False
        self._is_away = False
        self._is_cut_off = False

    async def whole(self, content: BytesIO) -> StoredObject:
        """Write a short object."""
        md5 = await md5_of(content)
        self._size_bytes = size_of(content)
        self._may_exist = True
        with self._settling():
            answer = await self._client.put_object(
                Bucket=self._bucket,
                Key=self._key,
                Body=content,
                ContentMD5=md5,
                Metadata={_WRITE: self._token},
            )
        return self._stored(_date(answer["ResponseMetadata"]))

    async def begin(self) -> None:
        """Begin a long object."""
        with self._settling():
            answer = await self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._key, Metadata={_WRITE: self._token}
            )
        self._upload_id = answer["UploadId"]

    async def part(self, number: int, content: BytesIO) -> None:
        """Upload a part."""
        md5 = await md5_of(content)
        with self._asking():
            answer = await self._client.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=content,
                ContentMD5=md5,
            )
        self._parts[number] = {"PartNumber": number, "ETag": answer["ETag"]}
        self._size_bytes += size_of(content)

    async def complete(self) -> StoredObject:
        """Make the object of the parts."""
        self._may_exist = True
        try:
            with self._settling():
                answer = await self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._key,
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": [self._parts[number] for number in sorted(self._parts)]},
                )
        except (StoreUnavailableError, StoreRefusedError):
            # It may have been done, and its answer lost: repeated then, it is refused.
            written_at = await self._written_at()
            if written_at is None:
                raise
            return self._stored(written_at)
        return self._stored(_date(answer["ResponseMetadata"]))

    async def take_back(self) -> None:
        """Leave nothing of the object; one that was there before stays, as long as it has not been replaced.

        Raises nothing: what cannot be removed is logged, and found by `list_unfinished` or `list`.
        """
        if self._state.remains is Remains.NOTHING:
            return
        try:
            async with asyncio.timeout(_TAKING_BACK_SECONDS):
                await self._remove()
        except (StoreUnavailableError, StoreRefusedError, TimeoutError) as error:
            _logger.warning("what was written of object %s may not be removed: %s", self._key, error)
        else:
            if not self._is_away:
                self._state.remains = Remains.NOTHING

    async def _remove(self) -> None:
        if self._is_cut_off:
            # What it has not answered to it may still do afterwards.
            raise StoreUnavailableError("the object store did not answer in time")
        if self._upload_id:
            await abort_upload(self._client, self._bucket, self._key, self._upload_id)
        if self._may_exist and await self._written_at() is not None:
            with s3_errors():
                await self._client.delete_object(Bucket=self._bucket, Key=self._key)

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """Make a request that may be done without its answer."""
        self._state.remains = Remains.PERHAPS
        try:
            with self._asking():
                yield
        except asyncio.CancelledError:
            self._is_cut_off = True
            raise

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with s3_errors():
                yield
        except StoreUnavailableError:
            self._is_away = True
            raise

    async def _written_at(self) -> datetime | None:
        """Return when this write's object came to be, or None when it is not there."""
        try:
            with s3_errors(self._key):
                answer = await self._client.head_object(Bucket=self._bucket, Key=self._key)
        except ObjectMissingError:
            return None
        return answer["LastModified"] if answer["Metadata"].get(_WRITE) == self._token else None

    def _stored(self, written_at: datetime) -> StoredObject:
        self._state.remains = Remains.OBJECT
        return StoredObject(self._key, self._size_bytes, written_at)


def _date(answer: "ResponseMetadataTypeDef") -> datetime:
    date = answer["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)

"""Objects in a bucket of S3 or of a server that speaks like it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from millrace_storage.content_disposition import attachment
from millrace_storage.object_store import (
    ObjectMissingError,
    ObjectStore,
    PresignedRequest,
    StoredObject,
    UnfinishedWrite,
    WriteState,
    checked_key,
)
from millrace_storage.s3_answers import distrust_answers
from millrace_storage.s3_checking import check_bucket
from millrace_storage.s3_client import S3Clients
from millrace_storage.s3_creating import create_object
from millrace_storage.s3_deleting import S3Deleter
from millrace_storage.s3_errors import s3_errors
from millrace_storage.s3_pages import is_key, may_begin_keys, pages
from millrace_storage.s3_reading import S3Reading
from millrace_storage.s3_unfinished import abort_upload, list_uploads
from millrace_storage.s3_writing import S3Writer

_GIBIBYTE = 1 << 30


class S3ObjectStore(ObjectStore):
    """Objects in one bucket, which is not created; any number of processes may share it."""

    provider = "s3"
    max_presigned_bytes = 5 * _GIBIBYTE

    def __init__(self, clients: S3Clients, bucket: str) -> None:
        """Take clients that stay open as long as the store is used; nothing is sent before its first use."""
        distrust_answers(clients.own)
        self.bucket = bucket
        self._client = clients.own
        self._public_client = clients.public
        self._attempts = clients.attempts
        self._watch = clients.watch
        self._writer = S3Writer(clients.own, bucket, clients.watch)
        self._deleter = S3Deleter(clients.own, bucket)

    async def check(self) -> None:
        """Ask for the bucket, as `ObjectStore.check` says. Whoever may only use it may be refused that."""
        await check_bucket(self._client, self.bucket)

    async def put(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        expected_bytes: int | None = None,
        state: WriteState | None = None,
    ) -> StoredObject:
        """Store an object, as `ObjectStore.put` says.

        When it is cancelled, a request that cannot be undone is waited for, for 2 seconds, and undoing takes up to 3. What
        is written is held in parts of 5 MiB, one of them on its way and one being filled; `expected_bytes` above 48 GiB
        makes the parts longer, which longer objects need.
        """
        return await self._writer.put(checked_key(key), chunks, expected_bytes, state or WriteState())

    def writers_wait(self) -> bool:
        """Return whether more objects are to be written than are written at a time."""
        return self._writer.waiting > 0

    async def create(self, key: str, content: bytes) -> bool:
        """Store a short object unless there is one, as `ObjectStore.create` says."""
        return await create_object(self._client, self.bucket, checked_key(key), content)

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes of an object, as `ObjectStore.get` says; one that is replaced meanwhile is missing."""
        if end is not None and end <= start:
            if await self.head(key) is None:
                raise ObjectMissingError(key)
            return _nothing()
        reading = S3Reading(
            self._client, self.bucket, checked_key(key), attempts=self._attempts, watch=self._watch
        )
        return await reading.open(start, end)

    async def head(self, key: str) -> StoredObject | None:
        """Return what is known of an object, or None when there is no such object."""
        try:
            with s3_errors(checked_key(key)):
                answer = await self._client.head_object(Bucket=self.bucket, Key=key)
        except ObjectMissingError:
            # It is said in the same words that there is no such bucket.
            with s3_errors():
                await self._client.head_bucket(Bucket=self.bucket)
            return None
        return StoredObject(key, answer["ContentLength"], answer["LastModified"])

    async def move(self, source: str, target: str) -> StoredObject:
        """Give an object another key, as `ObjectStore.move` says: it is copied by the server, then deleted."""
        checked_key(target)
        if source != target:
            with s3_errors(checked_key(source)):
                await self._client.copy_object(
                    Bucket=self.bucket, Key=target, CopySource={"Bucket": self.bucket, "Key": source}
                )
        moved = await self.head(target)
        if moved is None:
            raise ObjectMissingError(target)
        if source != target:
            await self._deleter.delete(source)
        return moved

    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is no such object."""
        await self._deleter.delete(checked_key(key))

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects, as `ObjectStore.delete_many` says."""
        for key in keys:
            checked_key(key)
        return await self._deleter.delete_many(keys)

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, as `ObjectStore.list` says."""
        if not may_begin_keys(prefix):
            return
        found = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        async for page in pages(found):
            for entry in page.get("Contents", ()):
                if is_key(entry["Key"]):
                    yield StoredObject(entry["Key"], entry["Size"], entry["LastModified"])

    async def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:
        """Yield the multipart uploads below `prefix`; MinIO knows them only by the whole key as `prefix`."""
        async for write in list_uploads(self._client, self.bucket, prefix):
            yield write

    async def abort_unfinished(self, write: UnfinishedWrite) -> None:
        """Remove what a writer has left behind; nothing happens when it is not there any more."""
        await abort_upload(self._client, self.bucket, checked_key(write.key), write.token)

    async def presign_put(
        self, key: str, *, size_bytes: int, content_type: str, expires_in: timedelta
    ) -> PresignedRequest:
        """Return a request that stores an object of exactly this length and media type. At most seven days."""
        with s3_errors():
            url = await self._public_client.generate_presigned_url(
                "put_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": checked_key(key),
                    "ContentLength": size_bytes,
                    "ContentType": content_type,
                },
                ExpiresIn=_seconds(expires_in),
            )
        return PresignedRequest("PUT", url, {"Content-Length": str(size_bytes), "Content-Type": content_type})

    async def presign_get(
        self,
        key: str,
        *,
        file_name: str,
        content_type: str,
        expires_in: timedelta,
        size_bytes: int | None = None,  # noqa: ARG002 - an object is whole here or not there
    ) -> PresignedRequest:
        """Return a request that downloads an object with this name and media type. At most seven days."""
        with s3_errors():
            url = await self._public_client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": checked_key(key),
                    "ResponseContentDisposition": attachment(file_name),
                    "ResponseContentType": content_type,
                },
                ExpiresIn=_seconds(expires_in),
            )
        return PresignedRequest("GET", url)


def _seconds(time: timedelta) -> int:
    return max(1, int(time.total_seconds()))


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk

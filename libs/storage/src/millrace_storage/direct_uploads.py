"""Uploads that go straight to the object store, by a presigned request, and are made files afterwards."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from millrace_database import (
    Database,
    file_uploads_repository,
    file_usage_repository,
    open_uploads_repository,
)
from millrace_database.file_uploads_repository import NewUpload
from millrace_database.files_repository import ObjectPlace
from millrace_database.ids import new_id
from millrace_database.open_uploads_repository import OpenUpload
from millrace_storage.content_types import is_allowed
from millrace_storage.current_usage import CurrentUsage
from millrace_storage.file_errors import LimitExceeded, TypeNotAllowed, UploadConfirmed
from millrace_storage.file_keys import staging_key
from millrace_storage.file_limits import check_length, check_usage
from millrace_storage.file_policy import FilePolicy
from millrace_storage.object_store import PresignedRequest
from millrace_storage.object_stores import ObjectStores
from millrace_storage.object_writing import ObjectWriting

_MAX_OPEN_UPLOADS = 1_000


@dataclass(frozen=True, slots=True)
class Upload(OpenUpload):
    """An upload that has begun: also the request to send, which is taken until `expires_at`."""

    request: PresignedRequest


@dataclass(frozen=True, slots=True)
class NewDirectUpload:
    """An upload that is to be; the attributes are the arguments of `FileStore.initiate_upload`."""

    org_id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str | None
    created_by: str
    temporary: bool
    expires_in: timedelta


class DirectUploads:
    """Begins such uploads, lists and cancels them."""

    def __init__(
        self,
        database: Database,
        stores: ObjectStores,
        policy: FilePolicy,
        writing: ObjectWriting,
        usage: CurrentUsage,
    ) -> None:
        self._database = database
        self._stores = stores
        self._policy = policy
        self._writing = writing
        self._usage = usage

    async def initiate(self, wanted: NewDirectUpload) -> Upload:
        """Do as `FileStore.initiate_upload` says."""
        if not is_allowed(wanted.content_type, self._policy.allowed_types):
            raise TypeNotAllowed(wanted.content_type, self._policy.allowed_types)
        store = self._stores.default
        if wanted.size_bytes > store.max_presigned_bytes:
            raise LimitExceeded("file_bytes", store.max_presigned_bytes)
        upload = self._new_upload(wanted)
        # Nobody knows the request before the row is there.
        request = await store.presign_put(
            upload.place.object_key,
            size_bytes=wanted.size_bytes,
            content_type=wanted.content_type,
            expires_in=wanted.expires_in,
        )
        expires_at = await self._usage.with_room(wanted.org_id, lambda: self._add(upload, wanted))
        return Upload(
            upload_id=upload.upload_id,
            org_id=wanted.org_id,
            name=wanted.name,
            content_type=wanted.content_type,
            size_bytes=wanted.size_bytes,
            sha256=wanted.sha256,
            created_by=wanted.created_by,
            temporary=wanted.temporary,
            # Both times are of one moment of the database's.
            created_at=expires_at - wanted.expires_in,
            expires_at=expires_at,
            request=request,
        )

    async def list(
        self, org_id: str, created_by: str | None, after: UUID | None, limit: int
    ) -> list[OpenUpload]:
        """Do as `FileStore.list_uploads` says."""
        async with self._database.connection() as connection:
            return await open_uploads_repository.list_open(connection, org_id, created_by, after, limit)

    async def cancel(self, org_id: str, upload_id: UUID) -> None:
        """Do as `FileStore.cancel_upload` says."""
        async with self._database.connection() as connection:
            place = await file_uploads_repository.cancel_presigned(connection, org_id, upload_id)
            left = await file_uploads_repository.get_presigned(connection, org_id, upload_id)
        if place is not None:
            # It stays listed for removal until nothing can be sent any more.
            await self._writing.delete_soon(place)
        elif left is not None and left.file_id is not None:
            raise UploadConfirmed(left.file_id)

    def _new_upload(self, wanted: NewDirectUpload) -> NewUpload:
        upload_id = new_id()
        store = self._stores.default
        key = staging_key(self._stores.prefix, upload_id)
        return NewUpload(
            upload_id=upload_id,
            org_id=wanted.org_id,
            kind="presigned",
            name=wanted.name,
            content_type=wanted.content_type,
            place=ObjectPlace(store.provider, store.bucket, key),
            created_by=wanted.created_by,
            size_bytes=wanted.size_bytes,
            sha256=wanted.sha256,
            temporary=wanted.temporary,
        )

    async def _add(self, upload: NewUpload, wanted: NewDirectUpload) -> datetime:
        size = wanted.size_bytes
        async with self._database.transaction() as connection:
            # Of two at once one waits here, and counts the other.
            usage = await file_usage_repository.count_in(connection, wanted.org_id, self._policy.limits)
            others = await file_uploads_repository.open_uploads(connection, wanted.org_id)
            check_length(usage, size)
            check_usage(usage, more_bytes=others.total_bytes + size, more_files=1)
            if others.uploads >= _MAX_OPEN_UPLOADS:
                raise LimitExceeded("uploads", _MAX_OPEN_UPLOADS)
            expires_at = await file_uploads_repository.add_upload(connection, upload, wanted.expires_in)
        assert expires_at is not None  # noqa: S101 - its id is new
        return expires_at

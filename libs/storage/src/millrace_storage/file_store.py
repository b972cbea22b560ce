"""Files: an object in a store, and a row that describes it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from millrace_database import Database, file_usage_repository, files_repository
from millrace_database.file_list_statement import FileFilters
from millrace_database.file_usage_repository import FileUsage, LimitName
from millrace_database.files_repository import FileRecord, FileState
from millrace_database.open_uploads_repository import OpenUpload
from millrace_queue import Lease
from millrace_storage.content_types import normalised_type
from millrace_storage.current_usage import CurrentUsage
from millrace_storage.direct_uploads import DirectUploads, NewDirectUpload, Upload
from millrace_storage.file_errors import ContentMissing, FileDeleted, FileMissing, RangeBeyondEnd
from millrace_storage.file_limits import check_usage
from millrace_storage.file_policy import FileOptions, FilePolicy
from millrace_storage.file_saving import FileSaving, NewFile
from millrace_storage.object_store import ObjectMissingError, PresignedRequest, StoredObject
from millrace_storage.object_stores import ObjectStores, open_object_stores
from millrace_storage.object_writing import ObjectWriting
from millrace_storage.storage_options import StorageOptions
from millrace_storage.store_check import check_store
from millrace_storage.upload_confirmation import UploadConfirmation

_SHORTEST_URL_TIME = timedelta(seconds=1)


class FileStoreOptions(StorageOptions, FileOptions, Protocol):
    """What is to be known to keep files in object stores; the settings of a service are such."""


@asynccontextmanager
async def open_file_store(database: Database, options: FileStoreOptions) -> AsyncIterator["FileStore"]:
    """Give the files in the object stores that the settings name, which are closed at the end."""
    async with open_object_stores(options) as stores:
        yield FileStore(database, stores, FilePolicy.of(options))


@asynccontextmanager
async def open_usable_file_store(database: Database, options: FileStoreOptions) -> AsyncIterator["FileStore"]:
    """Do the same, and ask the store of new files before whether it can be used; one that does not say is logged.

    Raises StoreUnusableError when it certainly cannot.
    """
    async with open_file_store(database, options) as files:
        await check_store(files.stores.default)
        yield files


class FileStore:
    """The files of organisations.

    A row in `files` always has its object, and each object is told of by a row: of a file, of an upload that goes on, or of
    an object that is to be removed. Every method may raise StoreUnavailableError and StoreRefusedError; those that
    read a file, StoreNotConfigured.
    """

    stores: ObjectStores
    """Where the objects are."""

    def __init__(self, database: Database, stores: ObjectStores, policy: FilePolicy | None = None) -> None:
        self.stores = stores
        self._database = database
        self._policy = policy or FilePolicy()
        self._writing = ObjectWriting(database, stores)
        self._usage = CurrentUsage(database, self._policy)
        parts = (database, stores, self._policy, self._writing, self._usage)
        self._saving = FileSaving(*parts)
        self._direct = DirectUploads(*parts)
        self._confirmation = UploadConfirmation(*parts)

    async def save(
        self,
        *,
        org_id: str,
        name: str,
        content_type: str,
        created_by: str,
        chunks: AsyncIterator[bytes],
        job_id: UUID | None = None,
        lease: Lease | None = None,
        state: FileState = "persistent",
        expected_size: int | None = None,
        expected_sha256: str | None = None,
        by_caller: bool = False,
    ) -> FileRecord:
        """Store a file. It exists once this returns; if it fails or is cancelled, nothing stays.

        Args:
            org_id: the organisation it belongs to.
            name: its name, for people; it plays no part in where the content is kept.
            content_type: its media type, which it has, in lower case, unless its content is plainly something else.
            created_by: who uploads it, or asked for the job that makes it.
            chunks: its content, in pieces of any size.
            job_id: the job that makes it.
            lease: that job's; the file exists only if the lease holds at its end.
            state: for how long it is kept; "with_job" needs the job.
            expected_size: its length in bytes, when it is known.
            expected_sha256: its SHA-256 in hexadecimal, when it is known.
            by_caller: whether it is uploaded: then the limit of the length of a file and the allowed types apply.

        Raises:
            ContentMismatch: what arrived is not of the expected size or hash.
            TypeNotAllowed: files of its type may not be uploaded.
            LimitExceeded: it, or the organisation's files with it, would exceed a limit.
            LeaseLost: the lease does not hold any more.
            UploadGivenUp: no chunk came for 15 minutes.

        """
        file = NewFile(
            org_id=org_id,
            name=name,
            content_type=normalised_type(content_type),
            created_by=created_by,
            job_id=job_id,
            lease=lease,
            state=state,
            expected_size=expected_size,
            expected_sha256=expected_sha256,
            by_caller=by_caller,
        )
        return await self._saving.save(file, chunks)

    async def open(
        self, org_id: str, file_id: UUID, *, start: int = 0, end: int | None = None
    ) -> tuple[FileRecord, AsyncIterator[bytes]]:
        """Return a file and its bytes from `start` up to, not including, `end`, in chunks of 1 MiB or less.

        `end` None or behind the last byte means the end of the file; there are no bytes from there on.

        Raises:
            FileMissing: there is no such file in the organisation.
            FileDeleted: it is deleted.
            RangeBeyondEnd: `start` lies behind the end of the file.
            ContentMissing: its content is gone or damaged; also raised by the chunks when that happens meanwhile.

        """
        file = await self._readable(org_id, file_id)
        if start > file.size_bytes:
            raise RangeBeyondEnd(file.size_bytes)
        stored = await self.stores.of(file.provider, file.bucket).head(file.object_key)
        if stored is None or stored.size_bytes != file.size_bytes:
            raise await self._without_content(file, stored)
        stop = file.size_bytes if end is None else min(end, file.size_bytes)
        return file, self._content(file, start, stop)

    async def get(self, org_id: str, file_id: UUID) -> FileRecord | None:
        """Return the description of a file, also of a deleted one that has not expired, or None when there is none."""
        async with self._database.connection() as connection:
            return await files_repository.get_file(connection, org_id, file_id)

    async def list(
        self, org_id: str, filters: FileFilters, after: UUID | None, limit: int
    ) -> list[FileRecord]:
        """Return files of an organisation, newest first; `after` is the last id of the page before."""
        async with self._database.session() as session:
            return await files_repository.list_files(session, org_id, filters, after, limit)

    async def persist(self, org_id: str, file_id: UUID) -> FileRecord:
        """Keep a file until somebody deletes it. Raises FileMissing and FileDeleted."""
        async with self._database.connection() as connection:
            file = await files_repository.persist_file(connection, org_id, file_id)
        if file is None:
            await self._readable(org_id, file_id)
            raise FileMissing(file_id)
        return file

    async def delete(self, org_id: str, file_id: UUID, *, permanently: bool = False) -> FileRecord | None:
        """Delete a file: for some time, in which it can be undeleted, or `permanently`, also one that is deleted.

        Its content goes with it, or, when the store takes more than 2 seconds for that, with the next clean-up. Returns
        what it is then, None when it is gone for good. Raises FileMissing.
        """
        if permanently:
            await self._remove(org_id, file_id)
            return None
        async with self._database.connection() as connection:
            file = await files_repository.delete_file(connection, org_id, file_id, self._policy.deleted)
            file = file or await files_repository.get_file(connection, org_id, file_id)
        if file is None:
            raise FileMissing(file_id)
        return file

    async def undelete(self, org_id: str, file_id: UUID) -> FileRecord:
        """Make a deleted file what it was before; a temporary one has its whole time again.

        Raises:
            FileMissing: there is no such file in the organisation, or not any more.
            LimitExceeded: a limit leaves no room for it.

        """
        return await self._usage.with_room(org_id, lambda: self._undelete(org_id, file_id))

    async def download_url(
        self, org_id: str, file_id: UUID, expires_in: timedelta
    ) -> tuple[PresignedRequest, datetime]:
        """Return a request by which anyone who knows it reads a file, and until when it is taken, by this machine's clock.

        Whoever has it can read the file until then even when it is deleted, but not when its time is over. Raises
        FileMissing and FileDeleted.
        """
        file = await self._readable(org_id, file_id)
        now = datetime.now(UTC)
        expires_at = now + expires_in
        if file.expires_at is not None:
            # It is there by the clock of the database, which may be behind.
            expires_at = min(expires_at, max(file.expires_at, now + _SHORTEST_URL_TIME))
        request = await self.stores.of(file.provider, file.bucket).presign_get(
            file.object_key,
            file_name=file.name,
            content_type=file.content_type,
            expires_in=expires_at - now,
            size_bytes=file.size_bytes,
        )
        return request, expires_at

    async def initiate_upload(
        self,
        *,
        org_id: str,
        name: str,
        content_type: str,
        size_bytes: int,
        sha256: str | None,
        created_by: str,
        temporary: bool,
        expires_in: timedelta,
    ) -> Upload:
        """Begin an upload that goes straight to the object store: exactly `size_bytes`, sent within `expires_in`.

        Nothing of it is a file before it is confirmed.

        Raises:
            TypeNotAllowed: files of this type may not be uploaded.
            LimitExceeded: the file, or the organisation's files and open uploads with it, would exceed a limit.

        """
        wanted = NewDirectUpload(
            org_id=org_id,
            name=name,
            content_type=normalised_type(content_type),
            size_bytes=size_bytes,
            sha256=sha256,
            created_by=created_by,
            temporary=temporary,
            expires_in=expires_in,
        )
        return await self._direct.initiate(wanted)

    async def list_uploads(
        self, org_id: str, created_by: str | None, after: UUID | None, limit: int
    ) -> Sequence[OpenUpload]:
        """Return uploads of an organisation that can still be confirmed, newest first: all, or those of one creator.

        `after` is the last id of the page before.
        """
        return await self._direct.list(org_id, created_by, after, limit)

    async def confirm_upload(self, org_id: str, upload_id: UUID) -> FileRecord:
        """Make a file of what was uploaded; its id is that of the upload. One that is confirmed returns its file.

        Raises:
            UploadMissing: there is no such upload, or it has expired, or its file is gone.
            NothingUploaded: nothing was uploaded.
            ContentMismatch, TypeNotAllowed: what was uploaded is wrong, and is gone: it can be uploaded again.
            LimitExceeded: the organisation's files would exceed a limit with it.
            UploadGivenUp: another call has been at it for long.

        """
        return await self._confirmation.confirm(org_id, upload_id)

    async def cancel_upload(self, org_id: str, upload_id: UUID) -> None:
        """Give an upload up and remove what was uploaded, which the store has 2 seconds for, before it is left to the clean-up.

        Nothing happens when there is none.

        Raises:
            UploadConfirmed: it has become a file.

        """
        await self._direct.cancel(org_id, upload_id)

    async def usage(self, org_id: str) -> FileUsage:
        """Return what the files of an organisation take up, and what they may. Expired ones are removed first."""
        return await self._usage.shown(org_id)

    async def set_limits(self, org_id: str, changes: Mapping[LimitName, int | None]) -> FileUsage:
        """Set limits of an organisation; None: as the server says, 0: none. The others stay, and so do files that exceed them."""
        async with self._database.connection() as connection:
            return await file_usage_repository.set_limits(connection, org_id, self._policy.limits, changes)

    async def _undelete(self, org_id: str, file_id: UUID) -> FileRecord:
        async with self._database.transaction() as connection:
            file = await files_repository.undelete_file(connection, org_id, file_id, self._policy.temporary)
            if file is not None:
                usage = await file_usage_repository.count_in(
                    connection, org_id, self._policy.limits, total_bytes=file.size_bytes, files=1
                )
                check_usage(usage)
                return file
            file = await files_repository.get_file(connection, org_id, file_id)
        if file is None:
            raise FileMissing(file_id)
        return file

    async def _readable(self, org_id: str, file_id: UUID) -> FileRecord:
        file = await self.get(org_id, file_id)
        if file is None:
            raise FileMissing(file_id)
        if file.deleted_at is not None:
            raise FileDeleted(file_id)
        return file

    async def _content(self, file: FileRecord, start: int, stop: int) -> AsyncIterator[bytes]:
        if start >= stop:
            return
        store = self.stores.of(file.provider, file.bucket)
        try:
            async for chunk in await store.get(file.object_key, start=start, end=stop):
                yield chunk
        except ObjectMissingError as error:
            raise await self._without_content(file, await store.head(file.object_key)) from error

    async def _without_content(self, file: FileRecord, found: StoredObject | None) -> ContentMissing:
        # It may have expired, or been deleted, since it was looked up.
        is_removed = await self.get(file.org_id, file.file_id) is None
        return ContentMissing(file, None if found is None else found.size_bytes, is_removed=is_removed)

    async def _remove(self, org_id: str, file_id: UUID) -> None:
        async with self._database.connection() as connection:
            place = await files_repository.remove_file(connection, org_id, file_id)
        if place is None:
            raise FileMissing(file_id)
        await self._writing.remove_soon(place)

"""How what was uploaded straight to the object store becomes a file."""

import asyncio
from dataclasses import replace
from uuid import UUID, uuid5

from millrace_database import Database, file_uploads_repository, file_usage_repository, files_repository
from millrace_database.file_uploads_repository import Finished, NewUpload, PresignedUpload
from millrace_database.files_repository import FileRecord, ObjectPlace
from millrace_database.ids import new_id
from millrace_storage.current_usage import CurrentUsage
from millrace_storage.file_content import ContentRules, FileContent
from millrace_storage.file_errors import (
    ContentMismatch,
    NothingUploaded,
    TypeNotAllowed,
    UploadConfirmed,
    UploadGivenUp,
    UploadMissing,
)
from millrace_storage.file_keys import file_key, prefix_of
from millrace_storage.file_limits import check_usage
from millrace_storage.file_policy import FilePolicy
from millrace_storage.object_store import ObjectMissingError, Remains
from millrace_storage.object_stores import ObjectStores
from millrace_storage.object_writing import ObjectWriting
from millrace_storage.uninterrupted import to_the_end

_WAITED_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.1

# With these nothing could come of what was uploaded.
_OF_NO_USE = (ContentMismatch, TypeNotAllowed, UploadConfirmed, UploadMissing)


class UploadConfirmation:
    """Makes files of uploads: what lies under the key that the request names is moved to one of which nobody knows.

    Only one is at an upload at a time: its row, whose id comes of the upload's, says so. Others wait for what comes of it.
    """

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

    async def confirm(self, org_id: str, upload_id: UUID) -> FileRecord:
        """Do as `FileStore.confirm_upload` says."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _WAITED_SECONDS
        while True:
            presigned = await self._get(org_id, upload_id)
            if presigned.file_id is not None:
                return await self._file_of(presigned)
            try:
                file = await self._try(presigned)
            except (NothingUploaded, UploadConfirmed):
                # Somebody else may have been faster.
                presigned = await self._get(org_id, upload_id)
                if presigned.file_id is None:
                    raise
                return await self._file_of(presigned)
            if file is not None:
                return file
            if loop.time() > ends_at:
                raise UploadGivenUp("another call has been confirming the upload for long")
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _get(self, org_id: str, upload_id: UUID) -> PresignedUpload:
        async with self._database.connection() as connection:
            presigned = await file_uploads_repository.get_presigned(connection, org_id, upload_id)
        if presigned is None or (presigned.file_id is None and not presigned.is_open):
            raise UploadMissing(upload_id)
        return presigned

    async def _file_of(self, presigned: PresignedUpload) -> FileRecord:
        async with self._database.connection() as connection:
            file = await files_repository.get_file(connection, presigned.org_id, presigned.upload_id)
        if file is None:
            raise UploadMissing(presigned.upload_id)
        return file

    async def _try(self, presigned: PresignedUpload) -> FileRecord | None:
        """Make a file of the upload. Returns None when somebody else is at it."""
        attempt = _attempt(presigned)
        await self._end_abandoned(presigned, attempt)
        try:
            if not await self._writing.announce(attempt):
                return None
            content = await self._taken(presigned, attempt)
            return await self._finish(presigned, attempt, content)
        except _OF_NO_USE:
            await self._writing.take_back(attempt, Remains.OBJECT)
            raise
        except BaseException:
            # So that it can be confirmed again.
            await self._writing.give_back(attempt, lambda: self._put_back(presigned, attempt.place))
            raise

    async def _end_abandoned(self, presigned: PresignedUpload, attempt: NewUpload) -> None:
        """Go on where somebody was who was killed, or whose store was away."""
        async with self._database.connection() as connection:
            place = await file_uploads_repository.set_expired_aside(connection, attempt.upload_id)
        if place is not None:
            await self._put_back(presigned, place)
            await self._writing.let_go(replace(attempt, place=place))

    async def _taken(self, presigned: PresignedUpload, attempt: NewUpload) -> FileContent:
        """Move what was uploaded to where it stays, and read it there."""
        store = self._stores.of(presigned.place.provider, presigned.place.bucket)
        try:
            # What is half moved may be deleted where it was after it has been looked for there.
            await to_the_end(store.move(presigned.place.object_key, attempt.place.object_key))
        except ObjectMissingError:
            raise NothingUploaded(presigned.upload_id) from None
        rules = ContentRules(
            presigned.content_type, presigned.size_bytes, presigned.sha256, self._policy.allowed_types
        )
        try:
            chunks = await store.get(attempt.place.object_key)
            content = FileContent(chunks, rules, self._writing.keep_alive(attempt))
            async for _ in content.checked():
                pass
        except ObjectMissingError:
            raise UploadGivenUp("the upload was given up while it was confirmed") from None
        return content

    async def _finish(
        self, presigned: PresignedUpload, attempt: NewUpload, content: FileContent
    ) -> FileRecord:
        finished = Finished(
            file_id=presigned.upload_id,
            content_type=content.content_type or presigned.content_type,
            size_bytes=content.size,
            sha256=content.sha256,
            job_id=None,
            state="temporary" if presigned.temporary else "persistent",
            kept=self._policy.temporary,
        )
        return await self._usage.with_room(
            presigned.org_id, lambda: self._commit(presigned, attempt, finished)
        )

    async def _commit(self, presigned: PresignedUpload, attempt: NewUpload, finished: Finished) -> FileRecord:
        async with self._database.transaction() as connection:
            current = await file_uploads_repository.lock_presigned(
                connection, presigned.org_id, presigned.upload_id
            )
            if current is None:
                raise UploadMissing(presigned.upload_id)
            if current.file_id is not None:
                raise UploadConfirmed(current.file_id)
            record = await file_uploads_repository.finish_upload(connection, attempt, finished)
            if record is None:
                raise UploadGivenUp("the upload was given up while it was confirmed")
            await file_uploads_repository.confirm_presigned(connection, presigned.upload_id, record.file_id)
            usage = await file_usage_repository.count_in(
                connection, presigned.org_id, self._policy.limits, total_bytes=finished.size_bytes, files=1
            )
            check_usage(usage)
        return record

    async def _put_back(self, presigned: PresignedUpload, source: ObjectPlace) -> None:
        """Move what was uploaded from `source` back to where the request puts it, if nothing newer is there."""
        place = presigned.place
        try:
            store = self._stores.of(place.provider, place.bucket)
            if await store.head(place.object_key) is None:
                await store.move(source.object_key, place.object_key)
        except ObjectMissingError:
            return
        async with self._database.connection() as connection:
            left = await file_uploads_repository.get_presigned(
                connection, presigned.org_id, presigned.upload_id
            )
        if left is None:
            # Whoever removed the upload may have removed what was there before.
            await self._writing.delete_object(place)


def _attempt(presigned: PresignedUpload) -> NewUpload:
    place = presigned.place
    prefix = prefix_of(place.object_key) or ""
    return NewUpload(
        upload_id=uuid5(presigned.upload_id, "confirmation"),
        org_id=presigned.org_id,
        kind="stream",
        name=presigned.name,
        content_type=presigned.content_type,
        place=ObjectPlace(place.provider, place.bucket, file_key(prefix, presigned.org_id, new_id())),
        created_by=presigned.created_by,
        size_bytes=presigned.size_bytes,
        sha256=presigned.sha256,
        temporary=presigned.temporary,
        confirms=presigned.upload_id,
    )

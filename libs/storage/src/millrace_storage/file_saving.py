"""How content that arrives here becomes a file."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from millrace_database import Database, file_uploads_repository, file_usage_repository
from millrace_database.file_uploads_repository import Finished, NewUpload
from millrace_database.file_usage_repository import FileUsage
from millrace_database.files_repository import FileRecord, FileState, ObjectPlace
from millrace_database.ids import new_id
from millrace_queue import Lease, confirm
from millrace_storage.current_usage import CurrentUsage
from millrace_storage.file_content import ContentRules, FileContent
from millrace_storage.file_errors import LeaseLost, UploadGivenUp
from millrace_storage.file_keys import file_key
from millrace_storage.file_limits import caps_of, check_length, check_usage
from millrace_storage.file_policy import FilePolicy
from millrace_storage.object_store import WriteRemovedError, WriteState
from millrace_storage.object_stores import ObjectStores
from millrace_storage.object_writing import ObjectWriting

_NO_PROGRESS = "the upload made no progress for too long"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be; the attributes are the arguments of `FileStore.save`."""

    org_id: str
    name: str
    content_type: str
    created_by: str
    job_id: UUID | None
    lease: Lease | None
    state: FileState
    expected_size: int | None
    expected_sha256: str | None
    by_caller: bool


class FileSaving:
    """Saves files: what is written is an upload first, and a file once it is complete."""

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

    async def save(self, file: NewFile, chunks: AsyncIterator[bytes]) -> FileRecord:
        """Do as `FileStore.save` says."""
        usage = await self._checked_usage(file)
        upload = self._new_upload(file)
        rules = ContentRules(
            file.content_type,
            file.expected_size,
            file.expected_sha256,
            self._policy.allowed_types if file.by_caller else (),
            caps_of(usage, by_caller=file.by_caller),
        )
        content = FileContent(chunks, rules, self._writing.keep_alive(upload))
        state = WriteState()
        try:
            await self._writing.announce(upload)
            await self._stores.default.put(
                upload.place.object_key, content.checked(), expected_bytes=file.expected_size, state=state
            )
            return await self._finish(file, upload, content)
        except BaseException as error:
            await self._writing.take_back(upload, state.remains, with_file=True)
            if isinstance(error, WriteRemovedError):
                raise UploadGivenUp(_NO_PROGRESS) from error
            raise

    async def _checked_usage(self, file: NewFile) -> FileUsage:
        usage = await self._usage.before(file.org_id)
        check_usage(usage, more_files=1, more_bytes=file.expected_size or 0)
        if file.by_caller:
            check_length(usage, file.expected_size or 0)
        return usage

    def _new_upload(self, file: NewFile) -> NewUpload:
        upload_id = new_id()
        store = self._stores.default
        return NewUpload(
            upload_id=upload_id,
            org_id=file.org_id,
            kind="stream",
            name=file.name,
            content_type=file.content_type,
            place=ObjectPlace(
                store.provider, store.bucket, file_key(self._stores.prefix, file.org_id, upload_id)
            ),
            created_by=file.created_by,
            size_bytes=file.expected_size,
            sha256=file.expected_sha256,
            temporary=file.state == "temporary",
        )

    async def _finish(self, file: NewFile, upload: NewUpload, content: FileContent) -> FileRecord:
        finished = Finished(
            file_id=upload.upload_id,
            content_type=content.content_type or file.content_type,
            size_bytes=content.size,
            sha256=content.sha256,
            job_id=file.job_id,
            state=file.state,
            kept=self._policy.temporary,
        )
        return await self._usage.with_room(file.org_id, lambda: self._commit(file, upload, finished))

    async def _commit(self, file: NewFile, upload: NewUpload, finished: Finished) -> FileRecord:
        async with self._database.transaction() as connection:
            if file.lease is not None and not await confirm(connection, [file.lease]):
                raise LeaseLost(f"job {file.lease.id} is no longer held by this worker")
            record = await file_uploads_repository.finish_upload(connection, upload, finished)
            if record is None:
                raise UploadGivenUp(_NO_PROGRESS)
            usage = await file_usage_repository.count_in(
                connection, file.org_id, self._policy.limits, total_bytes=finished.size_bytes, files=1
            )
            check_usage(usage)
        return record

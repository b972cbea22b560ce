"""Files: an object in a store, and a row that describes it."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg

from millrace_database import Database, DatabaseUnavailableError, files_repository, is_unavailable
from millrace_database.files_repository import FileRecord, NewFile
from millrace_database.ids import new_id
from millrace_storage.object_store import ObjectMissingError, ObjectStore

# Hashing less than this takes less time than going to a thread for it.
_HASHED_HERE_BYTES = 32 * 1024

_logger = logging.getLogger(__name__)


class ContentMismatch(Exception):  # noqa: N818 - says what is the matter, not that something is
    """What arrived is not of the announced size or hash; the text says which. Nothing was stored."""


class FileMissing(Exception):  # noqa: N818
    """There is no such file in the organisation."""


class ContentMissing(Exception):  # noqa: N818
    """The file is described, but its content is no longer in the store."""


class FileStore:
    """The files of organisations.

    The object is written first and the row after it, so that a file that can be found has its content; what can be
    left behind by a crash in between is an object that nobody knows.
    """

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects

    async def save(
        self,
        *,
        org_id: str,
        name: str,
        content_type: str,
        created_by: str,
        chunks: AsyncIterator[bytes],
        job_id: UUID | None = None,
        expected_size: int | None = None,
        expected_sha256: str | None = None,
    ) -> FileRecord:
        """Store a file. It exists once this returns; if it fails or is cancelled, nothing stays.

        Args:
            org_id: the organisation it belongs to.
            name: its name, for people; it plays no part in where the content is kept.
            content_type: its media type.
            created_by: who uploads it, or asked for the job that makes it.
            chunks: its content, in pieces of any size.
            job_id: the job that makes it.
            expected_size: its length in bytes, when it is known.
            expected_sha256: its SHA-256 in hexadecimal, when it is known.

        Raises:
            ContentMismatch: what arrived is not of the expected size or hash.

        """
        file_id = new_id()
        # The last digits of the id are random: they spread an organisation's objects over 256 folders.
        key = f"org-{org_id}/{file_id.hex[-2:]}/{file_id.hex}"
        content = _Content(chunks, expected_size, expected_sha256)
        await self._objects.put(key, content.checked())
        file = NewFile(
            file_id=file_id,
            org_id=org_id,
            name=name,
            content_type=content_type,
            size_bytes=content.size,
            sha256=content.sha256,
            provider=self._objects.provider,
            object_key=key,
            created_by=created_by,
            job_id=job_id,
        )
        try:
            async with self._database.connection() as connection:
                return await files_repository.insert_file(connection, file)
        except BaseException:
            await self._take_back(file)
            raise

    async def open(self, org_id: str, file_id: UUID) -> tuple[FileRecord, AsyncIterator[bytes]]:
        """Return a file and its content, in chunks of 1 MiB or less.

        Raises:
            FileMissing: there is no such file in the organisation.
            ContentMissing: its content is gone; also raised by the chunks when it goes meanwhile.

        """
        file = await self.get(org_id, file_id)
        if file is None:
            raise FileMissing(f"no file {file_id} in this organisation")
        stored = await self._objects.head(file.object_key)
        if stored is None or stored.size_bytes != file.size_bytes:
            raise ContentMissing(f"the content of file {file_id} is gone")
        return file, self._content(file)

    async def get(self, org_id: str, file_id: UUID) -> FileRecord | None:
        """Return the description of a file, or None when there is no such file in the organisation."""
        async with self._database.connection() as connection:
            return await files_repository.get_file(connection, org_id, file_id)

    async def list(self, org_id: str, after: UUID | None, limit: int) -> list[FileRecord]:
        """Return an organisation's files, newest first; `after` is the last id of the page before."""
        async with self._database.connection() as connection:
            return await files_repository.list_files(connection, org_id, after, limit)

    async def _content(self, file: FileRecord) -> AsyncIterator[bytes]:
        try:
            async for chunk in await self._objects.get(file.object_key):
                yield chunk
        except ObjectMissingError as error:
            raise ContentMissing(f"the content of file {file.file_id} is gone") from error

    async def _take_back(self, file: NewFile) -> None:
        """Remove an object whose row could not be written, unless the row may exist after all."""
        try:
            async with self._database.connection() as connection:
                await files_repository.delete_file(connection, file.org_id, file.file_id)
        except (OSError, DatabaseUnavailableError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _logger.warning("an object may be without a file", extra={"object_key": file.object_key})
            if not is_unavailable(error):
                raise
            return
        await self._objects.delete(file.object_key)


class _Content:
    """Content on its way into the store: measured, hashed, and compared with what was announced."""

    def __init__(
        self, chunks: AsyncIterator[bytes], expected_size: int | None, expected_sha256: str | None
    ) -> None:
        self._chunks = chunks
        self._expected_size = expected_size
        self._expected_sha256 = None if expected_sha256 is None else expected_sha256.lower()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def checked(self) -> AsyncIterator[bytes]:
        """Yield the chunks. Raises ContentMismatch before the store can take them for complete."""
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self._expected_size is not None and self.size > self._expected_size:
                raise ContentMismatch(f"more than the announced {self._expected_size} bytes arrived")
            if len(chunk) > _HASHED_HERE_BYTES:
                await asyncio.to_thread(self._hash.update, chunk)
            else:
                self._hash.update(chunk)
            yield chunk
        if self._expected_size is not None and self.size != self._expected_size:
            raise ContentMismatch(f"{self.size} bytes arrived, {self._expected_size} were announced")
        if self._expected_sha256 is not None and self.sha256 != self._expected_sha256:
            raise ContentMismatch(f"the SHA-256 of what arrived is {self.sha256}")

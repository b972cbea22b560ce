"""The files of an organisation: up, down, and what there is."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import contextlib
import io
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from typing import BinaryIO, Unpack

from millrace.files.v1 import files_service_pb2 as messages
from millrace_client.connection import read_pages
from millrace_client.direct_upload import STALL_SECONDS, put_directly
from millrace_client.download import DownloadCall, OnResume, receive
from millrace_client.errors import CallError
from millrace_client.file import (
    DownloadUrl,
    File,
    FileLimitChanges,
    FileLimits,
    FileState,
    FileUsage,
    read_file,
    read_usage,
    state_value,
    to_limits,
    to_limits_update,
)
from millrace_client.file_room import check_room, large_size
from millrace_client.file_uploads_client import FileUploadsClient
from millrace_client.upload import Progress, Source, read_source, send
from millrace_client.values import from_timestamp, is_utf8, to_duration, to_timestamp

_GIVING_UP_SECONDS = 5.0


class FilesClient(FileUploadsClient):
    """Calls to the Files service for one organisation.

    Every method raises a CallError of the status that the server answered with. `timeout` is the
    seconds that one call may take; None: the client's own, and without limit for a transfer.
    """

    async def upload(
        self,
        source: Source,
        name: str | None = None,
        *,
        content_type: str = "",
        temporary: bool = False,
        created_by: str = "",
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> File:
        """Store a file: the path of one, its content as bytes, or an asynchronous stream of its content.

        `name` is needed unless a path is given (ValueError). `content_type` is guessed from the name
        when empty. A `temporary` file goes after some time, 24 hours unless the server says otherwise, unless it is
        persisted. Size and hash are checked on the way; a failed upload leaves nothing behind, and is
        never repeated by itself. `on_progress` is called with the bytes sent and the bytes there are.
        OSError when a path cannot be read; ResourceExhaustedError when a limit leaves no room for it: that of a large file is
        asked for before it is read.
        """
        await self._check_room(source, timeout)
        content = await read_source(source)
        header = messages.UploadFileHeader(
            org_id=self._org_id,
            name=_given_name(name, content.name),
            content_type=content_type,
            size_bytes=content.size_bytes,
            sha256=content.sha256,
            created_by=created_by,
            temporary=temporary,
        )
        return await send(self._connection.files.UploadFile, header, content, on_progress, timeout)

    async def upload_directly(
        self,
        source: str | os.PathLike[str] | bytes,
        name: str | None = None,
        *,
        content_type: str = "",
        temporary: bool = False,
        created_by: str = "",
        on_progress: Progress | None = None,
        stall_timeout: float = STALL_SECONDS,
        timeout: float | None = None,
    ) -> File:
        """Store a file as `upload` does, but send its content straight to the object store, up to 5 GiB.

        `timeout` is that of each of the two calls; confirming takes as long as the service needs to read the file once. A
        store that cannot be reached is given three tries (TransferError in the end), and so is one that takes nothing more and
        does not answer for `stall_timeout` seconds. An upload that fails is cancelled. TypeError for a stream, whose length is
        not known.
        """
        if isinstance(source, AsyncIterable):
            raise TypeError("upload_directly takes a path or bytes; a stream goes with upload")
        await self._check_room(source, timeout)
        content = await read_source(source)
        upload = await self.initiate_upload(
            _given_name(name, content.name),
            content.size_bytes or 0,
            content_type=content_type,
            sha256=content.sha256,
            temporary=temporary,
            created_by=created_by,
            timeout=timeout,
        )
        try:
            await put_directly(upload, source, content.size_bytes or 0, on_progress, stall_timeout)
            return await self.confirm_upload(upload.upload_id, timeout=timeout)
        except BaseException:
            await self._give_up(upload.upload_id)
            raise

    async def _check_room(self, source: Source, timeout: float | None) -> None:
        if (size_bytes := await large_size(source)) is not None:
            check_room(await self.usage(timeout=timeout), size_bytes)

    async def _give_up(self, upload_id: str) -> None:
        """Have nothing of a direct upload count any longer; without an answer, it ends by itself with its URL."""
        with contextlib.suppress(CallError):
            await self.cancel_upload(upload_id, timeout=_GIVING_UP_SECONDS)

    async def download(
        self,
        file_id: str,
        to: str | os.PathLike[str] | BinaryIO,
        *,
        resume: bool = False,
        replace: bool = True,
        on_progress: Progress | None = None,
        on_resume: OnResume | None = None,
        timeout: float | None = None,
    ) -> File:
        """Write a file to a path, into a folder under its own name, or to an open binary stream.

        A path is replaced only once everything has arrived and has the size and hash it should have
        (ContentMismatchError); a stream may have got some of it. A download that breaks off goes on where it was; `timeout`
        is then that of each part. With `resume` what has arrived at a path when it fails is kept, as a hidden file beside it,
        from 1 MiB on, and another download of the same content to the same path goes on with it; `on_resume` is called
        first, with the bytes that are there and the bytes there are to be. Without `replace` nothing that is at the path is
        replaced, also when it appears meanwhile (FileExistsError). In a folder its name is made safe: of a path the last
        part, without what some system takes for special. DataLossError when the content is gone or damaged; OSError when it
        cannot be written; FailedPreconditionError when it is deleted. `on_progress` is called with the bytes received and
        the bytes there are.
        """

        def open_download(offset: int) -> DownloadCall:
            request = messages.DownloadFileRequest(org_id=self._org_id, file_id=file_id, offset=offset)
            return self._connection.files.DownloadFile(request, timeout=timeout)

        return await receive(
            open_download, to, on_progress, resume=resume, replace=replace, on_resume=on_resume
        )

    async def read(self, file_id: str, *, timeout: float | None = None) -> bytes:
        """Return the content of a file that fits into memory, checked as in `download`."""
        content = io.BytesIO()
        await self.download(file_id, content, timeout=timeout)
        return content.getvalue()

    async def get(self, file_id: str, *, timeout: float | None = None) -> File:
        """Return the description of a file; NotFoundError when the organisation has no such file."""
        request = messages.GetFileRequest(org_id=self._org_id, file_id=file_id)
        response = await self._connection.call(self._connection.files.GetFile, request, timeout)
        return read_file(response.file)

    async def download_url(
        self, file_id: str, *, expires_in: timedelta | None = None, timeout: float | None = None
    ) -> DownloadUrl:
        """Return a URL from which anyone who knows it can download a file for `expires_in`.

        1 second to 7 days; None: one hour.
        """
        request = messages.GetDownloadUrlRequest(
            org_id=self._org_id,
            file_id=file_id,
            expires_in=None if expires_in is None else to_duration(expires_in),
        )
        response = await self._connection.call(self._connection.files.GetDownloadUrl, request, timeout)
        return DownloadUrl(response.url, from_timestamp(response.expires_at))

    async def persist(self, file_id: str, *, timeout: float | None = None) -> File:
        """Keep a file, a temporary one or one of a job, until somebody deletes it."""
        request = messages.PersistFileRequest(org_id=self._org_id, file_id=file_id)
        response = await self._connection.call(self._connection.files.PersistFile, request, timeout)
        return read_file(response.file)

    async def delete(
        self, file_id: str, *, permanently: bool = False, timeout: float | None = None
    ) -> File | None:
        """Delete a file; for some days `undelete` brings it back, unless it was deleted `permanently` (then None is returned)."""
        request = messages.DeleteFileRequest(org_id=self._org_id, file_id=file_id, permanently=permanently)
        response = await self._connection.call(self._connection.files.DeleteFile, request, timeout)
        return read_file(response.file) if response.HasField("file") else None

    async def undelete(self, file_id: str, *, timeout: float | None = None) -> File:
        """Bring a deleted file back as what it was before."""
        request = messages.UndeleteFileRequest(org_id=self._org_id, file_id=file_id)
        response = await self._connection.call(self._connection.files.UndeleteFile, request, timeout)
        return read_file(response.file)

    async def usage(self, *, timeout: float | None = None) -> FileUsage:
        """Return what the organisation's files take up, and what they may."""
        request = messages.GetFileUsageRequest(org_id=self._org_id)
        response = await self._connection.call(self._connection.files.GetFileUsage, request, timeout)
        return read_usage(response.usage)

    async def set_limits(self, limits: FileLimits, *, timeout: float | None = None) -> FileUsage:
        """Set all three limits of the organisation, as an operator. Files that exceed them already stay."""
        request = messages.UpdateFileLimitsRequest(org_id=self._org_id, limits=to_limits(limits))
        response = await self._connection.call(self._connection.files.UpdateFileLimits, request, timeout)
        return read_usage(response.usage)

    async def update_limits(
        self, *, timeout: float | None = None, **changes: Unpack[FileLimitChanges]
    ) -> FileUsage:
        """Set the limits that are given, as an operator, and leave the others: see FileLimitChanges.

        ValueError when none is given.
        """
        request = to_limits_update(self._org_id, changes)
        response = await self._connection.call(self._connection.files.UpdateFileLimits, request, timeout)
        return read_usage(response.usage)

    def list(
        self,
        *,
        states: Sequence[FileState | str] = (),
        name_prefix: str = "",
        created_by: str = "",
        job_id: str = "",
        content_types: Sequence[str] = (),
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[File]:
        """Yield the files that match all that is given, newest first, at most `limit`.

        `states` are any of these, none: all but deleted ones; `content_types` any of these, in any case, none: all; one
        without parameters is that of files with any. The name begins with
        `name_prefix`. `created_after` is included. Pages of `page_size` are fetched as needed.
        """
        wanted = [state_value(state) for state in states]

        async def fetch(page_token: str) -> tuple[Iterator[File], str]:
            request = messages.ListFilesRequest(
                org_id=self._org_id,
                page_size=page_size if limit is None else min(limit, page_size),
                page_token=page_token,
                states=wanted,
                name_prefix=name_prefix,
                created_by=created_by,
                job_id=job_id,
                content_types=content_types,
                created_after=None if created_after is None else to_timestamp(created_after),
                created_before=None if created_before is None else to_timestamp(created_before),
            )
            page = await self._connection.call(self._connection.files.ListFiles, request, timeout)
            return map(read_file, page.files), page.next_page_token

        return read_pages(fetch, limit)


def _given_name(name: str | None, own_name: str | None) -> str:
    if name is not None:
        return name
    if own_name is None:
        raise ValueError("content that does not come from a path needs a name")
    if not is_utf8(own_name):
        raise ValueError("the name of the file is not UTF-8: give it another")
    return own_name

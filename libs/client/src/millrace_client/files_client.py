"""The files of an organisation: up, down, and what there is."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import io
import os
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

from millrace.files.v1 import files_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.download import receive
from millrace_client.file import File, read_file
from millrace_client.upload import Progress, Source, read_source, send


class FilesClient:
    """Calls to the Files service for one organisation.

    Every method raises a CallError of the status that the server answered with. `timeout` is the
    seconds that one call may take; None: the client's own, and without limit for a transfer.
    """

    def __init__(self, connection: Connection, org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id

    async def upload(
        self,
        source: Source,
        name: str | None = None,
        *,
        content_type: str = "",
        created_by: str = "",
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> File:
        """Store a file: the path of one, its content as bytes, or an asynchronous stream of its content.

        `name` is needed unless a path is given (ValueError). `content_type` is guessed from the name
        when empty. Size and hash are checked on the way; a failed upload leaves nothing behind, and is
        never repeated by itself. `on_progress` is called with the bytes sent and the bytes there are.
        OSError when a path cannot be read.
        """
        content = await read_source(source)
        header = messages.UploadFileHeader(
            org_id=self._org_id,
            name=_given_name(name, content.name),
            content_type=content_type,
            size_bytes=content.size_bytes,
            sha256=content.sha256,
            created_by=created_by,
        )
        return await send(self._connection.files.UploadFile, header, content, on_progress, timeout)

    async def download(
        self,
        file_id: str,
        to: str | os.PathLike[str] | BinaryIO,
        *,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> File:
        """Write a file to a path, into a folder under its own name, or to an open binary stream.

        A path is replaced only once everything has arrived and has the size and hash it should have
        (ContentMismatchError); a stream may have got some of it. DataLossError when the content is no
        longer there; OSError when it cannot be written. `on_progress` is called with the bytes received
        and the bytes there are.
        """
        request = messages.DownloadFileRequest(org_id=self._org_id, file_id=file_id)
        return await receive(self._connection.files.DownloadFile(request, timeout=timeout), to, on_progress)

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

    def list(
        self, *, limit: int | None = None, page_size: int = 100, timeout: float | None = None
    ) -> AsyncIterator[File]:
        """Yield the files, newest first, at most `limit`; pages of `page_size` are fetched as needed."""

        async def fetch(page_token: str) -> tuple[Iterator[File], str]:
            request = messages.ListFilesRequest(
                org_id=self._org_id,
                page_size=page_size if limit is None else min(limit, page_size),
                page_token=page_token,
            )
            page = await self._connection.call(self._connection.files.ListFiles, request, timeout)
            return map(read_file, page.files), page.next_page_token

        return read_pages(fetch, limit)


def _given_name(name: str | None, own_name: str | None) -> str:
    if name is not None:
        return name
    if own_name is None:
        raise ValueError("content that does not come from a path needs a name")
    return own_name

"""The uploads of an organisation that go straight to the object store."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

from millrace.files.v1 import files_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.file import File, read_file
from millrace_client.file_upload import Upload, read_upload
from millrace_client.values import to_duration


class FileUploadsClient:
    """Calls about such uploads, for one organisation."""

    def __init__(self, connection: Connection, org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id

    async def initiate_upload(
        self,
        name: str,
        size_bytes: int,
        *,
        content_type: str = "",
        sha256: str = "",
        temporary: bool = False,
        created_by: str = "",
        expires_in: timedelta | None = None,
        timeout: float | None = None,
    ) -> Upload:
        """Begin an upload that somebody else sends, such as a browser: exactly `size_bytes`, up to 5 GiB.

        They send the content by the HTTP request that the Upload describes, and `confirm_upload` makes a file of it. The URL is
        taken for `expires_in`, 1 second to 24 hours; None: one hour. `upload_directly` does all of that. ResourceExhaustedError
        when a limit leaves no room for it, or 1,000 uploads are open.
        """
        request = messages.InitiateUploadRequest(
            org_id=self._org_id,
            name=name,
            content_type=content_type,
            size_bytes=size_bytes,
            sha256=sha256,
            created_by=created_by,
            temporary=temporary,
            expires_in=None if expires_in is None else to_duration(expires_in),
        )
        response = await self._connection.call(self._connection.files.InitiateUpload, request, timeout)
        return read_upload(response.upload)

    async def confirm_upload(self, upload_id: str, *, timeout: float | None = None) -> File:
        """Make a file of what was uploaded, after its size, hash and type have been checked; one that is confirmed returns its file.

        It takes as long as the service needs to read the file once; `timeout` None: without limit. NotFoundError when it has
        expired; FailedPreconditionError when nothing was uploaded; InvalidArgumentError when that is wrong: it may be sent again.
        """
        request = messages.ConfirmUploadRequest(org_id=self._org_id, upload_id=upload_id)
        response = await self._connection.call_unbounded(
            self._connection.files.ConfirmUpload, request, timeout
        )
        return read_file(response.file)

    async def cancel_upload(self, upload_id: str, *, timeout: float | None = None) -> None:
        """Give an upload up and remove what was uploaded. Nothing happens when there is none.

        FailedPreconditionError when it has been confirmed.
        """
        request = messages.CancelUploadRequest(org_id=self._org_id, upload_id=upload_id)
        await self._connection.call(self._connection.files.CancelUpload, request, timeout)

    def list_uploads(
        self,
        *,
        created_by: str = "",
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[Upload]:
        """Yield the uploads that can still be confirmed, all or those of one creator, newest first, at most `limit`.

        None has a `url`. Pages of `page_size` are fetched as needed.
        """

        async def fetch(page_token: str) -> tuple[Iterator[Upload], str]:
            request = messages.ListUploadsRequest(
                org_id=self._org_id,
                page_size=page_size if limit is None else min(limit, page_size),
                page_token=page_token,
                created_by=created_by,
            )
            page = await self._connection.call(self._connection.files.ListUploads, request, timeout)
            return map(read_upload, page.uploads), page.next_page_token

        return read_pages(fetch, limit)

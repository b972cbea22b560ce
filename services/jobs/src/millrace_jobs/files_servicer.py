# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import AsyncIterator
from datetime import timedelta

from millrace.files.v1 import files_service_pb2, files_service_pb2_grpc
from millrace_jobs.file_filters import check_query
from millrace_jobs.file_keeping_methods import FileKeepingMethods
from millrace_jobs.file_messages import file_message
from millrace_jobs.file_ranges import check_range
from millrace_jobs.file_refusals import file_refusals
from millrace_jobs.file_upload_methods import FileUploadMethods
from millrace_jobs.file_usage_methods import FileUsageMethods
from millrace_jobs.servicer_parts import Context
from millrace_runtime.errors import NotFound
from millrace_runtime.identity import current_caller
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations

_URL_TIME = timedelta(hours=1)
_SHORTEST_URL_TIME = timedelta(seconds=1)
_LONGEST_URL_TIME = timedelta(days=7)


class FilesServicer(
    FileUploadMethods, FileKeepingMethods, FileUsageMethods, files_service_pb2_grpc.FilesServiceServicer
):
    """Answers the calls of FilesService; the contract says what each one does."""

    async def DownloadFile(
        self, request: files_service_pb2.DownloadFileRequest, _context: Context
    ) -> AsyncIterator[files_service_pb2.DownloadFileResponse]:
        """Stream a file's description and then its content, as fast as the caller takes it."""
        violations = Violations()
        start, end = check_range(request.offset, request.length, violations)
        org_id, file_id = check_key("file", request.org_id, request.file_id, violations)
        with file_refusals(org_id, request.file_id):
            file, chunks = await self._store.open(org_id, file_id, start=start, end=end)
            yield files_service_pb2.DownloadFileResponse(file=file_message(file))
            async for chunk in chunks:
                yield files_service_pb2.DownloadFileResponse(chunk=chunk)

    async def GetFile(
        self, request: files_service_pb2.GetFileRequest, _context: Context
    ) -> files_service_pb2.GetFileResponse:
        """Return the description of a file."""
        org_id, file_id = check_key("file", request.org_id, request.file_id)
        file = await self._store.get(org_id, file_id)
        if file is None:
            raise NotFound("file", request.file_id)
        return files_service_pb2.GetFileResponse(file=file_message(file))

    async def GetDownloadUrl(
        self, request: files_service_pb2.GetDownloadUrlRequest, _context: Context
    ) -> files_service_pb2.GetDownloadUrlResponse:
        """Return a URL that a file can be downloaded from for some time."""
        violations = Violations()
        expires_in = (
            violations.check_duration("expires_in", request.expires_in, _SHORTEST_URL_TIME, _LONGEST_URL_TIME)
            if request.HasField("expires_in")
            else _URL_TIME
        )
        org_id, file_id = check_key("file", request.org_id, request.file_id, violations)
        with file_refusals(org_id, request.file_id):
            presigned, expires_at = await self._store.download_url(org_id, file_id, expires_in)
        return files_service_pb2.GetDownloadUrlResponse(
            url=presigned.url, expires_at=datetime_to_timestamp(expires_at)
        )

    async def ListFiles(
        self, request: files_service_pb2.ListFilesRequest, _context: Context
    ) -> files_service_pb2.ListFilesResponse:
        """Return a page of files, newest first."""
        violations = Violations()
        query = check_query(request, violations)
        violations.raise_if_any()
        current_caller().require_organisation(query.org_id)
        after = last_id(request.page_token, query.bound_to)
        files = await self._store.list(query.org_id, query.filters, after, query.page_size + 1)
        page = files[: query.page_size]
        return files_service_pb2.ListFilesResponse(
            files=[file_message(file) for file in page],
            next_page_token=token_behind(page[-1].file_id, query.bound_to) if len(files) > len(page) else "",
        )

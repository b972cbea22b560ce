# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import AsyncIterator
from typing import Any

import grpc

from millrace.files.v1 import file_pb2, files_service_pb2, files_service_pb2_grpc
from millrace_database.files_repository import FileRecord
from millrace_database.ids import format_id
from millrace_jobs.file_uploads import Chunks, check_header, read_header
from millrace_runtime.errors import DataLoss, InvalidArgument, NotFound
from millrace_runtime.identity import current_caller
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations
from millrace_storage import ContentMismatch, ContentMissing, FileMissing, FileStore

_Context = grpc.aio.ServicerContext[Any, Any]


class FilesServicer(files_service_pb2_grpc.FilesServiceServicer):
    """Answers the calls of FilesService; the contract says what each one does."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def UploadFile(
        self, request_iterator: AsyncIterator[files_service_pb2.UploadFileRequest], _context: _Context
    ) -> files_service_pb2.UploadFileResponse:
        """Store a file while it arrives."""
        messages = aiter(request_iterator)
        header = check_header(await read_header(messages), current_caller())
        chunks = Chunks(messages)
        expected_size = header.size_bytes if header.HasField("size_bytes") else None
        try:
            file = await self._store.save(
                org_id=header.org_id,
                name=header.name,
                content_type=header.content_type,
                created_by=header.created_by,
                chunks=aiter(chunks),
                expected_size=expected_size,
                expected_sha256=header.sha256 or None,
            )
        except ContentMismatch as error:
            is_size = expected_size is not None and chunks.size != expected_size
            raise InvalidArgument(
                [("header.size_bytes" if is_size else "header.sha256", str(error))]
            ) from None
        return files_service_pb2.UploadFileResponse(file=_file_message(file))

    async def DownloadFile(
        self, request: files_service_pb2.DownloadFileRequest, _context: _Context
    ) -> AsyncIterator[files_service_pb2.DownloadFileResponse]:
        """Stream a file's description and then its content, as fast as the caller takes it."""
        org_id, file_id = check_key("file", request.org_id, request.file_id)
        try:
            file, chunks = await self._store.open(org_id, file_id)
            yield files_service_pb2.DownloadFileResponse(file=_file_message(file))
            async for chunk in chunks:
                yield files_service_pb2.DownloadFileResponse(chunk=chunk)
        except FileMissing:
            raise NotFound("file", request.file_id) from None
        except ContentMissing:
            raise DataLoss(f"the content of {request.file_id} is no longer there") from None

    async def GetFile(
        self, request: files_service_pb2.GetFileRequest, _context: _Context
    ) -> files_service_pb2.GetFileResponse:
        """Return the description of a file."""
        org_id, file_id = check_key("file", request.org_id, request.file_id)
        file = await self._store.get(org_id, file_id)
        if file is None:
            raise NotFound("file", request.file_id)
        return files_service_pb2.GetFileResponse(file=_file_message(file))

    async def ListFiles(
        self, request: files_service_pb2.ListFilesRequest, _context: _Context
    ) -> files_service_pb2.ListFilesResponse:
        """Return a page of files, newest first."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        page_size = violations.check_page_size(request.page_size)
        violations.raise_if_any()
        current_caller().require_organisation(org_id)
        filters = {"org_id": org_id}
        after = last_id(request.page_token, filters)
        files = await self._store.list(org_id, after, page_size + 1)
        page = files[:page_size]
        return files_service_pb2.ListFilesResponse(
            files=[_file_message(file) for file in page],
            next_page_token=token_behind(page[-1].file_id, filters) if len(files) > page_size else "",
        )


def _file_message(record: FileRecord) -> file_pb2.File:
    return file_pb2.File(
        file_id=format_id("file", record.file_id),
        org_id=record.org_id,
        name=record.name,
        content_type=record.content_type,
        size_bytes=record.size_bytes,
        sha256=record.sha256,
        created_by=record.created_by,
        created_at=datetime_to_timestamp(record.created_at),
        job_id="" if record.job_id is None else format_id("job", record.job_id),
    )

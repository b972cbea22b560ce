# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import AsyncIterator
from datetime import timedelta

from millrace.files.v1 import files_service_pb2
from millrace_jobs.file_messages import file_message, upload_message
from millrace_jobs.file_methods import FileMethods
from millrace_jobs.file_refusals import file_refusals
from millrace_jobs.file_uploads import MAX_CREATOR_LENGTH, check_announced, chunks_of, read_header
from millrace_jobs.servicer_parts import Context
from millrace_runtime.identity import current_caller
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations

_URL_TIME = timedelta(hours=1)
_SHORTEST_URL_TIME = timedelta(seconds=1)
_LONGEST_URL_TIME = timedelta(hours=24)
_MAX_PRESIGNED_BYTES = 5 * 1024**3


class FileUploadMethods(FileMethods):
    """The methods by which files come in."""

    async def UploadFile(
        self, request_iterator: AsyncIterator[files_service_pb2.UploadFileRequest], _context: Context
    ) -> files_service_pb2.UploadFileResponse:
        """Store a file while it arrives."""
        messages = aiter(request_iterator)
        header = await read_header(messages)
        announced = check_announced(header, current_caller(), Violations("header."))
        with file_refusals(announced.org_id, announced.name, prefix="header."):
            file = await self._store.save(
                org_id=announced.org_id,
                name=announced.name,
                content_type=announced.content_type,
                created_by=announced.created_by,
                chunks=chunks_of(messages, self._store.stores.default.writers_wait),
                state="temporary" if announced.temporary else "persistent",
                expected_size=announced.size_bytes,
                expected_sha256=announced.sha256,
                by_caller=True,
            )
        return files_service_pb2.UploadFileResponse(file=file_message(file))

    async def InitiateUpload(
        self, request: files_service_pb2.InitiateUploadRequest, _context: Context
    ) -> files_service_pb2.InitiateUploadResponse:
        """Begin an upload that goes straight to the object store."""
        violations = Violations()
        if not request.HasField("size_bytes"):
            violations.add("size_bytes", "is required")
        elif request.size_bytes > _MAX_PRESIGNED_BYTES:
            violations.add("size_bytes", f"must be at most {_MAX_PRESIGNED_BYTES}")
        expires_in = (
            violations.check_duration("expires_in", request.expires_in, _SHORTEST_URL_TIME, _LONGEST_URL_TIME)
            if request.HasField("expires_in")
            else _URL_TIME
        )
        announced = check_announced(request, current_caller(), violations)
        with file_refusals(announced.org_id, announced.name):
            upload = await self._store.initiate_upload(
                org_id=announced.org_id,
                name=announced.name,
                content_type=announced.content_type,
                size_bytes=request.size_bytes,
                sha256=announced.sha256,
                created_by=announced.created_by,
                temporary=announced.temporary,
                expires_in=expires_in,
            )
        return files_service_pb2.InitiateUploadResponse(upload=upload_message(upload))

    async def ConfirmUpload(
        self, request: files_service_pb2.ConfirmUploadRequest, _context: Context
    ) -> files_service_pb2.ConfirmUploadResponse:
        """Make a file of what was uploaded."""
        org_id, upload_id = check_key("upload", request.org_id, request.upload_id)
        with file_refusals(org_id, request.upload_id):
            file = await self._store.confirm_upload(org_id, upload_id)
        return files_service_pb2.ConfirmUploadResponse(file=file_message(file))

    async def CancelUpload(
        self, request: files_service_pb2.CancelUploadRequest, _context: Context
    ) -> files_service_pb2.CancelUploadResponse:
        """Give an upload up."""
        org_id, upload_id = check_key("upload", request.org_id, request.upload_id)
        with file_refusals(org_id, request.upload_id):
            await self._store.cancel_upload(org_id, upload_id)
        return files_service_pb2.CancelUploadResponse()

    async def ListUploads(
        self, request: files_service_pb2.ListUploadsRequest, _context: Context
    ) -> files_service_pb2.ListUploadsResponse:
        """Return a page of the uploads that can still be confirmed, newest first."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        created_by = violations.check_text("created_by", request.created_by, max_length=MAX_CREATOR_LENGTH)
        size = violations.check_page_size(request.page_size)
        violations.raise_if_any()
        current_caller().require_organisation(org_id)
        bound_to = {"list": "uploads", "org_id": org_id, "created_by": created_by}
        after = last_id(request.page_token, bound_to)
        uploads = await self._store.list_uploads(org_id, created_by or None, after, size + 1)
        page = uploads[:size]
        return files_service_pb2.ListUploadsResponse(
            uploads=[upload_message(upload) for upload in page],
            next_page_token=token_behind(page[-1].upload_id, bound_to) if len(uploads) > len(page) else "",
        )

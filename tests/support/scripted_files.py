"""A Files service that does as a test says, and a client of it."""
# ruff: noqa: N802, ARG002 - the methods of generated servicers

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from millrace.files.v1 import file_pb2
from millrace.files.v1 import files_service_pb2 as messages
from millrace.files.v1.files_service_pb2_grpc import FilesServiceServicer, add_FilesServiceServicer_to_server
from millrace_client import Millrace
from support.scripted_server import scripted_server

CONTENT = bytes(range(256)) * 8000


def described(content: bytes, **fields: Any) -> file_pb2.File:
    return file_pb2.File(
        file_id="file_1",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        **{"name": "numbers.bin", **fields},
    )


class Files(FilesServiceServicer):
    """Keeps what is uploaded; a download sends what it is told to."""

    def __init__(self, *parts: bytes | grpc.StatusCode, file: file_pb2.File | None = None) -> None:
        self.parts = parts
        self.file = file or described(CONTENT)
        self.header = messages.UploadFileHeader()
        self.chunks: list[bytes] = []

    async def UploadFile(self, request_iterator: Any, context: Any) -> messages.UploadFileResponse:
        async for request in request_iterator:
            if request.WhichOneof("part") == "header":
                self.header = request.header
            else:
                self.chunks.append(request.chunk)
        return messages.UploadFileResponse(file=described(b"".join(self.chunks), name=self.header.name))

    async def DownloadFile(self, request: Any, context: Any) -> AsyncIterator[messages.DownloadFileResponse]:
        yield messages.DownloadFileResponse(file=self.file)
        for part in self.parts:
            if isinstance(part, grpc.StatusCode):
                await context.abort(part, "as told")
            else:
                yield messages.DownloadFileResponse(chunk=part)

    async def GetFile(self, request: Any, context: Any) -> messages.GetFileResponse:
        return messages.GetFileResponse(file=self.file)

    async def ListFiles(self, request: Any, context: Any) -> messages.ListFilesResponse:
        return messages.ListFilesResponse(files=[self.file])

    async def _answer(self, request: Any, context: Any) -> Any:
        raise AssertionError("nobody calls it")

    InitiateUpload = ConfirmUpload = CancelUpload = ListUploads = GetDownloadUrl = PersistFile = _answer
    DeleteFile = UndeleteFile = GetFileUsage = UpdateFileLimits = _answer


@asynccontextmanager
async def client_of(files: FilesServiceServicer) -> AsyncIterator[Millrace]:
    async with (
        scripted_server(add_FilesServiceServicer_to_server, files) as address,
        Millrace(address, org_id="acme") as client,
    ):
        yield client

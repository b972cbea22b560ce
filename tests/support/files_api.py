"""Files as a caller of the service sends, gets and loses them, and what is left of them inside."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from millrace.files.v1 import file_pb2, files_service_pb2, files_service_pb2_grpc
from millrace_database.database import Database
from millrace_storage import PresignedRequest
from support import object_stores
from support.jobs_api import JobsApi

MEBIBYTE = 1024 * 1024
CONTENT = b"name,price\nbolt,3\n"


def header(**fields: Any) -> files_service_pb2.UploadFileRequest:
    """The first message of an upload, of a file "prices.csv" of "acme"."""
    part = files_service_pb2.UploadFileHeader(**{"org_id": "acme", "name": "prices.csv", **fields})
    return files_service_pb2.UploadFileRequest(header=part)


def chunk(content: bytes) -> files_service_pb2.UploadFileRequest:
    return files_service_pb2.UploadFileRequest(chunk=content)


async def send(api: JobsApi, messages: Iterable[files_service_pb2.UploadFileRequest]) -> file_pb2.File:
    async def all_messages() -> AsyncIterator[files_service_pb2.UploadFileRequest]:
        for message in messages:
            yield message

    return (await api.files.UploadFile(all_messages())).file


async def upload(api: JobsApi, content: bytes = CONTENT, **fields: Any) -> file_pb2.File:
    chunks = [content[start : start + MEBIBYTE] for start in range(0, len(content), MEBIBYTE)]
    return await send(api, [header(**fields), *(chunk(part) for part in chunks)])


async def refused_stream(
    api: JobsApi, messages: Iterable[files_service_pb2.UploadFileRequest]
) -> grpc.RpcError:
    """The error with which an upload is cut off that goes on until then.

    A client of asyncio loses it when it writes at that moment (grpc/grpc#36066), a blocking one does not.
    """

    def send_blocking() -> grpc.RpcError:
        with grpc.insecure_channel(api.address) as channel, pytest.raises(grpc.RpcError) as caught:
            files_service_pb2_grpc.FilesServiceStub(channel).UploadFile(iter(messages))
        return caught.value

    return await asyncio.to_thread(send_blocking)


async def download(
    api: JobsApi, file_id: str, org_id: str = "acme", **fields: Any
) -> list[files_service_pb2.DownloadFileResponse]:
    request = files_service_pb2.DownloadFileRequest(org_id=org_id, file_id=file_id, **fields)
    return [response async for response in api.files.DownloadFile(request)]


async def content_of(api: JobsApi, file_id: str, **fields: Any) -> bytes:
    """The content of a file, or the part of it that is asked for."""
    _, *chunks = await download(api, file_id, **fields)
    return b"".join(response.chunk for response in chunks)


async def get(api: JobsApi, file_id: str, org_id: str = "acme") -> file_pb2.File:
    request = files_service_pb2.GetFileRequest(org_id=org_id, file_id=file_id)
    return (await api.files.GetFile(request)).file


async def delete(api: JobsApi, file_id: str, **fields: Any) -> files_service_pb2.DeleteFileResponse:
    request = files_service_pb2.DeleteFileRequest(**{"org_id": "acme", "file_id": file_id, **fields})
    return await api.files.DeleteFile(request)


async def listed(api: JobsApi, **fields: Any) -> list[file_pb2.File]:
    """The files of all pages."""
    files: list[file_pb2.File] = []
    token = ""
    while True:
        request = files_service_pb2.ListFilesRequest(**{"org_id": "acme", "page_token": token, **fields})
        page = await api.files.ListFiles(request)
        files += page.files
        token = page.next_page_token
        if not token:
            return files


async def usage(api: JobsApi, org_id: str = "acme") -> file_pb2.FileUsage:
    request = files_service_pb2.GetFileUsageRequest(org_id=org_id)
    return (await api.files.GetFileUsage(request)).usage


async def set_limits(api: JobsApi, org_id: str = "acme", **limits: int) -> file_pb2.FileUsage:
    request = files_service_pb2.UpdateFileLimitsRequest(
        org_id=org_id, limits=files_service_pb2.FileLimitsUpdate(**limits)
    )
    return (await api.files.UpdateFileLimits(request)).usage


async def initiate(api: JobsApi, content: bytes = CONTENT, **fields: Any) -> file_pb2.Upload:
    """Begin an upload of a file "prices.csv" of "acme" that is as long as `content`."""
    given = {"org_id": "acme", "name": "prices.csv", "size_bytes": len(content), **fields}
    return (await api.files.InitiateUpload(files_service_pb2.InitiateUploadRequest(**given))).upload


async def put(upload: file_pb2.Upload, content: bytes = CONTENT, **headers: str) -> int:
    """Send content as an upload says, with other headers if given, and return the status of the answer."""
    request = PresignedRequest(upload.method, upload.url, dict(upload.headers))
    status, _, _ = await object_stores.send(request, content, url=None, **headers)
    return status


async def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """What is answered at a URL, as status, headers and content."""
    return await object_stores.send(PresignedRequest("GET", url), None, url=None, **headers)


async def confirm(api: JobsApi, upload_id: str, org_id: str = "acme") -> file_pb2.File:
    request = files_service_pb2.ConfirmUploadRequest(org_id=org_id, upload_id=upload_id)
    return (await api.files.ConfirmUpload(request)).file


async def cancel(
    api: JobsApi, upload_id: str, org_id: str = "acme"
) -> files_service_pb2.CancelUploadResponse:
    request = files_service_pb2.CancelUploadRequest(org_id=org_id, upload_id=upload_id)
    return await api.files.CancelUpload(request)


async def listed_uploads(api: JobsApi, **fields: Any) -> list[file_pb2.Upload]:
    """The open uploads of all pages."""
    uploads: list[file_pb2.Upload] = []
    token = ""
    while True:
        request = files_service_pb2.ListUploadsRequest(**{"org_id": "acme", "page_token": token, **fields})
        page = await api.files.ListUploads(request)
        uploads += page.uploads
        token = page.next_page_token
        if not token:
            return uploads


async def download_url(api: JobsApi, file_id: str, *, expires_in: timedelta | None = None) -> str:
    request = files_service_pb2.GetDownloadUrlRequest(org_id="acme", file_id=file_id)
    if expires_in is not None:
        request.expires_in.CopyFrom(duration(expires_in))
    return (await api.files.GetDownloadUrl(request)).url


def duration(length: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(length)
    return message


def stored(folder: Path) -> list[Path]:
    """All files in the local object store below a data folder, half-written ones included, but not its secret."""
    return [
        path for path in (folder / "files").rglob("*") if path.is_file() and path.name != ".presigning-key"
    ]


async def rows(database: Database, table: str = "files") -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - names of ours
    return count


async def removals_due(database: Database) -> int:
    """How many objects are to be removed now. What a cancelled upload's URL still lets in is listed for later."""
    return await rows(database, "file_removals WHERE due_at <= now()")


async def residue(database: Database, folder: Path) -> dict[str, object]:
    """What there is of files inside: objects, rows, and what they are counted as. Empty: nothing at all.

    Where a request is allowed for some time on, what it may still put is known as something to be removed then.
    """
    async with database.connection() as connection:
        counted = await connection.fetch(
            "SELECT org_id, total_bytes, files FROM file_usage WHERE total_bytes <> 0 OR files <> 0"
        )
    found: dict[str, object] = {
        "objects": await asyncio.to_thread(stored, folder),
        "counted": [tuple(row) for row in counted],
    }
    for table in ("files", "file_uploads"):
        found[table] = await rows(database, table)
    found["file_removals"] = await removals_due(database)
    return {name: what for name, what in found.items() if what}

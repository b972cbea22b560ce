"""Sending a file to the Files service."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from millrace.files.v1 import files_service_pb2 as messages
from millrace_client.errors import ContentMismatchError, from_rpc_error
from millrace_client.file import File, read_file

Source: TypeAlias = str | os.PathLike[str] | bytes | AsyncIterable[bytes]
"""What can be uploaded: a path, the content itself, or a stream of it."""

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes done so far and the bytes there are; None while that is unknown."""

UploadCall = grpc.aio.StreamUnaryCall[messages.UploadFileRequest, messages.UploadFileResponse]
UploadMethod = grpc.aio.StreamUnaryMultiCallable[messages.UploadFileRequest, messages.UploadFileResponse]

_CHUNK_BYTES = 512 * 1024
_FAILED_WRITE = "Internal error from Core"


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be sent. Of a stream neither size nor hash is known beforehand."""

    chunks: AsyncIterable[bytes]
    name: str | None = None
    size_bytes: int | None = None
    sha256: str = ""


async def read_source(source: Source) -> Content:
    """Find out what can be known of a source before it is sent. OSError when a path cannot be read, or is no regular file.

    A path is read twice, once for its hash: the server then refuses what is damaged on the way, or
    changed meanwhile, before the file exists.
    """
    if isinstance(source, bytes):
        return Content(_whole(source), size_bytes=len(source), sha256=hashlib.sha256(source).hexdigest())
    if isinstance(source, AsyncIterable):
        return Content(source)
    path = Path(source)
    size_bytes, sha256 = await asyncio.to_thread(_measure, path)
    return Content(_read(path), path.name, size_bytes, sha256)


async def send(
    method: UploadMethod,
    header: messages.UploadFileHeader,
    content: Content,
    on_progress: Progress | None,
    deadline: float | None,
) -> File:
    """Make one upload, of at most `deadline` seconds; nothing of it stays when it does not succeed."""
    call = method(timeout=deadline)
    answer = _Answer(call)
    try:
        # Only what the call itself is answered with: the source may raise such an error, too.
        sent, sha256 = await _write(call, header, content, on_progress)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(answer.error or error) from (answer.error or error)
    finally:
        call.cancel()
    file = read_file(response.file)
    if (file.size_bytes, file.sha256) != (sent, sha256):
        raise ContentMismatchError(
            f"{file.file_id} was stored with {file.size_bytes} bytes, {sent} were sent"
        )
    return file


class _Answer:
    """Keeps the error that a call was answered with.

    A write that fails because the answer is there already replaces it by an INTERNAL of gRPC's own
    (grpc/grpc#36066), perhaps before a task that awaits the call has seen it; a callback has. When the write fails
    first, the answer replaces the INTERNAL, and nothing need be kept.
    """

    def __init__(self, call: UploadCall) -> None:
        self.error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    def _keep(self, call: UploadCall) -> None:
        reading = _read_error(call)
        try:
            # A task would run too late. Nothing is waited for, since the call has its status.
            reading.send(None)
        except StopIteration as read:
            error: grpc.aio.AioRpcError = read.value
            if error.details() != _FAILED_WRITE:
                self.error = error


async def _read_error(call: UploadCall) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(), trailing_metadata=await call.trailing_metadata(), details=await call.details()
    )


async def _write(
    call: UploadCall, header: messages.UploadFileHeader, content: Content, on_progress: Progress | None
) -> tuple[int, str]:
    """Send everything, and return its size and hash. Stops early when the server has answered meanwhile."""
    digest = hashlib.sha256()
    sent = 0
    if not await _is_sent(call.write(messages.UploadFileRequest(header=header))):
        return sent, ""
    async for chunk in _pieces(content.chunks):
        if not await _is_sent(call.write(messages.UploadFileRequest(chunk=chunk))):
            return sent, ""
        digest.update(chunk)
        sent += len(chunk)
        if on_progress is not None:
            on_progress(sent, content.size_bytes)
    await _is_sent(call.done_writing())
    return sent, digest.hexdigest()


async def _is_sent(writing: Awaitable[None]) -> bool:
    """Tell whether the server still listens: gRPC reports in two ways that it has answered, and in both without the answer."""
    try:
        await writing
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        return False
    return True


def _measure(path: Path) -> tuple[int, str]:
    # What can be read only once, such as a pipe, may be uploaded as a stream.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


async def _read(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _pieces(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        for start in range(0, len(chunk), _CHUNK_BYTES):
            yield chunk[start : start + _CHUNK_BYTES]

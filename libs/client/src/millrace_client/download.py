"""Receiving a file from the Files service."""

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO

import grpc

from millrace.files.v1 import files_service_pb2 as messages
from millrace_client.errors import ContentMismatchError, from_rpc_error
from millrace_client.file import File, read_file
from millrace_client.upload import Progress

DownloadCall = grpc.aio.UnaryStreamCall[messages.DownloadFileRequest, messages.DownloadFileResponse]


async def receive(
    call: DownloadCall, to: str | os.PathLike[str] | BinaryIO, on_progress: Progress | None
) -> File:
    """Write a download to a path or a binary stream, and check its size and hash.

    A path gets its new content whole or not at all; in a folder the file gets its own name. Of a
    stream nobody can take back what was written before ContentMismatchError was raised.
    """
    async with contextlib.aclosing(_responses(call)) as responses:
        file = read_file((await anext(responses)).file)
        if isinstance(to, str | os.PathLike):
            await _receive_into_path(responses, file, Path(to), on_progress)
        else:
            await _copy(responses, file, to, on_progress)
    return file


async def _responses(call: DownloadCall) -> AsyncGenerator[messages.DownloadFileResponse, None]:
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    finally:
        call.cancel()


async def _receive_into_path(
    responses: AsyncIterator[messages.DownloadFileResponse],
    file: File,
    path: Path,
    on_progress: Progress | None,
) -> None:
    if await asyncio.to_thread(path.is_dir):
        path /= _file_name(file)
    if await asyncio.to_thread(_is_special, path):
        raise FileExistsError(errno.EEXIST, "Not a regular file", str(path))
    # Not made of the file's own name, which may be as long as a name can be.
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with await asyncio.to_thread(partial.open, "xb") as sink:
            await _copy(responses, file, sink, on_progress)
            await asyncio.to_thread(_sync, sink)
        await asyncio.to_thread(partial.replace, path)
    finally:
        partial.unlink(missing_ok=True)


async def _copy(
    responses: AsyncIterator[messages.DownloadFileResponse],
    file: File,
    sink: BinaryIO,
    on_progress: Progress | None,
) -> None:
    digest = hashlib.sha256()
    received = 0
    async for response in responses:
        digest.update(response.chunk)
        await asyncio.to_thread(sink.write, response.chunk)
        received += len(response.chunk)
        if on_progress is not None:
            on_progress(received, file.size_bytes)
    if (received, digest.hexdigest()) != (file.size_bytes, file.sha256):
        raise ContentMismatchError(
            f"{file.file_id} has {file.size_bytes} bytes, {received} arrived, or they differ"
        )


def _file_name(file: File) -> str:
    """Return the file's own name, unless it would lead out of the folder it is written to."""
    if file.name in {"", ".", ".."} or Path(file.name).name != file.name:
        raise ContentMismatchError(f"{file.file_id} has a name that is no file name: {file.name!r}")
    return file.name


def _is_special(path: Path) -> bool:
    """Say whether there is a device or the like, which a file must not take the place of."""
    return path.exists() and not path.is_file()


def _sync(sink: BinaryIO) -> None:
    sink.flush()
    os.fsync(sink.fileno())

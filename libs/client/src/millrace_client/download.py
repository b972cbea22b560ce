"""Receiving content that is streamed: of a file, of a job's output."""

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import grpc
from pathvalidate import sanitize_filename

from millrace.files.v1 import files_service_pb2 as messages
from millrace.jobs.v1 import jobs_service_pb2
from millrace_client.errors import ContentMismatchError, UnavailableError, from_rpc_error
from millrace_client.file import File, read_file
from millrace_client.upload import Progress

_Response: TypeAlias = messages.DownloadFileResponse | jobs_service_pb2.DownloadJobOutputResponse

DownloadCall: TypeAlias = (
    grpc.aio.UnaryStreamCall[messages.DownloadFileRequest, messages.DownloadFileResponse]
    | grpc.aio.UnaryStreamCall[
        jobs_service_pb2.DownloadJobOutputRequest, jobs_service_pb2.DownloadJobOutputResponse
    ]
)

OpenDownload: TypeAlias = Callable[[int], DownloadCall]
"""Begins a download at an offset in bytes."""

_FIRST_PAUSE_SECONDS = 0.2
_TRIES_WITHOUT_PROGRESS = 5


async def receive(
    open_download: OpenDownload, to: str | os.PathLike[str] | BinaryIO, on_progress: Progress | None
) -> File:
    """Write a download to a path or a binary stream, and check its size and hash.

    A download that breaks off because the service cannot be reached goes on where it was, as long as something arrives within
    five tries. A path gets its new content whole or not at all; in a folder the file gets its own name, made safe. Of a
    stream nobody can take back what was written before ContentMismatchError was raised.
    """
    async with contextlib.aclosing(_resumed(open_download)) as responses:
        file = read_file((await anext(responses)).file)
        if isinstance(to, str | os.PathLike):
            await _receive_into_path(responses, file, Path(to), on_progress)
        else:
            await _copy(responses, file, to, on_progress)
    return file


async def describe(call: DownloadCall) -> File:
    """Return what a download would bring, and end it."""
    async with contextlib.aclosing(_responses(call)) as responses:
        return read_file((await anext(responses)).file)


async def _resumed(open_download: OpenDownload) -> AsyncGenerator[_Response, None]:
    """Yield the description once, and then the chunks of one call or, when it breaks off, of several."""
    received = 0
    described: str | None = None
    tries = 0
    while True:
        try:
            async with contextlib.aclosing(_responses(open_download(received))) as responses:
                async for response in responses:
                    if response.HasField("file"):
                        if described is None:
                            yield response
                        elif response.file.sha256 != described:
                            raise ContentMismatchError(f"{response.file.name} has been replaced meanwhile")
                        described = response.file.sha256
                        continue
                    tries = 0
                    received += len(response.chunk)
                    yield response
        except UnavailableError:
            tries += 1
            # What has not begun is tried again by the channel already.
            if described is None or tries == _TRIES_WITHOUT_PROGRESS:
                raise
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**tries)
        else:
            return


async def _responses(call: DownloadCall) -> AsyncGenerator[_Response, None]:
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.OUT_OF_RANGE:
            # There is no other offset than what has arrived of something longer.
            raise ContentMismatchError("what is downloaded has become shorter meanwhile") from error
        raise from_rpc_error(error) from error
    finally:
        call.cancel()


async def _receive_into_path(
    responses: AsyncIterator[_Response],
    file: File,
    path: Path,
    on_progress: Progress | None,
) -> None:
    if await asyncio.to_thread(path.is_dir):
        path /= safe_file_name(file)
    if await asyncio.to_thread(_is_special, path):
        raise FileExistsError(errno.EEXIST, "Not a regular file", str(path))
    # Not made of the file's own name, which may be as long as a name can be.
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with await _made(partial) as sink:
            await _copy(responses, file, sink, on_progress)
            await asyncio.to_thread(_sync, sink)
        await asyncio.to_thread(partial.replace, path)
    finally:
        partial.unlink(missing_ok=True)


async def _made(path: Path) -> BinaryIO:
    """Make a file; when cancelled meanwhile, not before it is there, so that it can be removed."""
    making = asyncio.ensure_future(asyncio.to_thread(path.open, "xb"))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.wait([making])
        if making.exception() is None:
            making.result().close()
        raise
    except OSError as error:
        # Nobody has asked for a file of this name, but for one in this folder.
        raise OSError(error.errno, error.strerror, str(path.parent)) from error


async def _copy(
    responses: AsyncIterator[_Response],
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
            f"{file.name} has {file.size_bytes} bytes, {received} arrived, or they differ"
        )


def safe_file_name(file: File) -> str:
    """Return a name to keep a file under in any folder of any system: the last part of its own name, without what is special.

    ContentMismatchError when nothing is left of it.
    """
    last = file.name.replace("\\", "/").rpartition("/")[2]
    name = sanitize_filename(last, platform="universal")
    if name in {"", ".", ".."}:
        raise ContentMismatchError(f"{file.file_id} has a name that is no file name: {file.name!r}")
    return name


def _is_special(path: Path) -> bool:
    """Say whether there is a device or the like, which a file must not take the place of."""
    return path.exists() and not path.is_file()


def _sync(sink: BinaryIO) -> None:
    sink.flush()
    os.fsync(sink.fileno())

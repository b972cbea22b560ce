"""Receiving content that is streamed: of a file, of a job's output."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import grpc
from pathvalidate import sanitize_filename

from millrace.files.v1 import files_service_pb2 as messages
from millrace.jobs.v1 import jobs_service_pb2
from millrace_client.errors import ContentMismatchError, UnavailableError, from_rpc_error
from millrace_client.file import File, read_file
from millrace_client.partial_file import Arrived, PartialFile, open_partial, put_in_place
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

OnResume: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that an earlier download has left and the bytes there are, before the rest is fetched."""

_FIRST_PAUSE_SECONDS = 0.2
_TRIES_WITHOUT_PROGRESS = 5


async def receive(
    open_download: OpenDownload,
    to: str | os.PathLike[str] | BinaryIO,
    on_progress: Progress | None,
    *,
    resume: bool = False,
    replace: bool = True,
    on_resume: OnResume | None = None,
) -> File:
    """Write a download to a path or a binary stream, and check its size and hash.

    A download that breaks off because the service cannot be reached goes on where it was, as long as something arrives within
    five tries. A path gets its new content whole or not at all; in a folder the file gets its own name, made safe. With
    `resume`, what has arrived when it fails is kept beside the path, of which the error has a note, and the next goes on with
    it. Without `replace` FileExistsError is raised when something is at the path, before or at the end. Of a stream nobody can
    take back what was written before ContentMismatchError was raised.
    """
    async with contextlib.aclosing(_resumed(open_download)) as responses:
        file = read_file((await anext(responses)).file)
        if isinstance(to, str | os.PathLike):
            path = await _target(Path(to), file, replace=replace)
            arriving = _Arriving(open_download, file, path, on_progress, on_resume)
            await _receive_into_path(arriving, responses, resume=resume, replace=replace)
        else:
            await _copy(responses, file, to, on_progress)
    return file


async def describe(call: DownloadCall) -> File:
    """Return what a download would bring, and end it."""
    async with contextlib.aclosing(_responses(call)) as responses:
        return read_file((await anext(responses)).file)


async def _resumed(
    open_download: OpenDownload, received: int = 0, described: str | None = None
) -> AsyncGenerator[_Response, None]:
    """Yield the description once, and then the chunks of one call or, when it breaks off, of several.

    What has been `described` already, by its hash, and of which so much has been `received` is gone on with.
    """
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


async def _target(path: Path, file: File, *, replace: bool) -> Path:
    if await asyncio.to_thread(path.is_dir):
        path /= safe_file_name(file)
    if await asyncio.to_thread(is_special, path):
        raise FileExistsError(errno.EEXIST, "Not a regular file", str(path))
    # Found out before everything is fetched; what appears later is found out at the end.
    if not replace and await asyncio.to_thread(os.path.lexists, path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return path


@dataclass(frozen=True, slots=True)
class _Arriving:
    """A download to a path, and who is told of it."""

    open_download: OpenDownload
    file: File
    path: Path
    on_progress: Progress | None
    on_resume: OnResume | None


async def _receive_into_path(
    arriving: _Arriving, responses: AsyncGenerator[_Response, None], *, resume: bool, replace: bool
) -> None:
    file, path = arriving.file, arriving.path
    partial = await open_partial(path, file.sha256)
    try:
        arrived = await asyncio.to_thread(partial.read) if resume else Arrived()
        if 0 < arrived.size_bytes <= file.size_bytes:
            # Nothing is to wait for what is already there.
            await responses.aclose()
            await _go_on(arriving, partial, arrived)
        else:
            await asyncio.to_thread(partial.begin_anew)
            await _copy(responses, file, partial.sink, arriving.on_progress)
        await put_in_place(partial, path, replace=replace)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            # Such as a full disk, which writing says nothing more of.
            error.filename = str(path)
        if not resume or isinstance(error, ContentMismatchError):
            partial.remove()
        elif size := partial.leave():
            error.add_note(
                f"{size:,} of {file.size_bytes:,} bytes are kept; the same download goes on from there"
            )
        raise


async def _go_on(arriving: _Arriving, partial: PartialFile, arrived: Arrived) -> None:
    """Receive what is behind that which an earlier download has left, and all of it when that turns out to be damaged."""
    file, on_progress = arriving.file, arriving.on_progress
    if arriving.on_resume is not None:
        arriving.on_resume(arrived.size_bytes, file.size_bytes)
    try:
        resumed = _resumed(arriving.open_download, arrived.size_bytes, file.sha256)
        async with contextlib.aclosing(resumed) as rest:
            await _copy(rest, file, partial.sink, on_progress, arrived)
    except ContentMismatchError:
        await asyncio.to_thread(partial.begin_anew)
        async with contextlib.aclosing(_resumed(arriving.open_download, 0, file.sha256)) as responses:
            await _copy(responses, file, partial.sink, on_progress)


async def _copy(
    responses: AsyncIterator[_Response],
    file: File,
    sink: BinaryIO,
    on_progress: Progress | None,
    arrived: Arrived | None = None,
) -> None:
    """Write chunks behind what has `arrived` already, and check all of it."""
    arrived = arrived or Arrived()
    async for response in responses:
        await asyncio.to_thread(sink.write, response.chunk)
        arrived.add(response.chunk)
        if on_progress is not None:
            on_progress(arrived.size_bytes, file.size_bytes)
    if (arrived.size_bytes, arrived.digest.hexdigest()) != (file.size_bytes, file.sha256):
        raise ContentMismatchError(
            f"{file.name} has {file.size_bytes} bytes, {arrived.size_bytes} arrived, or they differ"
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


def is_special(path: Path) -> bool:
    """Say whether there is a device or the like, which a file must not take the place of."""
    return path.exists() and not path.is_file()

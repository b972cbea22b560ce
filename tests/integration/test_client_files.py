"""Uploads and downloads of the SDK against a server that keeps, refuses, damages or breaks off."""
# ruff: noqa: N802, ASYNC240 - the methods of generated servicers; a look into a folder blocks nobody here

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from millrace.files.v1 import files_service_pb2 as messages
from millrace_client import (
    ContentMismatchError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
    download,
    partial_file,
)
from millrace_runtime.errors import InvalidArgument
from support.scripted_files import CONTENT, Files, client_of, described

SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEBIBYTE = 1024 * 1024


async def test_a_path_is_uploaded_in_chunks_with_its_name_size_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    path.write_bytes(CONTENT)
    files = Files()
    progress: list[tuple[int, int | None]] = []
    async with client_of(files) as client:
        file = await client.files.upload(path, on_progress=lambda done, total: progress.append((done, total)))
    assert b"".join(files.chunks) == CONTENT
    assert max(len(chunk) for chunk in files.chunks) <= MEBIBYTE
    assert (files.header.org_id, files.header.name) == ("acme", "numbers.bin")
    assert (files.header.size_bytes, files.header.sha256) == (len(CONTENT), SHA256)
    assert (file.file_id, file.size_bytes) == ("file_1", len(CONTENT))
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert len(progress) > 1


async def test_bytes_and_streams_are_uploaded_under_a_given_name() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield CONTENT[:10]
        yield b""
        yield CONTENT[10:]

    for source in (CONTENT, stream()):
        files = Files()
        async with client_of(files) as client:
            await client.files.upload(source, "numbers.bin", content_type="application/x-numbers")
        assert b"".join(files.chunks) == CONTENT
        assert max(len(chunk) for chunk in files.chunks) <= MEBIBYTE
        assert (files.header.name, files.header.content_type) == ("numbers.bin", "application/x-numbers")


async def test_content_without_a_path_needs_a_name() -> None:
    async with client_of(Files()) as client:
        with pytest.raises(ValueError, match="needs a name"):
            await client.files.upload(b"abc")


async def test_a_name_that_is_not_utf_8_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"1")
    files = Files()
    async with client_of(files) as client:
        with pytest.raises(ValueError, match="name of the file is not UTF-8: give it another"):
            await client.files.upload(path)
        await client.files.upload(path, "coffee")
    assert files.header.name == "coffee"


async def test_a_folder_that_is_not_there_is_named_as_it_was_given(tmp_path: Path) -> None:
    async with client_of(Files(CONTENT)) as client:
        with pytest.raises(FileNotFoundError) as caught:
            await client.files.download("file_1", tmp_path / "none" / "a.csv")
    assert caught.value.filename == str(tmp_path / "none")


async def test_an_empty_file_is_a_file() -> None:
    files = Files()
    async with client_of(files) as client:
        assert (await client.files.upload(b"", "empty")).size_bytes == 0
    assert files.header.HasField("size_bytes")


@pytest.mark.parametrize("chunk_bytes", [10, MEBIBYTE])
async def test_a_refusal_in_the_middle_of_an_upload_is_raised_as_what_it_is(chunk_bytes: int) -> None:
    refusal = rpc_status.to_status(InvalidArgument([("header.name", "no such name")]).to_status())

    class Refusing(Files):
        async def UploadFile(self, request_iterator: Any, context: Any) -> messages.UploadFileResponse:
            await anext(request_iterator)
            await context.abort_with_status(refusal)
            raise AssertionError

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * chunk_bytes

    async with client_of(Refusing()) as client:
        # Whether the refusal arrives before, with or after the failure of a write is chance; many at once see it all.
        for _ in range(10):
            uploads = [client.files.upload(endless(), "..") for _ in range(10)]
            for error in await asyncio.gather(*uploads, return_exceptions=True):
                assert isinstance(error, InvalidArgumentError), error
                assert (error.message, error.reason) == ("header.name: no such name", "INVALID_FIELDS")
                assert [bad.field for bad in error.violations] == ["header.name"]


async def test_an_upload_whose_source_fails_is_given_up() -> None:
    given_up = asyncio.Event()

    class Watching(Files):
        async def UploadFile(self, request_iterator: Any, context: Any) -> messages.UploadFileResponse:
            context.add_done_callback(lambda _: given_up.set())
            return await super().UploadFile(request_iterator, context)

    async def failing() -> AsyncIterator[bytes]:
        yield b"abc"
        raise OSError("the disk is gone")

    async with client_of(Watching()) as client:
        with pytest.raises(OSError, match="the disk is gone"):
            await client.files.upload(failing(), "numbers.bin")
        async with asyncio.timeout(5):
            await given_up.wait()


async def test_an_upload_that_was_stored_differently_is_an_error() -> None:
    class Damaging(Files):
        async def UploadFile(self, request_iterator: Any, context: Any) -> messages.UploadFileResponse:
            await super().UploadFile(request_iterator, context)
            return messages.UploadFileResponse(file=described(b"else"))

    async with client_of(Damaging()) as client:
        with pytest.raises(ContentMismatchError):
            await client.files.upload(CONTENT, "numbers.bin")


async def test_a_file_is_downloaded_to_a_path_a_folder_a_stream_and_into_memory(tmp_path: Path) -> None:
    progress: list[tuple[int, int | None]] = []
    stream = io.BytesIO()
    async with client_of(Files(CONTENT[:1_000_000], CONTENT[1_000_000:])) as client:
        await client.files.download(
            "file_1", tmp_path / "copy", on_progress=lambda *seen: progress.append(seen)
        )
        await client.files.download("file_1", str(tmp_path))
        file = await client.files.download("file_1", stream)
        content = await client.files.read("file_1")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "numbers.bin").read_bytes() == CONTENT
    assert stream.getvalue() == content == CONTENT
    assert file.sha256 == SHA256
    assert progress == [(1_000_000, len(CONTENT)), (len(CONTENT), len(CONTENT))]
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "numbers.bin"}


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((CONTENT[:-1],), ContentMismatchError),
        ((CONTENT[:-1] + b"!",), ContentMismatchError),
        ((CONTENT[:1000], grpc.StatusCode.INTERNAL), InternalError),
    ],
    ids=["cut short", "damaged", "broken off"],
)
async def test_a_download_that_fails_leaves_what_was_there(
    tmp_path: Path, parts: tuple[Any, ...], error: type[Exception]
) -> None:
    path = tmp_path / "numbers.bin"
    path.write_bytes(b"before")
    async with client_of(Files(*parts)) as client:
        with pytest.raises(error):
            await client.files.download("file_1", path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


async def test_the_longest_name_that_a_file_may_have_can_be_downloaded(tmp_path: Path) -> None:
    name = "n" * 255
    async with client_of(Files(CONTENT, file=described(CONTENT, name=name))) as client:
        await client.files.download("file_1", tmp_path)
    assert (tmp_path / name).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["..", "", ".", "reports/..", "a\\.."])
async def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    async with client_of(Files(CONTENT, file=described(CONTENT, name=name))) as client:
        with pytest.raises(ContentMismatchError, match="no file name"):
            await client.files.download("file_1", folder)
    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("../escaped", "escaped"),
        ("/etc/escaped", "escaped"),
        ("reports/2027-01/sales.csv", "sales.csv"),
        ("..\\escaped", "escaped"),
        ("nul\0in.csv", "nulin.csv"),
        ("CON", "CON_"),
        ("dots...", "dots"),
        ("what:when?.csv", "whatwhen.csv"),
    ],
)
async def test_a_name_is_made_safe_and_never_leads_out_of_the_folder(
    tmp_path: Path, name: str, kept_as: str
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    async with client_of(Files(CONTENT, file=described(CONTENT, name=name))) as client:
        await client.files.download("file_1", folder)
    assert set(tmp_path.rglob("*")) == {folder, folder / kept_as}
    assert (folder / kept_as).read_bytes() == CONTENT


class BreakingOff(Files):
    """Ends each download with UNAVAILABLE after so many bytes; keeps the offsets that were asked for."""

    def __init__(self, *, after: int) -> None:
        super().__init__()
        self.after = after
        self.offsets: list[int] = []

    async def DownloadFile(self, request: Any, context: Any) -> AsyncIterator[messages.DownloadFileResponse]:
        self.offsets.append(request.offset)
        yield messages.DownloadFileResponse(file=self.file)
        rest = CONTENT[request.offset :]
        if self.after:
            yield messages.DownloadFileResponse(chunk=rest[: self.after])
        if len(rest) > self.after:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


async def test_a_download_that_breaks_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0)
    files = BreakingOff(after=500_000)
    async with client_of(files) as client:
        await client.files.download("file_1", tmp_path / "copy")
    assert files.offsets == [0, 500_000, 1_000_000, 1_500_000, 2_000_000]
    assert (tmp_path / "copy").read_bytes() == CONTENT


async def test_a_download_that_gets_nowhere_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0)
    files = BreakingOff(after=0)
    async with client_of(files) as client:
        with pytest.raises(UnavailableError):
            await client.files.download("file_1", tmp_path / "copy")
    assert len(files.offsets) == 5
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_another_when_it_goes_on_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0)

    files = BreakingOff(after=0)

    async def failing_twice(request: Any, context: Any) -> AsyncIterator[messages.DownloadFileResponse]:
        files.offsets.append(request.offset)
        yield messages.DownloadFileResponse(file=described(CONTENT if len(files.offsets) == 1 else b"else"))
        yield messages.DownloadFileResponse(chunk=CONTENT[:500_000])
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    monkeypatch.setattr(files, "DownloadFile", failing_twice)
    async with client_of(files) as client:
        with pytest.raises(ContentMismatchError, match="replaced"):
            await client.files.download("file_1", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


async def test_an_output_that_is_shorter_when_it_goes_on_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0)

    class Shrinking(Files):
        async def DownloadFile(
            self, request: Any, context: Any
        ) -> AsyncIterator[messages.DownloadFileResponse]:
            if request.offset:
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "offset lies behind the end")
            yield messages.DownloadFileResponse(file=self.file)
            yield messages.DownloadFileResponse(chunk=CONTENT[:500_000])
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    async with client_of(Shrinking()) as client:
        with pytest.raises(ContentMismatchError, match="shorter"):
            await client.files.download("file_1", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


async def test_what_can_be_read_only_once_is_not_taken_for_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with client_of(Files()) as client, asyncio.timeout(30):
        for upload in (client.files.upload, client.files.upload_directly):
            with pytest.raises(OSError, match="Not a regular file"):
                await upload(pipe)


async def test_an_error_of_a_call_that_a_source_makes_is_raised_as_it_is() -> None:
    async def another_call() -> AsyncIterator[bytes]:
        yield b"abc"
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "elsewhere"
        )

    async with client_of(Files()) as client, asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError, match="elsewhere"):
            await client.files.upload(another_call(), "numbers.bin")


async def test_a_download_that_is_cancelled_while_its_file_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = threading.Event(), threading.Event()
    take = partial_file._take

    def slowly(target: Path, sha256: str) -> Any:
        began.set()
        goes_on.wait(30)
        return take(target, sha256)

    async with client_of(Files(CONTENT)) as client:
        monkeypatch.setattr(partial_file, "_take", slowly)
        task = asyncio.create_task(client.files.download("file_1", tmp_path / "copy"))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        # All that threads had to do is done.
        await asyncio.get_running_loop().shutdown_default_executor()
    assert list(tmp_path.iterdir()) == []


async def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with client_of(Files(CONTENT)) as client:
        with pytest.raises(FileExistsError, match="Not a regular file"):
            await client.files.download("file_1", pipe)
    assert pipe.is_fifo()

"""Downloads that go on with what an earlier one has left: of the SDK, and of the command."""
# ruff: noqa: N802, ASYNC240 - the methods of generated servicers; a look into a folder blocks nobody here

import asyncio
import errno
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from millrace.files.v1 import files_service_pb2 as messages
from millrace.files.v1.files_service_pb2_grpc import add_FilesServiceServicer_to_server
from millrace_client import InternalError, Millrace, partial_file
from support.command_line import CommandLine
from support.polling import eventually
from support.scripted_files import CONTENT, Files, described
from support.scripted_server import scripted_server

_BROKEN_OFF_AT = 1_500_000


class Stopping(Files):
    """Sends a file up to a place, and then breaks off, waits, or goes on; keeps the offsets that were asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(file=described(content))
        self.content = content
        self.offsets: list[int] = []
        self.stops_at: int | None = _BROKEN_OFF_AT
        self.goes_on: asyncio.Event | None = None

    async def DownloadFile(self, request: Any, context: Any) -> AsyncIterator[messages.DownloadFileResponse]:
        self.offsets.append(request.offset)
        yield messages.DownloadFileResponse(file=self.file)
        stops_at = len(self.content) if self.stops_at is None else self.stops_at
        for start in range(request.offset, stops_at, 500_000):
            yield messages.DownloadFileResponse(chunk=self.content[start : min(start + 500_000, stops_at)])
        if self.goes_on is not None:
            await self.goes_on.wait()
            yield messages.DownloadFileResponse(chunk=self.content[stops_at:])
        elif stops_at < len(self.content):
            await context.abort(grpc.StatusCode.INTERNAL, "as told")


def serving(files: Stopping) -> AbstractAsyncContextManager[str]:
    return scripted_server(add_FilesServiceServicer_to_server, files)


@pytest.fixture
async def files() -> Stopping:
    return Stopping()


@pytest.fixture
async def client(files: Stopping) -> AsyncIterator[Millrace]:
    async with serving(files) as address, Millrace(address, org_id="acme") as client:
        yield client


async def _break_off(client: Millrace, files: Stopping, target: Path) -> Path:
    """Let a download break off, and return what is kept of it."""
    with pytest.raises(InternalError) as caught:
        await client.files.download("file_1", target, resume=True)
    assert caught.value.__notes__ == [
        "1,500,000 of 2,048,000 bytes are kept; the same download goes on from there"
    ]
    files.offsets.clear()
    files.stops_at = None
    [part] = (path for path in target.parent.iterdir() if path != target)
    assert part.name.startswith(".")
    assert part.read_bytes() == CONTENT[:_BROKEN_OFF_AT]
    return part


async def test_a_download_goes_on_with_what_has_arrived(
    client: Millrace, files: Stopping, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    target.write_bytes(b"before")
    await _break_off(client, files, target)
    assert target.read_bytes() == b"before"
    progress: list[int] = []
    await client.files.download(
        "file_1", target, resume=True, on_progress=lambda done, _: progress.append(done)
    )
    assert files.offsets == [0, _BROKEN_OFF_AT]
    assert progress == [2_000_000, 2_048_000]
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


def _damage(part: Path) -> None:
    with part.open("r+b") as file:
        file.write(b"!")


def _lengthen(part: Path) -> None:
    with part.open("ab") as file:
        file.write(bytes(len(CONTENT)))


@pytest.mark.parametrize("spoil", [_damage, _lengthen])
async def test_what_does_not_fit_is_thrown_away(
    client: Millrace, files: Stopping, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    target = tmp_path / "copy"
    spoil(await _break_off(client, files, target))
    await client.files.download("file_1", target, resume=True)
    assert files.offsets[-1] == 0
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


async def test_without_resume_a_download_begins_anew_and_leaves_nothing(
    client: Millrace, files: Stopping, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    await _break_off(client, files, target)
    files.stops_at = _BROKEN_OFF_AT
    with pytest.raises(InternalError) as caught:
        await client.files.download("file_1", target)
    assert not hasattr(caught.value, "__notes__")
    assert files.offsets == [0]
    assert list(tmp_path.iterdir()) == []


async def test_little_is_not_worth_keeping(client: Millrace, files: Stopping, tmp_path: Path) -> None:
    files.stops_at = 500_000
    with pytest.raises(InternalError):
        await client.files.download("file_1", tmp_path / "copy", resume=True)
    assert list(tmp_path.iterdir()) == []


async def test_another_content_goes_on_with_nothing(
    client: Millrace, files: Stopping, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    part = await _break_off(client, files, target)
    files.content = CONTENT[::-1]
    files.file = described(files.content)
    await client.files.download("file_1", target, resume=True)
    assert files.offsets == [0]
    assert target.read_bytes() == CONTENT[::-1]
    assert part.read_bytes() == CONTENT[:_BROKEN_OFF_AT]


async def test_two_downloads_to_one_path_do_each_other_no_harm(
    client: Millrace, files: Stopping, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    files.goes_on = asyncio.Event()
    arrived = asyncio.Event()
    first = asyncio.create_task(
        client.files.download("file_1", target, resume=True, on_progress=lambda *_: arrived.set())
    )
    await arrived.wait()
    goes_on, files.goes_on, files.stops_at = files.goes_on, None, None
    await client.files.download("file_1", target, resume=True)
    assert target.read_bytes() == CONTENT
    target.write_bytes(b"newer")
    goes_on.set()
    await first
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


async def test_a_pipe_in_the_place_of_what_was_kept_is_not_waited_for(
    client: Millrace, files: Stopping, tmp_path: Path
) -> None:
    part = await _break_off(client, files, tmp_path / "copy")
    part.unlink()
    os.mkfifo(part)
    await client.files.download("file_1", tmp_path / "copy", resume=True)
    assert (tmp_path / "copy").read_bytes() == CONTENT


async def test_a_link_in_the_place_of_what_was_kept_is_not_followed(
    client: Millrace, files: Stopping, tmp_path: Path
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    part = await _break_off(client, files, folder / "copy")
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    for lay in (part.symlink_to, part.hardlink_to):
        part.unlink()
        lay(precious)
        await client.files.download("file_1", folder / "copy", resume=True)
        assert precious.read_bytes() == b"mine"
        assert (folder / "copy").read_bytes() == CONTENT


def _know_no_locks(patch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    patch.setattr("fcntl.flock", flock)


def _give_files_to_another_user(patch: pytest.MonkeyPatch) -> None:
    """As a share does whose mount names an owner."""
    patch.setattr(os, "geteuid", lambda: os.getuid() + 1)


@pytest.mark.parametrize("differ", [_know_no_locks, _give_files_to_another_user])
async def test_where_nothing_can_be_kept_nothing_is_left(
    client: Millrace,
    files: Stopping,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    differ: Callable[[pytest.MonkeyPatch], None],
) -> None:
    differ(monkeypatch)
    with pytest.raises(InternalError):
        await client.files.download("file_1", tmp_path / "copy", resume=True)
    assert list(tmp_path.iterdir()) == []
    files.stops_at = None
    await client.files.download("file_1", tmp_path / "copy", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("stops_at", [None, _BROKEN_OFF_AT])
async def test_an_open_file_is_neither_moved_nor_removed_on_windows(
    client: Millrace,
    files: Stopping,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops_at: int | None,
) -> None:
    """There both are refused."""

    def refusing(step: Callable[..., Any]) -> Callable[..., Any]:
        def refused(path: Path, *arguments: Any, **options: Any) -> Any:
            if str(path.absolute()) in (str(file.readlink()) for file in open_files if file.is_symlink()):
                raise PermissionError(errno.EACCES, "used by another process", str(path))
            return step(path, *arguments, **options)

        return refused

    open_files = [Path(f"/proc/self/fd/{number}") for number in range(256)]
    monkeypatch.setattr(partial_file, "sys", SimpleNamespace(platform="win32"))
    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    files.stops_at = stops_at
    if stops_at is None:
        await client.files.download("file_1", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == CONTENT
    else:
        with pytest.raises(InternalError):
            await client.files.download("file_1", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == (["copy"] if stops_at is None else [])


async def test_who_stops_a_download_at_its_end_is_not_told_of_something_kept_that_is_in_its_place(
    client: Millrace, files: Stopping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    flushing, flushed = asyncio.Event(), threading.Event()

    def fsync(_: int) -> None:
        loop.call_soon_threadsafe(flushing.set)
        flushed.wait()

    monkeypatch.setattr(os, "fsync", fsync)
    files.stops_at = None
    download = asyncio.create_task(client.files.download("file_1", tmp_path / "copy", resume=True))
    await flushing.wait()
    download.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    flushed.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await download
    assert not hasattr(caught.value, "__notes__")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert (tmp_path / "copy").read_bytes() == CONTENT


async def test_what_a_full_disk_took_is_kept(client: Millrace, files: Stopping, tmp_path: Path) -> None:
    files.stops_at = None
    with _most_bytes_of_a_file(1_300_001), pytest.raises(OSError, match="File too large") as caught:
        await client.files.download("file_1", tmp_path / "copy", resume=True)
    assert caught.value.filename == str(tmp_path / "copy")
    [part] = tmp_path.iterdir()
    kept = part.stat().st_size
    assert caught.value.__notes__ == [
        f"{kept:,} of 2,048,000 bytes are kept; the same download goes on from there"
    ]
    await client.files.download("file_1", tmp_path / "copy", resume=True)
    assert files.offsets == [0, 0, kept]
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@contextmanager
def _most_bytes_of_a_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def _downloading(files: Stopping, address: str, target: Path) -> asyncio.subprocess.Process:
    """The process of a command that has received what the server sends before it waits."""
    files.goes_on = asyncio.Event()
    process = await _command(address).start("files", "download", "file_1", "--to", str(target))

    async def has_arrived() -> bool:
        return any(path.stat().st_size >= 1_048_576 for path in target.parent.iterdir())

    await eventually(has_arrived)
    files.offsets.clear()
    files.goes_on = files.stops_at = None
    return process


def _command(address: str) -> CommandLine:
    return CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})


async def test_a_download_that_is_killed_is_gone_on_with(files: Stopping, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    async with serving(files) as address:
        process = await _downloading(files, address, target)
        process.kill()
        await process.communicate()
        [part] = tmp_path.iterdir()
        kept = part.stat().st_size
        resumed = await _command(address).succeed("files", "download", "file_1", "--to", str(target))
    assert resumed.stderr == f"{kept:,} of 2,048,000 bytes are there already; going on from there\n"
    assert files.offsets == [0, kept]
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("option", [[], ["--no-resume"]])
async def test_a_command_says_what_it_keeps(files: Stopping, tmp_path: Path, option: list[str]) -> None:
    async with serving(files) as address:
        failed = await _command(address).run(
            "files", "download", "file_1", "--to", f"{tmp_path}/copy", *option
        )
    kept = "1,500,000 of 2,048,000 bytes are kept; the same download goes on from there\n"
    assert failed.code == 64 + grpc.StatusCode.INTERNAL.value[0]
    assert failed.stderr == ("" if option else kept) + "error: INTERNAL: as told\n"
    assert len(list(tmp_path.iterdir())) == (0 if option else 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_leaves_what_has_arrived(
    files: Stopping, tmp_path: Path, number: int, code: int
) -> None:
    async with serving(files) as address:
        process = await _downloading(files, address, tmp_path / "copy")
        process.send_signal(number)
        _, said = await process.communicate()
    assert process.returncode == code
    assert b"bytes are kept; the same download goes on from there" in said
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]

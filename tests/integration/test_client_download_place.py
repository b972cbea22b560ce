"""The place that a download takes: only one that is free, unless it may replace what is there."""
# ruff: noqa: ASYNC240 - a look into a folder blocks nobody here

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.files.v1.files_service_pb2_grpc import add_FilesServiceServicer_to_server
from support.command_line import CommandLine
from support.polling import eventually
from support.scripted_files import CONTENT, Files, client_of
from support.scripted_server import scripted_server


def _appear(target: Path) -> Callable[..., None]:
    def on_progress(*_: Any) -> None:
        if not os.path.lexists(target):
            target.write_bytes(b"mine")

    return on_progress


def _lead_nowhere(target: Path) -> Callable[..., None]:
    def on_progress(*_: Any) -> None:
        if not os.path.lexists(target):
            target.symlink_to("nowhere")

    return on_progress


def _know_no_links(patch: pytest.MonkeyPatch) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    patch.setattr(os, "link", link)


def _know_links(_: pytest.MonkeyPatch) -> None:
    pass


file_systems = pytest.mark.parametrize("know", [_know_links, _know_no_links])


@file_systems
async def test_what_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, know: Callable[[pytest.MonkeyPatch], None]
) -> None:
    know(monkeypatch)
    target = tmp_path / "copy"
    async with client_of(Files(CONTENT)) as client:
        with pytest.raises(FileExistsError) as caught:
            await client.files.download(
                "file_1", target, resume=True, replace=False, on_progress=_appear(target)
            )
        assert caught.value.filename == str(target)
        assert target.read_bytes() == b"mine"
        # All that has arrived is kept, and asked for no more.
        assert len(list(tmp_path.iterdir())) == 2
        there: list[tuple[int, int]] = []
        await client.files.download("file_1", target, resume=True, on_resume=lambda *done: there.append(done))
    assert there == [(len(CONTENT), len(CONTENT))]
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


async def test_a_link_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "copy"
    async with client_of(Files(CONTENT)) as client:
        with pytest.raises(FileExistsError):
            await client.files.download("file_1", target, replace=False, on_progress=_lead_nowhere(target))
    assert target.is_symlink()
    assert list(tmp_path.iterdir()) == [target]


@file_systems
@pytest.mark.parametrize("resume", [True, False])
async def test_a_free_place_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    know: Callable[[pytest.MonkeyPatch], None],
    *,
    resume: bool,
) -> None:
    know(monkeypatch)
    target = tmp_path / "copy"
    async with client_of(Files(CONTENT)) as client:
        await client.files.download("file_1", target, replace=False, resume=resume)
        with pytest.raises(FileExistsError):
            await client.files.download("file_1", target, replace=False, resume=resume)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_nlink == 1
    assert list(tmp_path.iterdir()) == [target]


class _Waiting(Files):
    """Sends the content of a file once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = asyncio.Event()

    async def DownloadFile(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.parts = (CONTENT[request.offset :],)
        async for response in super().DownloadFile(request, context):
            if response.HasField("chunk"):
                await self.goes_on.wait()
            yield response


async def test_a_command_replaces_what_appears_meanwhile_only_with_force(tmp_path: Path) -> None:
    target = tmp_path / "copy"
    files = _Waiting()

    async def has_begun() -> bool:
        return any(path.suffix == ".part" for path in tmp_path.iterdir())

    async with (
        scripted_server(add_FilesServiceServicer_to_server, files) as address,
        asyncio.timeout(60),
    ):
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        downloading = asyncio.create_task(command.run("files", "download", "file_1", "--to", str(target)))
        await eventually(has_begun)
        target.write_bytes(b"mine")
        files.goes_on.set()
        refused = await downloading
        assert refused.code == 2
        assert "2,048,000 of 2,048,000 bytes are kept" in refused.stderr
        assert "exists; --force replaces it" in " ".join(refused.stderr.replace("│", " ").split())
        assert target.read_bytes() == b"mine"
        await command.succeed("files", "download", "file_1", "--to", str(target), "--force")
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("option", [[], ["--force"]])
async def test_a_command_does_not_offer_to_replace_a_device_or_a_pipe(
    tmp_path: Path, option: list[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with scripted_server(add_FilesServiceServicer_to_server, Files(CONTENT)) as address:
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        for path in (os.devnull, str(tmp_path / "pipe")):
            refused = await command.run("files", "download", "file_1", "--to", path, *option)
            assert refused.code == 2
            said = " ".join(refused.stderr.replace("│", " ").split())
            assert "is no regular file" in said
            assert "--force" not in said

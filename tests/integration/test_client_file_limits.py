"""What the SDK asks before it uploads, how it sets limits, and what it says when the connection breaks."""
# ruff: noqa: N802, ARG002 - the methods of generated servicers

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from millrace.files.v1 import file_pb2
from millrace.files.v1 import files_service_pb2 as messages
from millrace.files.v1.files_service_pb2_grpc import add_FilesServiceServicer_to_server
from millrace_client import FileLimits, Millrace, ResourceExhaustedError, UnavailableError, upload
from support.database_proxy import DatabaseProxy
from support.scripted_files import Files, client_of

MEBIBYTE = 1024 * 1024


class Limited(Files):
    """Has little room."""

    def __init__(self, **limits: int) -> None:
        super().__init__()
        self.limits = limits

    async def GetFileUsage(self, request: Any, context: Any) -> messages.GetFileUsageResponse:
        limits = file_pb2.FileLimits(**self.limits)
        return messages.GetFileUsageResponse(
            usage=file_pb2.FileUsage(org_id=request.org_id, total_bytes=3, files=1, limits=limits)
        )


@pytest.mark.parametrize("directly", [False, True])
@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ({"max_file_bytes": 2**40}, ("files.max_file_bytes", 2**40)),
        ({"max_total_bytes": 2**40 + 3}, ("files.max_total_bytes", 2**40 + 3)),
    ],
)
async def test_a_large_file_for_which_there_is_no_room_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limits: dict[str, int],
    quota: tuple[str, int],
    *,
    directly: bool,
) -> None:
    def read(path: Path) -> None:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(upload, "_measure", read)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40 + 1)
    async with client_of(Limited(**limits)) as client:
        with pytest.raises(ResourceExhaustedError) as caught:
            await (client.files.upload_directly if directly else client.files.upload)(path)
    assert caught.value.quota is not None
    assert (caught.value.quota.name, caught.value.quota.allowed) == quota
    assert caught.value.quota.subject == "org:acme"


async def test_a_large_file_that_there_is_room_for_is_uploaded(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(65 * MEBIBYTE)
    files = Limited(max_file_bytes=65 * MEBIBYTE, max_total_bytes=65 * MEBIBYTE + 3)
    async with client_of(files) as client:
        await client.files.upload(path)
    assert sum(map(len, files.chunks)) == 65 * MEBIBYTE


async def test_what_has_no_length_does_not_go_directly() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"1"

    async with client_of(Files()) as client:
        with pytest.raises(TypeError, match="a stream goes with upload"):
            await client.files.upload_directly(stream(), "a")  # type: ignore[arg-type]


async def test_only_the_limits_that_are_given_are_set() -> None:
    asked: list[messages.UpdateFileLimitsRequest] = []

    class Settable(Files):
        async def UpdateFileLimits(self, request: Any, context: Any) -> messages.UpdateFileLimitsResponse:
            asked.append(request)
            own = file_pb2.OwnFileLimits(max_files=5, max_file_bytes=0)
            usage = file_pb2.FileUsage(
                org_id="acme",
                files=3,
                limits=file_pb2.FileLimits(max_files=5, max_total_bytes=8),
                own_limits=own,
            )
            return messages.UpdateFileLimitsResponse(usage=usage)

    async with client_of(Settable()) as client:
        usage = await client.files.update_limits(max_files=5, max_file_bytes=None)
        assert (usage.files, usage.limits) == (3, FileLimits(8, 5, 0))
        assert usage.own_limits == FileLimits(max_files=5, max_file_bytes=0)
        await client.files.set_limits(FileLimits(max_files=5))
        with pytest.raises(ValueError, match="at least one limit"):
            await client.files.update_limits()
        with pytest.raises(TypeError, match='no limit "max_fies"'):
            await client.files.update_limits(max_fies=5)  # type: ignore[call-arg]
    assert asked == [
        messages.UpdateFileLimitsRequest(
            org_id="acme",
            limits=messages.FileLimitsUpdate(max_files=5),
            update_mask=FieldMask(paths=["max_files", "max_file_bytes"]),
        ),
        messages.UpdateFileLimitsRequest(org_id="acme", limits=messages.FileLimitsUpdate(max_files=5)),
    ]


@pytest.mark.parametrize("chunks", [0, 7])
async def test_a_connection_that_breaks_is_said_in_plain_words(tmp_path: Path, chunks: int) -> None:
    server = grpc.aio.server()
    add_FilesServiceServicer_to_server(Files(), server)
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    proxy = DatabaseProxy(tmp_path / "socket")
    await proxy.connect()

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            yield bytes(MEBIBYTE)
        await proxy.cut()
        while True:
            yield bytes(MEBIBYTE)

    try:
        async with Millrace(f"127.0.0.1:{proxy.port}", org_id="acme") as client:
            with pytest.raises(UnavailableError) as caught:
                await client.files.upload(stream(), "a")
    finally:
        await server.stop(grace=0)
    words = (
        "the service stopped, or the connection to it broke",
        f"the service at 127.0.0.1:{proxy.port} cannot be reached",
    )
    assert caught.value.message.startswith(words)

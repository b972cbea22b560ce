"""Content that the SDK sends straight to an object store: a real web server that takes, refuses, breaks off or dawdles."""
# ruff: noqa: N802, ARG002 - the methods of generated servicers

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from millrace.files.v1 import file_pb2
from millrace.files.v1 import files_service_pb2 as messages
from millrace.files.v1.files_service_pb2_grpc import add_FilesServiceServicer_to_server
from millrace_client import Millrace, TransferError, Upload, direct_upload
from millrace_client.direct_upload import put_directly
from millrace_client.file_upload import read_upload
from millrace_client.values import to_timestamp
from millrace_database.database import Database
from support.command_line import CommandLine
from support.files_api import rows
from support.jobs_api import serving
from support.scripted_files import Files, client_of, described
from support.scripted_server import scripted_server

CONTENT = bytes(range(256)) * 8000

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def store(answer: Answer) -> AsyncIterator[Upload]:
    application = web.Application(client_max_size=2**30)
    application.router.add_put("/{key:.*}", answer)
    runner = web.AppRunner(application, access_log=None, lingering_time=0.1, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield read_upload(
            file_pb2.Upload(
                url=f"http://{host}:{port}/objects/a?signature=s%2F1",
                method="PUT",
                headers={"Content-Type": "text/csv"},
            )
        )
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_upload, "_FIRST_PAUSE_SECONDS", 0)


async def test_content_arrives_with_its_length_and_the_signed_headers(tmp_path: Path) -> None:
    seen: list[tuple[str, str, int, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        said = (
            request.raw_path.partition("?")[2],
            request.headers["Content-Type"],
            request.content_length or 0,
        )
        seen.append((*said, await request.read()))
        return web.Response()

    path = tmp_path / "numbers.csv"
    path.write_bytes(CONTENT)
    progress: list[tuple[int, int | None]] = []
    async with store(take) as upload:
        await put_directly(upload, path, len(CONTENT), lambda *done: progress.append(done))
        await put_directly(upload, CONTENT, len(CONTENT), None)
        await put_directly(upload, b"", 0, None)
    assert seen[0] == seen[1] == ("signature=s%2F1", "text/csv", len(CONTENT), CONTENT)
    assert seen[2][2:] == (0, b"")
    assert progress[-1] == (len(CONTENT), len(CONTENT))


async def test_a_store_that_cannot_take_it_now_is_tried_again() -> None:
    bodies: list[bytes] = []

    async def later(request: web.Request) -> web.Response:
        if not bodies:
            bodies.append(b"")
            assert request.transport is not None
            request.transport.abort()
        bodies.append(await request.read())
        return web.Response(status=503 if len(bodies) < 3 else 200)

    async with store(later) as upload:
        await put_directly(upload, CONTENT, len(CONTENT), None)
    assert bodies[-1] == CONTENT


async def test_a_store_that_never_takes_it_is_given_up() -> None:
    tries = 0

    async def never(request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        return web.Response(status=503)

    async with store(never) as upload:
        with pytest.raises(TransferError, match="503") as raised:
            await put_directly(upload, b"abc", 3, None)
    assert raised.value.retryable
    assert tries == 3


async def test_a_refusal_is_final_and_says_nothing_of_the_url() -> None:
    tries = 0

    async def refuse(request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        return web.Response(status=403)

    async with store(refuse) as upload:
        with pytest.raises(TransferError, match="403 Forbidden") as raised:
            await put_directly(upload, CONTENT, len(CONTENT), None)
    assert "signature" not in str(raised.value)
    assert not raised.value.retryable
    assert tries == 1


async def test_a_store_that_is_not_there_is_an_error() -> None:
    async def take(request: web.Request) -> web.Response:
        return web.Response()

    async with store(take) as upload:
        pass
    with pytest.raises(TransferError, match="cannot be reached"):
        await put_directly(upload, b"abc", 3, None)


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/a?b", "https://{plain}/a?b"], ids=["no name", "no TLS"]
)
async def test_whatever_keeps_a_store_from_being_reached_is_the_same_error(url: str) -> None:
    async def take(request: web.Request) -> web.Response:
        return web.Response()

    async with store(take) as upload:
        elsewhere = replace(upload, url=url.format(plain=upload.url.split("/")[2]))
        with pytest.raises(TransferError, match="cannot be reached") as raised:
            await put_directly(elsewhere, b"abc", 3, None)
    assert raised.value.retryable


async def test_a_store_that_takes_no_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_upload, "_CONNECTING_SECONDS", 0.3)
    with contextlib.ExitStack() as closing:
        deaf = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            # What waits there to be taken leaves no room for more.
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/a?b"
        upload = read_upload(file_pb2.Upload(url=url, method="PUT"))
        async with asyncio.timeout(30):
            with pytest.raises(TransferError, match="cannot be reached"):
                await put_directly(upload, b"abc", 3, None)


@asynccontextmanager
async def silent_store(*, reads: bool) -> AsyncIterator[tuple[str, list[None]]]:
    """Takes connections and answers nothing; gives its URL, and as many items as there were connections."""
    taken: list[None] = []
    ended = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(None)
        if reads:
            await reader.read()
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", taken
    finally:
        ended.set()
        server.close()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_store_that_takes_the_connection_and_answers_nothing_is_given_up(
    database: Database, tmp_path: Path, *, reads: bool
) -> None:
    async with (
        asyncio.timeout(30),
        silent_store(reads=reads) as (url, taken),
        serving(database, tmp_path, files_url=url) as api,
        Millrace(api.address, org_id="acme") as client,
    ):
        with pytest.raises(TransferError, match=r"nothing more and did not answer for 0\.2 s") as raised:
            await client.files.upload_directly(CONTENT * 10, "numbers.bin", stall_timeout=0.2)
        assert raised.value.retryable
        assert len(taken) == 3
        assert await rows(database, "file_uploads") == 0


async def test_a_path_that_changes_while_it_is_sent(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT + b"more")
    async with store(take) as upload, asyncio.timeout(30):
        await put_directly(upload, path, len(CONTENT), None)
        path.write_bytes(CONTENT[:-1])
        with pytest.raises(TransferError, match="shorter"):
            await put_directly(upload, path, len(CONTENT), None)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            await put_directly(upload, path, len(CONTENT), None)
    assert bodies == [CONTENT]


async def test_one_that_is_cancelled_ends_though_the_store_reads_nothing() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def dawdle(request: web.Request) -> web.Response:
        began.set()
        await ended.wait()
        return web.Response()

    async with store(dawdle) as upload, asyncio.timeout(20):
        task = asyncio.create_task(put_directly(upload, CONTENT * 20, len(CONTENT) * 20, None))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended.set()


async def test_an_upload_that_comes_to_nothing_stays_open_no_longer(
    database: Database, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, files_url="http://127.0.0.1:1", files_max_count=1) as api,
        Millrace(api.address, org_id="acme") as client,
    ):
        for _ in range(2):
            with pytest.raises(TransferError):
                await client.files.upload_directly(CONTENT, "numbers.bin")
        assert await rows(database, "file_uploads") == 0


async def test_an_upload_that_is_cancelled_stays_open_no_longer(database: Database, tmp_path: Path) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def dawdle(request: web.Request) -> web.Response:
        began.set()
        await ended.wait()
        return web.Response()

    async with store(dawdle) as elsewhere, asyncio.timeout(30):
        url = elsewhere.url.partition("/objects")[0]
        async with (
            serving(database, tmp_path, files_url=url) as api,
            Millrace(api.address, org_id="acme") as client,
        ):
            task = asyncio.create_task(client.files.upload_directly(CONTENT, "numbers.bin"))
            await began.wait()
            assert await rows(database, "file_uploads") == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await rows(database, "file_uploads") == 0
        ended.set()


class OlderService(Files):
    """Answers what a service of a release before `ListUploads` does, which says little of an upload."""

    def __init__(self, request: Upload, content: bytes) -> None:
        super().__init__(file=described(content))
        self.cancelled: list[str] = []
        self.upload = file_pb2.Upload(
            upload_id="upload_1",
            org_id="acme",
            url=request.url,
            method=request.method,
            headers=request.headers,
            expires_at=to_timestamp(datetime.now(UTC) + timedelta(hours=1)),
        )

    async def InitiateUpload(self, request: Any, context: Any) -> messages.InitiateUploadResponse:
        return messages.InitiateUploadResponse(upload=self.upload)

    async def CancelUpload(self, request: Any, context: Any) -> messages.CancelUploadResponse:
        self.cancelled.append(request.upload_id)
        return messages.CancelUploadResponse()

    async def ConfirmUpload(self, request: Any, context: Any) -> messages.ConfirmUploadResponse:
        return messages.ConfirmUploadResponse(file=self.file)


async def test_an_older_service_gets_all_of_the_content() -> None:
    received: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    async with store(take) as request, client_of(OlderService(request, CONTENT)) as client:
        await client.files.upload_directly(CONTENT, "numbers.csv")
    assert received == [CONTENT]


async def test_a_command_gives_the_request_of_an_older_service() -> None:
    async def take(request: web.Request) -> web.Response:
        return web.Response()

    async with (
        store(take) as request,
        scripted_server(add_FilesServiceServicer_to_server, OlderService(request, CONTENT)) as address,
    ):
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        begun = await command.succeed("files", "uploads", "begin", "numbers.csv", "--size", "3")
    assert "--upload-file ./numbers.csv " in begun.stdout.splitlines()[-1]


async def test_a_command_that_finds_no_store_says_so_and_what_it_did_not_try(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"abc")
    service = OlderService(read_upload(file_pb2.Upload(url="http://127.0.0.1:1/a?b", method="PUT")), b"abc")
    async with scripted_server(add_FilesServiceServicer_to_server, service) as address:
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        paths = [f"{tmp_path}/{name}" for name in "abc"]
        failed = await command.run("files", "upload", *paths, "--direct")
    assert failed.code == 64 + grpc.StatusCode.UNAVAILABLE.value[0]
    assert failed.stderr.splitlines() == [
        f"error: {paths[0]}: UNAVAILABLE: the object store at 127.0.0.1:1 cannot be reached: Connection refused",
        f"  not tried: {paths[1]} and 1 more",
    ]
    assert service.cancelled == ["upload_1"]


async def test_a_command_that_is_terminated_cancels_its_upload(tmp_path: Path) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def dawdle(request: web.Request) -> web.Response:
        began.set()
        await ended.wait()
        return web.Response()

    (tmp_path / "a.csv").write_bytes(CONTENT)
    async with store(dawdle) as elsewhere, asyncio.timeout(30):
        service = OlderService(elsewhere, CONTENT)
        async with scripted_server(add_FilesServiceServicer_to_server, service) as address:
            command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
            process = await command.start("files", "upload", f"{tmp_path}/a.csv", "--direct")
            await began.wait()
            process.terminate()
            assert await process.communicate() == (b"", b"")
        ended.set()
    assert process.returncode == 128 + signal.SIGTERM
    assert service.cancelled == ["upload_1"]

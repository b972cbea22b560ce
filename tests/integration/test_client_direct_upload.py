"""Content that the SDK sends straight to an object store: a real web server that takes, refuses, breaks off or dawdles."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from millrace.files.v1 import file_pb2
from millrace_client import TransferError, direct_upload
from millrace_client.direct_upload import put_directly

CONTENT = bytes(range(256)) * 8000

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def store(answer: Answer) -> AsyncIterator[file_pb2.Upload]:
    application = web.Application(client_max_size=2**30)
    application.router.add_put("/objects/{key}", answer)
    runner = web.AppRunner(application, access_log=None, lingering_time=0.1, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield file_pb2.Upload(
            url=f"http://{host}:{port}/objects/a?signature=s%2F1",
            method="PUT",
            headers={"Content-Type": "text/csv"},
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
        return web.Response(status=503 if len(bodies) < 4 else 200)

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
    assert tries == 4


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

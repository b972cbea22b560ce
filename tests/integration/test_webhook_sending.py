"""One POST to servers that answer in strange ways."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from millrace_worker.handlers import host_lookup
from millrace_worker.handlers.host_lookup import HostLookup
from millrace_worker.handlers.webhook_sending import Answer, SendingError, post
from millrace_worker.threads import ThreadPool
from support.deliveries import webhook_server

_PROMISE = b"HTTP/1.1 102 Processing\r\n\r\n"

_Talk: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _talking(talk: _Talk) -> AsyncIterator[str]:
    """The URL of a server that reads the head of a request, and then says something."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await talk(writer)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"


async def _without_end(writer: asyncio.StreamWriter, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()


async def _post_to(name: str) -> Answer:
    return await post(f"https://{name}.example.com/", b"", {}, allow_private=False)


async def test_an_answer_that_is_promised_for_ever_is_given_up() -> None:
    async def talk(writer: asyncio.StreamWriter) -> None:
        await _without_end(writer, iter(lambda: _PROMISE * 100, b""))

    async with _talking(talk) as url:
        with pytest.raises(SendingError, match="no valid answer: TooManyInterimError"):
            await post(url, b"{}", {}, allow_private=True)


async def test_some_promises_are_waited_out() -> None:
    async def talk(writer: asyncio.StreamWriter) -> None:
        writer.write(_PROMISE * 5 + b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async with _talking(talk) as url:
        assert await post(url, b"{}", {}, allow_private=True) == Answer(204, "")


async def test_a_head_without_end_is_given_up() -> None:
    async def talk(writer: asyncio.StreamWriter) -> None:
        await _without_end(writer, iter(lambda: b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000, b""))

    async with _talking(talk) as url:
        with pytest.raises(SendingError):
            await post(url, b"{}", {}, allow_private=True)


async def test_of_a_body_without_end_the_head_is_enough() -> None:
    async def talk(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n")
        await _without_end(writer, iter(lambda: b"1000\r\n" + b"x" * 0x1000 + b"\r\n", b""))

    async with _talking(talk) as url:
        assert await post(url, b"{}", {}, allow_private=True) == Answer(503, "7")


async def test_name_servers_that_do_not_answer_hold_up_no_other_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many are asked at once as a worker posts at once, and some more whose posts have been given up."""
    answers, asked = threading.Event(), []
    resolve = HostLookup.resolve

    def look_up(host: str, **_options: Any) -> Any:
        if host != "quick.example.com":
            answers.wait()
        raise socket.gaierror("no such name")

    async def noted(self: HostLookup, host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return await resolve(self, host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(HostLookup, "resolve", noted)
    slow = [asyncio.create_task(_post_to(f"slow-{number}")) for number in range(100)]
    try:
        async with asyncio.timeout(20):
            while len(asked) < len(slow):
                await asyncio.sleep(0)
            with pytest.raises(SendingError, match=r"quick\.example\.com cannot be resolved"):
                await _post_to("quick")
    finally:
        answers.set()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_what_was_given_up_is_not_looked_up_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_lookup, "_threads", ThreadPool(1))
    answers = threading.Event()
    looked_up = []

    def look_up(host: str, **_options: Any) -> Any:
        looked_up.append(host)
        answers.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    first, second, third = [asyncio.create_task(_post_to(name)) for name in ("first", "second", "third")]
    async with asyncio.timeout(20):
        while not looked_up:
            await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    answers.set()
    await asyncio.gather(first, third, return_exceptions=True)
    assert sorted(looked_up) == ["first.example.com", "third.example.com"]


async def test_what_is_large_is_posted_whole() -> None:
    body = b"x" * 2_000_000
    async with webhook_server() as server:
        assert (await post(server.url, body, {}, allow_private=True)).status == 200
        [(headers, received)] = server.received
    assert received == body
    assert headers["content-length"] == "2000000"

"""A server that lives is waited for, however slow it is, or the way to it, or this process."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Event

import pytest
from aiohttp import web

from millrace_storage.s3_client import S3Configuration
from millrace_storage.s3_object_store import S3ObjectStore
from millrace_storage.s3_silence import SilenceTimes
from support.object_stores import keys, put, read
from support.polling import eventually
from support.s3_disturbances import Silence
from support.s3_server import S3Bucket

KEY = "org-acme/4f/object"
QUESTION = ("HEAD", "/")
NEVER = 3600.0
TIMES = SilenceTimes(patience_seconds=0.2, question_seconds=2.0, pause_seconds=NEVER)
MEBIBYTE = 1 << 20


@pytest.fixture
async def silence(s3_bucket: S3Bucket) -> AsyncIterator[Silence]:
    """The server's to what asks for an object, until it ends."""
    silence = Silence()
    silence.of = lambda request: request.raw_path != "/"
    s3_bucket.proxy.always.append(silence)
    yield silence
    silence.drop()


async def _is_waited_for(store: S3ObjectStore, bucket: S3Bucket, silence: Silence) -> None:
    async def is_asked_twice() -> bool:
        return asking.done() or bucket.proxy.requests.count(QUESTION) >= 2

    asking = asyncio.create_task(store.head(KEY))
    await eventually(is_asked_twice)
    silence.end()
    assert await asking is None


async def test_a_process_that_is_held_up_takes_nobody_for_silent(
    s3_bucket: S3Bucket, silence: Silence
) -> None:
    async def hold_up(request: web.BaseRequest, _: bytes) -> None:
        if request.raw_path == "/":
            time.sleep(1.0)  # noqa: ASYNC251 - as a handler of a job may that computes

    s3_bucket.proxy.always.insert(0, hold_up)
    times = replace(TIMES, question_seconds=0.5)
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, silence=times)) as store:
        await _is_waited_for(store, s3_bucket, silence)


async def test_an_end_without_an_answer_is_a_sign_of_life(s3_bucket: S3Bucket, silence: Silence) -> None:
    async def hang_up(request: web.BaseRequest, _: bytes) -> None:
        if request.raw_path == "/" and request.transport is not None:
            request.transport.close()

    s3_bucket.proxy.always.insert(0, hang_up)
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, silence=TIMES)) as store:
        await _is_waited_for(store, s3_bucket, silence)


async def test_a_process_without_a_free_thread_takes_nobody_for_silent(
    s3_bucket: S3Bucket, silence: Silence
) -> None:
    """As where handlers of jobs compute in all threads that names are looked up in."""
    endpoint = s3_bucket.proxy.url.replace("127.0.0.1", "localhost")
    configuration = replace(s3_bucket.through_proxy, endpoint=endpoint, silence=TIMES)
    async with s3_bucket.store_with(configuration) as store:
        silence.of = lambda _: False
        assert await store.head(KEY) is None
        silence.of = lambda request: request.raw_path != "/"
        loop = asyncio.get_running_loop()
        free = Event()
        with ThreadPoolExecutor(1) as threads:
            loop.set_default_executor(threads)
            threads.submit(free.wait)
            try:
                await _is_waited_for(store, s3_bucket, silence)
            finally:
                free.set()


async def test_a_name_that_is_looked_up_for_long_takes_nobody_for_silent(
    s3_bucket: S3Bucket, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the first of two name servers is away."""
    endpoint = s3_bucket.proxy.url.replace("127.0.0.1", "localhost")
    times = replace(TIMES, question_seconds=0.5)
    configuration = replace(s3_bucket.through_proxy, endpoint=endpoint, silence=times)
    look_up = socket.getaddrinfo

    def look_up_slowly(*args: object, **options: object) -> object:
        time.sleep(1.0)
        return look_up(*args, **options)  # type: ignore[arg-type]

    async with s3_bucket.store_with(configuration) as store:
        monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
        await _is_waited_for(store, s3_bucket, silence)


async def test_who_waits_for_a_connection_is_not_given_up(s3_bucket: S3Bucket) -> None:
    """The one connection is taken by a slow download for longer than an answer may take."""
    begun = asyncio.Event()

    async def give_slowly(request: web.BaseRequest, _: bytes) -> web.StreamResponse | None:
        if request.method != "GET":
            return None
        headers = {"ETag": '"x"', "Content-Length": "30", "Content-Range": "bytes 0-29/30"}
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        begun.set()
        for _step in range(30):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    s3_bucket.proxy.always.append(give_slowly)
    configuration = replace(s3_bucket.through_proxy, read_seconds=1.0, attempts=1, pool_size=1)
    async with s3_bucket.store_with(configuration) as store, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read(store, KEY))
        await begun.wait()
        await put(store, KEY, b"content")
    assert reading.result() == b"x" * 30
    assert await keys(s3_bucket.store()) == [KEY]


@asynccontextmanager
async def _slow_line(bytes_per_second: int) -> AsyncIterator[str]:
    """Gives a server behind a line on which what comes first is sent first: a question waits behind all else."""
    line = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for field in head.decode().split("\r\n"):
            if field.lower().startswith("content-length:"):
                length = int(field.split(":")[1])
        if b"100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with line:
            while length:
                part = await reader.read(min(length, 64 * 1024))
                length -= len(part)
                await asyncio.sleep(len(part) / bytes_per_second)
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
        await writer.drain()
        writer.close()

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        listener.bind(("127.0.0.1", 0))
        async with await asyncio.start_server(answer, sock=listener, limit=64 * 1024) as server:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.close()


async def test_a_slow_uplink_is_no_silence(s3_bucket: S3Bucket) -> None:
    async with _slow_line(2 * MEBIBYTE) as url:
        configuration = S3Configuration(
            endpoint=url, attempts=1, silence=replace(TIMES, question_seconds=0.5)
        )
        async with s3_bucket.store_with(configuration) as store:
            stored = await store.put(KEY, _content(4), expected_bytes=4 * MEBIBYTE)
    assert stored.size_bytes == 4 * MEBIBYTE


async def _content(mebibytes: int) -> AsyncIterator[bytes]:
    for _ in range(mebibytes):
        yield bytes(MEBIBYTE)


async def test_a_bucket_that_alone_can_be_reached_is_asked_itself(
    s3_bucket: S3Bucket, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the bucket stands in the name, and a firewall or a name server knows no other names."""
    endpoint = s3_bucket.proxy.url.replace("127.0.0.1", "s3.test")
    look_up = socket.getaddrinfo

    def look_up_bucket(host: str, *args: object, **options: object) -> object:
        if host == "s3.test":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return look_up("127.0.0.1", *args, **options)  # type: ignore[arg-type]

    async def answer(request: web.BaseRequest, _: bytes) -> web.Response | None:
        return web.Response(status=204) if request.method == "DELETE" else None

    async def is_asked_twice() -> bool:
        return deleting.done() or s3_bucket.proxy.requests.count(QUESTION) >= 2

    s3_bucket.proxy.always.append(answer)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_bucket)
    configuration = replace(s3_bucket.through_proxy, endpoint=endpoint, path_style=False, silence=TIMES)
    async with s3_bucket.store_with(configuration) as store:
        deleting = asyncio.create_task(store.delete(KEY))
        await eventually(is_asked_twice)
        silence.end()
        await deleting

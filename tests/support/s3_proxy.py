"""A way to an S3 server that a test can disturb."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp
from aiohttp import web
from yarl import URL

Disturbance = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse | None]]
"""Answers a request, given its body, instead of the server; None: lets it pass."""

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect"})


class S3Proxy:
    """Passes requests on as they are, signed for the proxy's own address, unless it is to disturb them."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream.rstrip("/")
        self._session = session
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        """Methods and paths, with their queries, of all requests so far."""
        self.always: list[Disturbance] = []
        """Asked about every request, one after the other, before it is passed on."""
        self.cuts: deque[int] = deque()
        """After how many bytes of its body each of the next answers to GETs is cut."""
        self.lost: Callable[[web.BaseRequest], bool] = lambda _: False
        """Which answers are lost: the server has done what was asked, and nobody is told."""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path))
        body = await request.content.read()
        for disturbance in self.always:
            response = await disturbance(request, body)
            if response is not None:
                return response
        headers = [
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
        ]
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method,
            url,
            headers=headers,
            data=BytesIO(body) if body else None,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        ) as answer:
            content = await answer.read()
        if self.lost(request):
            return _break_off(request)
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                response.headers.add(name, value)
        if request.method == "HEAD":
            return response
        response.content_length = len(content)
        if request.method == "GET" and self.cuts:
            await response.prepare(request)
            await response.write(content[: self.cuts.popleft()])
            return _break_off(request)
        await response.prepare(request)
        await response.write(content)
        return response


@asynccontextmanager
async def s3_proxy(upstream: str) -> AsyncIterator[S3Proxy]:
    """Gives a proxy on a free port of this machine."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
        proxy = S3Proxy(upstream, session)
        runner = web.ServerRunner(web.Server(_admitted(proxy), access_log=None), shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            await runner.cleanup()


def _admitted(proxy: S3Proxy) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # That was no part of the answer.
            request.writer.output_size = 0
        try:
            return await proxy.answer(request)
        except aiohttp.ClientError:
            return _break_off(request)

    return answer


def _break_off(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)

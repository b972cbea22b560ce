"""The HTTP server for presigned content of the local store."""

import asyncio
import logging
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.presigned_content import PresignedContent

_logger = logging.getLogger(__name__)

_MAX_REQUESTS = 10_000
_STALLED_AFTER_SECONDS = 60.0
_IDLE_SECONDS = 60.0
_LINGERING_SECONDS = 5.0
_CLOSING_SECONDS = 1.0


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is about anything else than what a client sent that is not HTTP: anybody can send that."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_logger.addFilter(_is_ours)


class PresignedServer:
    """Serves presigned requests of a local store over HTTP, from entering its context to leaving it.

    Leaving it stops taking requests, gives those at work `grace_seconds` to end, and then breaks them off; nothing
    stays of an upload that was broken off. Access is not logged: the URLs are secrets.
    """

    def __init__(
        self,
        store: LocalObjectStore,
        host: str,
        port: int,
        *,
        advertised_host: str | None = None,
        grace_seconds: float = 8.0,
        max_requests: int = _MAX_REQUESTS,
        stalled_after: float = _STALLED_AFTER_SECONDS,
    ) -> None:
        """Take where to listen (port 0: any free one) and under which name clients find that, `host` by default.

        A client that does not send or take 64 KiB in `stalled_after` seconds is given up. So many requests are answered at
        a time, each in some 300 KiB of memory; further ones get 503.
        """
        self._store = store
        self._host = host
        self._port = port
        self._advertised_host = advertised_host or host
        self._grace_seconds = grace_seconds
        self._max_requests = max_requests
        self._stalled_after = stalled_after
        self._at_work: set[asyncio.Task[object]] = set()
        self._stopping = False
        self._content: PresignedContent
        self._runner: web.ServerRunner
        self._url: str

    @property
    def url(self) -> str:
        """The URL that presigned URLs begin with, without a slash at its end; known once the server listens."""
        return self._url

    @property
    def port(self) -> int:
        """The port; known once the server listens."""
        return self._port

    async def __aenter__(self) -> Self:
        signer = await self._store.signer()
        server = web.Server(
            self._answer,
            access_log=None,
            logger=_logger,
            auto_decompress=False,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGERING_SECONDS,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_CLOSING_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        host = f"[{self._advertised_host}]" if ":" in self._advertised_host else self._advertised_host
        if self._store.files_url is None:
            self._store.files_url = f"http://{host}:{self._port}"
        self._url = self._store.files_url.rstrip("/")
        self._content = PresignedContent(self._store, signer, self._url, stalled_after=self._stalled_after)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for site in self._runner.sites:
            await site.stop()
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=self._grace_seconds)
        for task in self._at_work:
            task.cancel()
        if self._at_work:
            await asyncio.wait(self._at_work)
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is None or self._stopping or len(self._at_work) >= self._max_requests:
            response: web.StreamResponse = web.Response(status=503, headers={"Retry-After": "1"})
            # Nobody reads what else comes.
            response.force_close()
        else:
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
            response = await self._content.answer(request)
        if self._stopping:
            response.force_close()
        return response

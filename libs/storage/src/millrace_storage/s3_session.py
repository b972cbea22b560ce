"""The HTTP sessions of an S3 client."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from io import BytesIO
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from millrace_storage.s3_parts import size_of
from millrace_storage.s3_silence import SilenceWatch

_UNSENT_BYTES = 128 * 1024

# What the task that makes a request is to tell when there is a connection for it.
_connecting: ContextVar["_Taking"] = ContextVar("connecting")


def watched_session(watch: SilenceWatch, read_seconds: float) -> type[AIOHTTPSession]:
    """Return sessions whose requests fail with StoreUnavailableError, and are not repeated, when the server is silent.

    A server that lives has `read_seconds` to take more of a body, too, for which aiohttp would wait without an end.
    """

    class WatchedSession(AIOHTTPSession):
        def __init__(self, *, connector_args: Mapping[str, Any] | None = None, **options: Any) -> None:
            super().__init__(
                connector_args={**(connector_args or {}), "socket_factory": _socket_without_store}, **options
            )

        async def send(self, request: Any) -> Any:
            body = request.body if isinstance(request.body, BytesIO) else BytesIO()
            async with watch.answer_due(_server(request.url), body.tell):
                try:
                    async with _Taking(body, read_seconds):
                        return await super().send(request)
                except ConnectTimeoutError:
                    # That took long, and each repetition would take as long again.
                    await watch.ask()
                    raise
                except TimeoutError as error:
                    raise ReadTimeoutError(endpoint_url=request.url, error=error) from error

        async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
            # Where it makes a session there is no other place to say what that is to tell of.
            session: aiohttp.ClientSession = await super()._get_session(proxy_url)  # type: ignore[misc]
            if _CONNECTIONS not in session.trace_configs:
                session.trace_configs.append(_CONNECTIONS)
            return session

    return WatchedSession


def _server(url: str) -> str:
    # With the bucket in its name there may be no way to the one without.
    return urlsplit(url)._replace(path="/", query="", fragment="").geturl()


class _Taking:
    """Raises TimeoutError in its block when nothing of a body is taken for so long, or twice that, and some is left.

    Time in which there is no connection yet does not count: others may have all that there are to be.
    """

    def __init__(self, body: BytesIO, seconds: float) -> None:
        self._body: BytesIO | None = body
        self._taken = body.tell()
        self._seconds = seconds
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        self._before = _connecting.set(self)
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The connection keeps the context that it was made in, and thereby this, but not the body.
        self._body = None
        _connecting.reset(self._before)
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def begin(self) -> None:
        """Say that there is a connection."""
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        if self._body is None:
            return
        before, self._taken = self._taken, self._body.tell()
        if before == self._taken < size_of(self._body):
            self._limit.reschedule(asyncio.get_running_loop().time())
        else:
            self._look_later()


def _socket_without_store(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket that takes little more than is sent: what of a body is taken tells then how far it has come."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    # Not every kernel, or what stands for one, can do that.
    with suppress(OSError):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return made


async def _tell_connected(*_: object) -> None:
    _connecting.get().begin()


def _connections() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_connection_create_end.append(_tell_connected)
    config.on_connection_reuseconn.append(_tell_connected)
    config.freeze()
    return config


_CONNECTIONS = _connections()

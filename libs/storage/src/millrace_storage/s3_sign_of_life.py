"""Asking an S3 server for nothing but an answer."""

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from botocore.httpsession import ProxyConfiguration
from botocore.utils import get_environ_proxies
from yarl import URL

# Where the first of two name servers is away, each name takes 5.
_LOOKING_UP_SECONDS = 10.0
# What a loop that is held up finds when it goes on was not late.
_TICKS = 20

_Addresses: TypeAlias = list[ResolveResult]


async def gives_sign_of_life(url: str, seconds: float) -> bool:
    """Return whether a server answers within a time; a refusal is an answer, and so is an end of the connection.

    Looking up its name may take 10 seconds more. Time in which the event loop is held up does not count.
    """
    proxy = ProxyConfiguration(proxies=get_environ_proxies(url)).proxy_url_for(url)
    try:
        async with _time_of_loop(_LOOKING_UP_SECONDS):
            addresses = await _looked_up(URL(proxy or url))
        async with _time_of_loop(seconds):
            await _ask(url, proxy, addresses)
    except aiohttp.ClientSSLError:
        return True
    except (aiohttp.ClientConnectorError, socket.gaierror, TimeoutError):
        return False
    except (aiohttp.ClientError, OSError):
        # Something that can be no answer of S3, or an end without one: a server that is silent gives nothing.
        return True
    return True


async def _ask(url: str, proxy: str | None, addresses: _Addresses) -> None:
    # On a connection of its own: those that wait for answers may be all there are, or be broken. Nothing that is secret
    # is sent, and nothing that comes is believed, so that it does not matter who answers.
    connector = aiohttp.TCPConnector(limit=1, force_close=True, ssl=False, resolver=_Known(addresses))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session,
        session.head(url, allow_redirects=False, proxy=proxy),
    ):
        pass


async def _looked_up(url: URL) -> _Addresses:
    # In a thread of its own: all others may be at work for long.
    threads = ThreadPoolExecutor(1, "sign-of-life")
    try:
        found = await asyncio.get_running_loop().run_in_executor(
            threads, lambda: socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        )
    finally:
        threads.shutdown(wait=False)
    return [
        ResolveResult(
            hostname=url.host or "",
            host=str(address[0]),
            port=int(address[1]),
            family=family,
            proto=protocol,
            flags=socket.AI_NUMERICHOST,
        )
        for family, _, protocol, _, address in found
    ]


class _Known(AbstractResolver):
    """Gives addresses that are known already."""

    def __init__(self, addresses: _Addresses) -> None:
        self._addresses = addresses

    async def resolve(self, *_: object, **__: object) -> _Addresses:
        return self._addresses

    async def close(self) -> None:
        """Do nothing: nothing is open."""


@asynccontextmanager
async def _time_of_loop(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError in this block when it takes longer, not counting the time in which nothing here could go on."""
    loop = asyncio.get_running_loop()
    step = seconds / _TICKS
    left = _TICKS
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal left, timer
        if loop.time() < timer.when() + step:
            left -= 1
        if left:
            timer = loop.call_later(step, tick)
        else:
            limit.reschedule(loop.time())

    timer = loop.call_later(step, tick)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    finally:
        timer.cancel()

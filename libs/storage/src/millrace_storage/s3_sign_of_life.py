"""Asking an S3 server for nothing but an answer."""

import asyncio
from contextlib import suppress

import aiohttp
from botocore.httpsession import ProxyConfiguration
from botocore.utils import get_environ_proxies


async def gives_sign_of_life(url: str, seconds: float) -> bool:
    """Return whether a server answers within a time; a refusal is an answer."""
    proxy = ProxyConfiguration(proxies=get_environ_proxies(url)).proxy_url_for(url)
    # On a connection of its own: those that wait for answers may be all there are, or be broken. Nothing that is secret
    # is sent, and nothing that comes is believed, so that it does not matter who answers.
    connector = aiohttp.TCPConnector(limit=1, force_close=True, ssl=False)
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with (
            asyncio.timeout(seconds),
            aiohttp.ClientSession(connector=connector) as session,
            session.head(url, allow_redirects=False, proxy=proxy),
        ):
            return True
    return False

"""Presigned requests written byte by byte, as no HTTP client would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from millrace_storage.object_store import PresignedRequest


@asynccontextmanager
async def connected(
    request: PresignedRequest,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server of a request."""
    url = urlsplit(request.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def head(request: PresignedRequest, *, target: str | None = None, **headers: str) -> bytes:
    """What a client sends before the content, with other headers if given ("_" for "-")."""
    url = urlsplit(request.url)
    lines = [f"{request.method} {target or f'{url.path}?{url.query}'} HTTP/1.1", f"Host: {url.netloc}"]
    sent = {**request.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in sent.items()), "", ""]).encode()


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the answer that comes."""
    return int((await reader.readline()).split()[1])

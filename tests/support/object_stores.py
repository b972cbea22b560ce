"""Every kind of object store, for tests that all of them are to pass."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import ObjectStore, PresignedRequest
from millrace_storage.presigned_server import PresignedServer
from support.s3_server import S3Server, new_bucket

KINDS = ("local", "s3")


@asynccontextmanager
async def open_store(
    kind: str, folder: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ObjectStore]:
    """Gives an empty store of a kind whose presigned requests are answered."""
    if kind == "local":
        store = LocalObjectStore(folder / "root")
        async with PresignedServer(store, "127.0.0.1", 0):
            yield store
        await store.close()
    else:
        async with new_bucket(server, monkeypatch) as bucket:
            yield bucket.store()


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    """The chunks, one by one."""
    for chunk in chunks:
        yield chunk


async def put(store: ObjectStore, key: str, content: bytes = b"x") -> None:
    """Stores an object."""
    await store.put(key, chunks_of(content))


async def read(store: ObjectStore, key: str, **bounds: int) -> bytes:
    """All bytes of an object, or those between the bounds."""
    return b"".join([chunk async for chunk in await store.get(key, **bounds)])


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """The keys of all objects below a prefix."""
    return [stored.key async for stored in store.list(prefix)]


async def unfinished_keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """The keys of all unfinished writes below a prefix."""
    return [write.key async for write in store.list_unfinished(prefix)]


async def send(
    request: PresignedRequest, content: bytes | None = None, *, url: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Makes a presigned request as any HTTP client would, with other headers if given ("_" for "-")."""
    sent = {**request.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            request.method,
            URL(url or request.url, encoded=True),
            data=None if content is None else BytesIO(content),
            headers=sent,
            skip_auto_headers=("Content-Type",),
        ) as answer,
    ):
        return answer.status, {n.lower(): v for n, v in answer.headers.items()}, await answer.read()

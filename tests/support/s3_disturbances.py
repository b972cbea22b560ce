"""Ways to disturb requests to S3, and all of its uses at a stroke."""

import asyncio
import os
from collections.abc import Callable

from aiohttp import web

from millrace_storage.s3_object_store import S3ObjectStore
from support.object_stores import keys, put, read, unfinished_keys
from support.s3_proxy import Disturbance

LONG = os.urandom(17 << 20)
"""The content of an object of four parts."""

# By their method and a parameter of the query, or a header.
_OPERATIONS: dict[str, tuple[str, str]] = {
    "begin": ("POST", "uploads"),
    "part": ("PUT", "partNumber"),
    "complete": ("POST", "uploadId"),
    "copy": ("PUT", "x-amz-copy-source"),
    "delete batch": ("POST", "delete"),
    "list": ("GET", "list-type"),
    "list uploads": ("GET", "uploads"),
}


class Silence:
    """Takes requests of a kind, at first all, and answers none of them until it is over."""

    def __init__(self) -> None:
        self.of: Callable[[web.BaseRequest], bool] = lambda _: True
        self._over = asyncio.Event()
        self._is_dropped = False

    async def __call__(self, request: web.BaseRequest, _: bytes) -> web.Response | None:
        if not self._over.is_set() and self.of(request):
            await self._over.wait()
            if self._is_dropped:
                return web.Response(status=503)
        return None

    def end(self) -> None:
        """Have all done that was asked for."""
        self._over.set()

    def drop(self) -> None:
        """Have nothing of it done."""
        self._is_dropped = True
        self._over.set()


def answering(
    response: Callable[[], web.Response], *, times: int | None = None, to: Callable[[web.BaseRequest], bool]
) -> Disturbance:
    """Answers so to the first requests of a kind, or to all of them."""
    left = times

    async def disturb(request: web.BaseRequest, _: bytes) -> web.Response | None:
        nonlocal left
        if left == 0 or not to(request):
            return None
        left = None if left is None else left - 1
        return response()

    return disturb


def is_operation(name: str) -> Callable[[web.BaseRequest], bool]:
    """Whether a request is of this operation."""
    method, mark = _OPERATIONS[name]
    return lambda request: request.method == method and (mark in request.query or mark in request.headers)


async def do_everything(store: S3ObjectStore) -> None:
    """Does what a store does, and sees that it was done."""
    await put(store, "a", b"short")
    await put(store, "b", LONG)
    assert await read(store, "a") == b"short"
    assert await read(store, "b") == LONG
    assert await store.head("none") is None
    assert (await store.move("b", "c")).size_bytes == len(LONG)
    assert await keys(store) == ["a", "c"]
    assert await unfinished_keys(store) == []
    assert await store.delete_many(["a", "none"]) == {}
    await store.delete("c")
    assert await keys(store) == []

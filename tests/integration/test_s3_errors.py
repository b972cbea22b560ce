"""What a caller is told when S3 does not do what it is asked."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from millrace_storage.object_store import (
    StoreRefusedError,
    StoreUnavailableError,
)
from millrace_storage.s3_object_store import S3ObjectStore
from support.object_stores import chunks_of, keys, put, read, unfinished_keys
from support.s3_disturbances import LONG, answering, do_everything
from support.s3_presigned import refusal
from support.s3_server import S3Bucket

KEY = "org-acme/4f/object"
MEBIBYTE = 1 << 20


async def test_an_error_that_passes_is_not_noticed(s3_bucket: S3Bucket) -> None:
    seen: set[tuple[str, tuple[str, ...]]] = set()

    async def disturb(request: web.BaseRequest, _: bytes) -> web.Response | None:
        """Refuses the first request of each kind."""
        kind = (request.method, tuple(request.query))
        if kind in seen:
            return None
        seen.add(kind)
        return refusal(503, "SlowDown") if len(seen) % 2 else refusal(500, "InternalError")

    s3_bucket.proxy.always.append(disturb)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        await do_everything(store)
    assert len(seen) > 8


@pytest.mark.parametrize("status", [503, 429])
async def test_an_error_that_does_not_pass(s3_bucket: S3Bucket, status: int) -> None:
    await put(s3_bucket.store(), KEY, LONG)
    s3_bucket.proxy.always.append(answering(lambda: refusal(status, "SlowDown"), to=lambda _: True))
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, attempts=2)) as store:
        await _all_fail(store, StoreUnavailableError)
    assert await read(s3_bucket.store(), KEY) == LONG


async def test_a_server_that_is_not_there(s3_bucket: S3Bucket) -> None:
    nobody = replace(s3_bucket.server.configuration, endpoint="http://127.0.0.1:9", attempts=1)
    async with s3_bucket.store_with(nobody) as store:
        await _all_fail(store, StoreUnavailableError)


async def test_a_server_that_is_silent(s3_bucket: S3Bucket) -> None:
    async def say_nothing(_: web.BaseRequest, __: bytes) -> web.Response | None:
        await asyncio.Event().wait()
        return None

    s3_bucket.proxy.always.append(say_nothing)
    configuration = replace(s3_bucket.through_proxy, attempts=1, read_seconds=0.2)
    async with s3_bucket.store_with(configuration) as store:
        await _all_fail(store, StoreUnavailableError)


async def test_a_server_that_speaks_no_s3(s3_bucket: S3Bucket) -> None:
    s3_bucket.proxy.always.append(answering(lambda: web.Response(text="<html>welcome"), to=lambda _: True))
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, attempts=1)) as store:
        with pytest.raises(StoreUnavailableError):
            await keys(store)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed"),
        (400, "ExpiredToken"),
        (404, "NoSuchBucket"),
    ],
)
async def test_a_refusal_says_why_and_no_secret(s3_bucket: S3Bucket, status: int, code: str) -> None:
    await put(s3_bucket.store(), KEY)
    s3_bucket.proxy.always.append(answering(lambda: refusal(status, code), to=lambda _: True))
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        await _all_fail(store, StoreRefusedError, match=f"{code}|{status}")
    assert await keys(s3_bucket.store()) == [KEY]


async def test_a_bucket_that_does_not_exist(s3_bucket: S3Bucket) -> None:
    store = S3ObjectStore(s3_bucket.clients, f"{s3_bucket.name}-none")
    await _all_fail(store, StoreRefusedError)


async def test_without_credentials(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with s3_bucket.store_with(s3_bucket.server.configuration) as store:
        await _all_fail(store, StoreRefusedError, match="NoCredentials")


async def _all_fail(store: S3ObjectStore, error: type[Exception], match: str = ".") -> None:
    """Every call fails so, and the text tells no secret."""

    async def fails(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(error, match=match) as failed:
            await call()
        assert "http" not in str(failed.value)
        assert os.environ.get("AWS_SECRET_ACCESS_KEY", "none") not in str(failed.value)

    await asyncio.gather(*(fails(call) for call in _calls(store)))


def _calls(store: S3ObjectStore) -> list[Callable[[], Awaitable[object]]]:
    async def listed() -> None:
        await keys(store)

    async def unfinished() -> None:
        await unfinished_keys(store)

    return [
        lambda: store.put("short", chunks_of(b"x")),
        lambda: store.put("long", chunks_of(LONG)),
        lambda: store.get(KEY),
        lambda: store.head(KEY),
        lambda: store.delete(KEY),
        lambda: store.delete_many([KEY]),
        lambda: store.move(KEY, "new"),
        listed,
        unfinished,
    ]

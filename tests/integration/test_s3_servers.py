"""What servers other than AWS, and other users of a bucket, may do."""

import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from millrace_storage.object_store import (
    StoredObject,
    StoreUnavailableError,
)
from support.object_stores import chunks_of, keys, put, read, unfinished_keys
from support.s3_disturbances import LONG, answering, do_everything, is_operation
from support.s3_presigned import refusal
from support.s3_server import S3Bucket

KEY = "org-acme/4f/object"
MEBIBYTE = 1 << 20


async def test_no_checksums_are_sent_that_some_servers_refuse(s3_bucket: S3Bucket) -> None:
    async def refuse(request: web.BaseRequest, _: bytes) -> web.Response | None:
        names = {name.lower() for name in request.headers}
        if (
            any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in names)
            or names & {"x-amz-trailer", "x-amz-decoded-content-length"}
            or "aws-chunked" in request.headers.get("Content-Encoding", "")
            or "STREAMING" in request.headers.get("x-amz-content-sha256", "")
        ):
            return refusal(400, "NotImplemented")
        return None

    s3_bucket.proxy.always.append(refuse)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        await do_everything(store)
    assert any(method == "POST" and "delete" in path for method, path in s3_bucket.proxy.requests)


async def test_bodies_are_sent_with_their_md5(s3_bucket: S3Bucket) -> None:
    checked = set()

    async def demand(request: web.BaseRequest, body: bytes) -> web.Response | None:
        if request.method == "PUT" and "x-amz-copy-source" in request.headers:
            return None
        if request.method == "PUT" or is_operation("delete batch")(request):
            digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            if request.headers.get("Content-MD5") != digest:
                return refusal(400, "InvalidDigest")
            checked.add(request.raw_path)
        return None

    s3_bucket.proxy.always.append(demand)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        await do_everything(store)
    # One short object, four parts, one batch.
    assert len(checked) == 6


@pytest.mark.parametrize(
    ("status", "code"),
    [(501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "MalformedXML"), (400, "InvalidRequest")],
)
async def test_a_server_that_does_not_delete_batches(s3_bucket: S3Bucket, status: int, code: str) -> None:
    s3_bucket.proxy.always.append(answering(lambda: refusal(status, code), to=is_operation("delete batch")))
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        for number in range(40):
            await put(store, f"org/{number:02}")
        assert await store.delete_many([f"org/{number:02}" for number in range(1, 60)]) == {}
        assert await keys(store) == ["org/00"]
        assert await store.delete_many(["org/00"]) == {}
        assert await keys(store) == []
    batches = [path for method, path in s3_bucket.proxy.requests if method == "POST"]
    assert len(batches) == 1


async def test_what_cannot_be_deleted_is_named(s3_bucket: S3Bucket) -> None:
    answer = (
        '<?xml version="1.0" encoding="UTF-8"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Error><Key>kept</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        "<Error><Key>gone</Key><Code>NoSuchKey</Code><Message>no</Message></Error></DeleteResult>"
    )
    disturb = answering(
        lambda: web.Response(text=answer, content_type="application/xml"), to=is_operation("delete batch")
    )
    s3_bucket.proxy.always.append(disturb)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        assert await store.delete_many(["deleted", "kept", "gone"]) == {"kept": "AccessDenied"}


async def test_what_cannot_be_deleted_one_by_one_is_named(s3_bucket: S3Bucket) -> None:
    await put(s3_bucket.store(), "a")
    s3_bucket.proxy.always.append(
        answering(lambda: refusal(501, "NotImplemented"), to=is_operation("delete batch"))
    )
    s3_bucket.proxy.always.append(
        answering(lambda: refusal(403, "AccessDenied"), to=lambda request: request.path.endswith("/kept"))
    )
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        failed = await store.delete_many(["a", "kept"])
        assert list(failed) == ["kept"]
        assert "AccessDenied" in failed["kept"]
        assert await keys(store) == []


async def test_one_by_one_nothing_is_asked_of_a_server_that_is_away(s3_bucket: S3Bucket) -> None:
    s3_bucket.proxy.always.append(
        answering(lambda: refusal(501, "NotImplemented"), to=is_operation("delete batch"))
    )
    s3_bucket.proxy.always.append(
        answering(lambda: refusal(503, "SlowDown"), to=lambda request: request.method == "DELETE")
    )
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, attempts=1)) as store:
        with pytest.raises(StoreUnavailableError):
            await store.delete_many([f"org/{number}" for number in range(1000)])
    assert len(s3_bucket.proxy.requests) < 50


async def test_a_server_that_knows_no_conditions_replaces_what_is_created(s3_bucket: S3Bucket) -> None:
    s3_bucket.proxy.always.append(
        answering(
            lambda: refusal(501, "NotImplemented"), to=lambda request: "If-None-Match" in request.headers
        )
    )
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        for content in (b"first", b"second"):
            assert await store.create(KEY, content)
            assert await read(store, KEY) == content


async def test_objects_of_others_are_passed_over(s3_bucket: S3Bucket) -> None:
    for key in ("a key", "ä", "folder/", ".hidden"):
        await s3_bucket.clients.own.put_object(Bucket=s3_bucket.name, Key=key)
    for key in ("a key", "ä", ".hidden"):
        await s3_bucket.clients.own.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    store = s3_bucket.store()
    await put(store, KEY)
    assert await keys(store) == [KEY]
    assert await unfinished_keys(store) == []


async def test_any_bucket_of_a_server_and_how_it_is_reached(s3_bucket: S3Bucket) -> None:
    through_proxy = s3_bucket.through_proxy
    async with s3_bucket.store_with(through_proxy) as store:
        await put(store, KEY)
        assert [path.partition("?")[0] for _, path in s3_bucket.proxy.requests] == [
            f"/{s3_bucket.name}/{KEY}"
        ]
        assert (store.provider, store.bucket) == ("s3", s3_bucket.name)


async def test_the_stored_object_tells_the_time_of_the_server(s3_bucket: S3Bucket) -> None:
    stored = await s3_bucket.store().put(KEY, chunks_of(b"x"))
    found = await s3_bucket.store().head(KEY)
    assert isinstance(found, StoredObject)
    assert abs((stored.written_at - found.written_at).total_seconds()) <= 2


@pytest.mark.parametrize("text", ["<html>We are back soon</html>", "", "<DeleteResult>"])
@pytest.mark.parametrize("operation", ["begin", "complete", "copy", "delete batch", "list", "list uploads"])
async def test_what_a_server_answers_that_is_not_s3_is_not_believed(
    s3_bucket: S3Bucket, operation: str, text: str
) -> None:
    await put(s3_bucket.store(), "a")
    s3_bucket.proxy.always.append(
        answering(lambda: web.Response(text=text, content_type="text/html"), to=is_operation(operation))
    )
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "begin": lambda: put(store, "b", LONG),
            "complete": lambda: put(store, "b", LONG),
            "copy": lambda: store.move("a", "b"),
            "delete batch": lambda: store.delete_many(["a"]),
            "list": lambda: keys(store),
            "list uploads": lambda: unfinished_keys(store),
        }
        if (operation, text) == ("delete batch", ""):
            # Some answer so when everything is gone.
            assert await calls[operation]() == {}
        else:
            with pytest.raises(StoreUnavailableError):
                await calls[operation]()
    assert await keys(s3_bucket.store()) == ["a"]
    assert await s3_bucket.unfinished() == []


@pytest.mark.parametrize("length", [1, len(LONG)])
async def test_content_that_nobody_says_to_have_is_not_stored(s3_bucket: S3Bucket, length: int) -> None:
    s3_bucket.proxy.always.append(
        answering(lambda: web.Response(text="<html/>"), to=lambda request: request.method == "PUT")
    )
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        with pytest.raises(StoreUnavailableError):
            await put(store, KEY, LONG[:length])
    assert await s3_bucket.unfinished() == []


async def test_an_object_is_not_taken_for_there_because_a_proxy_answers(s3_bucket: S3Bucket) -> None:
    s3_bucket.proxy.always.append(answering(lambda: web.Response(text="<html/>"), to=lambda _: True))
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        with pytest.raises(StoreUnavailableError):
            await store.head(KEY)
        with pytest.raises(StoreUnavailableError):
            await store.get(KEY)


async def test_what_a_proxy_answered_to_a_part_is_no_part_of_an_object(s3_bucket: S3Bucket) -> None:
    await put(s3_bucket.store(), KEY, LONG)
    s3_bucket.proxy.always.append(
        answering(lambda: web.Response(text="<html/>"), times=2, to=lambda request: request.method == "GET")
    )
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, pool_size=1)) as store:
        assert await read(store, KEY) == LONG

"""What becomes of downloads and uploads when the network or the server fails in the middle."""

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from millrace_storage.object_store import (
    ObjectMissingError,
    StoreRefusedError,
    StoreUnavailableError,
)
from support.object_stores import chunks_of, keys, put, read
from support.s3_disturbances import LONG, answering, is_operation
from support.s3_presigned import refusal
from support.s3_server import S3Bucket

KEY = "org-acme/4f/object"
MEBIBYTE = 1 << 20


async def test_a_download_that_is_cut_goes_on_where_it_was(s3_bucket: S3Bucket) -> None:
    await put(s3_bucket.store(), KEY, LONG)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        s3_bucket.proxy.cuts.extend([0, 100_000, 1, 300_000, 262_144, 0, 4_000_000])
        assert await read(store, KEY) == LONG
        assert not s3_bucket.proxy.cuts
        s3_bucket.proxy.cuts.extend([5, 5])
        assert await read(store, KEY, start=1_000_000, end=1_000_100) == LONG[1_000_000:1_000_100]


async def test_a_download_that_is_cut_again_and_again_fails(s3_bucket: S3Bucket) -> None:
    await put(s3_bucket.store(), KEY, LONG)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        chunks = await store.get(KEY)
        first = await anext(chunks)
        s3_bucket.proxy.cuts.extend([0] * 20)
        with pytest.raises(StoreUnavailableError):
            async for _ in chunks:
                pass
        assert first == LONG[: len(first)]


async def test_an_object_that_is_replaced_while_the_download_was_cut_is_missing(s3_bucket: S3Bucket) -> None:
    await put(s3_bucket.store(), KEY, LONG)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        chunks = await store.get(KEY)
        await anext(chunks)
        s3_bucket.proxy.cuts.append(1000)
        await put(s3_bucket.store(), KEY, bytes(len(LONG)))
        with pytest.raises(ObjectMissingError):
            async for _ in chunks:
                pass


@pytest.mark.parametrize("status", [416, 206])
async def test_an_object_that_ends_too_early_is_missing_and_no_shorter_one(
    s3_bucket: S3Bucket, status: int
) -> None:
    """As of a server that looks at the range before it looks whether the object is still the same, or gives nothing."""
    await put(s3_bucket.store(), KEY, LONG)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        chunks = await store.get(KEY)
        await anext(chunks)
        ends = answering(
            lambda: web.Response(status=status, headers={"ETag": '"etag"'}), to=lambda r: r.method == "GET"
        )
        s3_bucket.proxy.always.append(ends)
        with pytest.raises(ObjectMissingError):
            async for _ in chunks:
                pass


async def test_no_connection_is_held_while_nobody_takes_chunks(s3_bucket: S3Bucket) -> None:
    await put(s3_bucket.store(), KEY, LONG)
    configuration = replace(s3_bucket.server.configuration, pool_size=1)
    async with s3_bucket.store_with(configuration) as store, asyncio.timeout(30):
        readers = [await store.get(KEY) for _ in range(3)]
        contents = [b"", b"", b""]
        for number in range(3):
            contents[number] += await anext(readers[number])
        await put(store, "another")
        for number, reader in enumerate(readers):
            async for chunk in reader:
                contents[number] += chunk
        assert contents == [LONG] * 3


@pytest.mark.parametrize("part", [1, 2, 3])
async def test_a_part_that_is_refused_leaves_nothing(s3_bucket: S3Bucket, part: int) -> None:
    await put(s3_bucket.store(), KEY, b"before")
    s3_bucket.proxy.always.append(
        answering(
            lambda: refusal(403, "AccessDenied"),
            to=lambda request: f"partNumber={part}" in request.raw_path,
        )
    )
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        with pytest.raises(StoreRefusedError):
            await put(store, KEY, LONG)
    assert await s3_bucket.unfinished() == []
    assert await read(s3_bucket.store(), KEY) == b"before"


async def test_a_completion_that_fails_after_its_headers_is_made_again(s3_bucket: S3Bucket) -> None:
    """S3 answers to it with status 200, and says in the body that it did not succeed."""
    error = (
        '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>no</Message></Error>'
    )
    disturb = answering(
        lambda: web.Response(text=error, content_type="application/xml"), times=1, to=is_operation("complete")
    )
    s3_bucket.proxy.always.append(disturb)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        await put(store, KEY, LONG)
        assert await read(store, KEY) == LONG


async def test_a_completion_that_always_fails_leaves_nothing(s3_bucket: S3Bucket) -> None:
    error = (
        '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>no</Message></Error>'
    )
    await put(s3_bucket.store(), KEY, b"before")
    disturb = answering(
        lambda: web.Response(text=error, content_type="application/xml"), to=is_operation("complete")
    )
    s3_bucket.proxy.always.append(disturb)
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        with pytest.raises(StoreUnavailableError):
            await put(store, KEY, LONG)
    assert await s3_bucket.unfinished() == []
    assert await read(s3_bucket.store(), KEY) == b"before"


async def test_a_completion_whose_answers_are_lost_has_succeeded(s3_bucket: S3Bucket) -> None:
    s3_bucket.proxy.lost = is_operation("complete")
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        stored = await store.put(KEY, chunks_of(LONG))
    assert stored.size_bytes == len(LONG)
    assert await read(s3_bucket.store(), KEY) == LONG


async def test_a_write_whose_answers_are_lost_leaves_nothing(s3_bucket: S3Bucket) -> None:
    s3_bucket.proxy.lost = lambda request: request.method == "PUT"
    async with s3_bucket.store_with(replace(s3_bucket.through_proxy, attempts=2)) as store:
        for content in (b"short", LONG):
            with pytest.raises(StoreUnavailableError):
                await put(store, KEY, content)
            assert await s3_bucket.unfinished() == []
            assert await keys(s3_bucket.store()) == []


async def test_what_cannot_be_taken_back_is_logged_and_found_later(
    s3_bucket: S3Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_parts = answering(lambda: refusal(403, "AccessDenied"), to=is_operation("part"))
    refuse_aborts = answering(
        lambda: refusal(403, "AccessDenied"), to=lambda request: request.method == "DELETE"
    )
    s3_bucket.proxy.always.extend([refuse_parts, refuse_aborts])
    async with s3_bucket.store_with(s3_bucket.through_proxy) as store:
        with pytest.raises(StoreRefusedError, match="UploadPart"):
            await put(store, KEY, LONG)
    assert KEY in caplog.text
    store = s3_bucket.store()
    (write,) = [write async for write in store.list_unfinished(KEY)]
    await store.abort_unfinished(write)
    assert await s3_bucket.unfinished() == []

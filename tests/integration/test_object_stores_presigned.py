"""Presigned requests of every object store, made by an HTTP client that knows nothing else."""

import asyncio
import os
import re
from datetime import timedelta
from urllib.parse import unquote

import pytest

from millrace_storage.object_store import ObjectStore
from support.object_stores import chunks_of, keys, put, read, send
from support.polling import eventually

KEY = "org-acme/4f/object"
AN_HOUR = timedelta(hours=1)
REFUSED = (400, 403, 411, 413)


async def test_putting(store: ObjectStore) -> None:
    content = os.urandom(3_000_000)
    request = await store.presign_put(
        KEY, size_bytes=len(content), content_type="text/csv; charset=utf-8", expires_in=AN_HOUR
    )
    assert request.method == "PUT"
    assert {name.lower() for name in request.headers} == {"content-length", "content-type"}
    status, *_ = await send(request, content)
    assert status == 200
    assert await read(store, KEY) == content


async def test_putting_nothing(store: ObjectStore) -> None:
    request = await store.presign_put(KEY, size_bytes=0, content_type="text/plain", expires_in=AN_HOUR)
    status, *_ = await send(request, b"")
    assert status == 200
    assert await read(store, KEY) == b""


@pytest.mark.parametrize("size", [0, 9, 11, 1_000_000])
async def test_another_length_is_refused(store: ObjectStore, size: int) -> None:
    request = await store.presign_put(KEY, size_bytes=10, content_type="text/plain", expires_in=AN_HOUR)
    status, *_ = await send(request, bytes(size), Content_Length=str(size))
    assert status in REFUSED
    assert await keys(store) == []


async def test_another_type_is_refused(store: ObjectStore) -> None:
    request = await store.presign_put(KEY, size_bytes=1, content_type="text/plain", expires_in=AN_HOUR)
    status, *_ = await send(request, b"x", Content_Type="text/html")
    assert status in REFUSED
    assert await keys(store) == []


async def test_what_was_not_signed_is_refused(store: ObjectStore) -> None:
    await put(store, KEY, b"secret")
    await put(store, "org-acme/4f/another", b"secret")
    download = await store.presign_get(KEY, file_name="a.txt", content_type="text/plain", expires_in=AN_HOUR)
    upload = await store.presign_put(KEY, size_bytes=1, content_type="text/plain", expires_in=AN_HOUR)
    for request, content in ((download, None), (upload, b"x")):
        url = request.url
        signature = re.search(r"(?i)signature=([0-9a-f]{64})", url)
        assert signature is not None
        wrong = signature[1][:-1] + ("0" if signature[1][-1] != "0" else "1")
        for tampered in (
            url.replace(KEY, "org-acme/4f/another"),
            url.replace(KEY, "org-acme/4f/new"),
            url.replace(signature[1], wrong),
            re.sub(r"(?i)(expires=)(\d+)", lambda found: f"{found[1]}{int(found[2]) + 1}", url),
        ):
            assert tampered != url
            status, _, answer = await send(request, content, url=tampered)
            assert status in REFUSED
            assert b"secret" not in answer
    assert (await send(download))[0] == 200
    assert await keys(store) == ["org-acme/4f/another", KEY]


async def test_a_download_cannot_upload_and_the_reverse(store: ObjectStore) -> None:
    await put(store, KEY, b"secret")
    download = await store.presign_get(KEY, file_name="a.txt", content_type="text/plain", expires_in=AN_HOUR)
    upload = await store.presign_put(KEY, size_bytes=1, content_type="text/plain", expires_in=AN_HOUR)
    status, *_ = await send(upload, b"x", url=download.url)
    assert status in REFUSED
    status, _, answer = await send(download, url=upload.url)
    assert status in REFUSED
    assert b"secret" not in answer
    assert await read(store, KEY) == b"secret"


async def test_when_its_time_is_over_it_is_refused(store: ObjectStore) -> None:
    await put(store, KEY)
    second = timedelta(seconds=1)
    download = await store.presign_get(KEY, file_name="a.txt", content_type="text/plain", expires_in=second)
    upload = await store.presign_put("late", size_bytes=1, content_type="text/plain", expires_in=second)

    async def over() -> bool:
        return (await send(download))[0] == 403

    await eventually(over)

    async def refused() -> bool:
        return (await send(upload, b"x"))[0] == 403

    await eventually(refused)


@pytest.mark.parametrize(
    "name",
    [
        "report.csv",
        "Überblick 2026.pdf",
        "日本語.txt",
        'quo"te\\s; filename=evil.exe.txt',
        "100% & more?#=+.txt",
        "line\r\nX-Evil: 1.txt",
        "👩‍👩‍👧 family.png",
        "a" * 200 + ".txt",
    ],
)
async def test_downloads_have_their_name_and_type(store: ObjectStore, name: str) -> None:
    await put(store, KEY, b"content")
    request = await store.presign_get(
        KEY, file_name=name, content_type="text/csv; charset=utf-8", expires_in=AN_HOUR
    )
    assert request.method == "GET"
    status, headers, content = await send(request)
    assert (status, content) == (200, b"content")
    assert headers["content-type"] == "text/csv; charset=utf-8"
    assert "x-evil" not in headers
    offered = re.fullmatch(
        r"""attachment; filename="([^"\\]*)"(?:; filename\*=UTF-8''([A-Za-z0-9%!#$&+^`|_.~-]+))?""",
        headers["content-disposition"],
    )
    assert offered is not None
    wanted = re.sub("[\r\n]", "_", name)
    assert (unquote(offered[2], errors="strict") if offered[2] else offered[1]) == wanted


async def test_downloading_a_part(store: ObjectStore) -> None:
    content = os.urandom(2_000_000)
    await put(store, KEY, content)
    request = await store.presign_get(KEY, file_name="a", content_type="text/plain", expires_in=AN_HOUR)
    status, headers, part = await send(request, Range="bytes=1000-1500000")
    assert status == 206
    assert headers["content-range"] == "bytes 1000-1500000/2000000"
    assert part == content[1000:1_500_001]
    status, _, whole = await send(request)
    assert (status, whole) == (200, content)


async def test_what_is_gone_is_not_found(store: ObjectStore) -> None:
    request = await store.presign_get(KEY, file_name="a", content_type="text/plain", expires_in=AN_HOUR)
    # S3 tells only those who may list a bucket that something is not there.
    assert (await send(request))[0] in (403, 404)
    await store.put(KEY, chunks_of(b"x"))
    assert (await send(request))[0] == 200
    await store.delete(KEY)
    assert (await send(request))[0] in (403, 404)


async def test_urls_and_headers_are_kept_out_of_texts(store: ObjectStore) -> None:
    request, _ = await asyncio.gather(
        store.presign_put(KEY, size_bytes=1, content_type="text/plain", expires_in=AN_HOUR),
        put(store, "another"),
    )
    assert "http" not in repr(request)

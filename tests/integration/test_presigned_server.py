import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from millrace_storage import LocalObjectStore, PresignedRequest, StoreRefusedError, StoreUnavailableError
from millrace_storage.presigned_server import PresignedServer
from support.object_stores import keys, put, read, send
from support.polling import eventually
from support.raw_requests import connected, head, status_of

KEY = "org-acme/4f/object"
AN_HOUR = timedelta(hours=1)
PAST = timedelta(seconds=-2)
MEBIBYTE = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "root")


@pytest.fixture
async def server(store: LocalObjectStore) -> AsyncIterator[PresignedServer]:
    async with PresignedServer(store, "127.0.0.1", 0) as serving:
        yield serving


def _residue(store: LocalObjectStore) -> list[str]:
    return [p.name for p in store.root.rglob("*") if not p.is_dir() and p.name != ".presigning-key"]


async def _to_put(store: LocalObjectStore, size: int, expires_in: timedelta = AN_HOUR) -> PresignedRequest:
    return await store.presign_put(KEY, size_bytes=size, content_type="text/csv", expires_in=expires_in)


async def _to_get(store: LocalObjectStore, expires_in: timedelta = AN_HOUR) -> PresignedRequest:
    return await store.presign_get(KEY, file_name="a.csv", content_type="text/csv", expires_in=expires_in)


async def test_putting_again_replaces(store: LocalObjectStore, server: PresignedServer) -> None:
    request = await _to_put(store, 3)
    assert request.url.startswith(f"{server.url}/{KEY}?")
    for content in (b"one", b"two"):
        assert (await send(request, content))[0] == 200
        assert await read(store, KEY) == content
    assert _residue(store) == ["object"]


@pytest.mark.parametrize(
    ("asked", "part", "name"),
    [
        ("bytes=0-0", b"0", "0-0"),
        ("bytes=2-4", b"234", "2-4"),
        ("bytes=7-", b"789", "7-9"),
        ("bytes=-2", b"89", "8-9"),
        ("bytes=-99", b"0123456789", "0-9"),
        ("bytes=5-99", b"56789", "5-9"),
    ],
)
async def test_a_part(
    store: LocalObjectStore, server: PresignedServer, asked: str, part: bytes, name: str
) -> None:
    await put(store, KEY, b"0123456789")
    status, headers, content = await send(await _to_get(store), Range=asked)
    assert (status, content) == (206, part)
    assert headers["content-range"] == f"bytes {name}/10"
    assert headers["content-length"] == str(len(part))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0", f"bytes={10**30}-"])
async def test_a_part_behind_the_end(store: LocalObjectStore, server: PresignedServer, asked: str) -> None:
    await put(store, KEY, b"0123456789")
    status, headers, _ = await send(await _to_get(store), Range=asked)
    assert (status, headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize(
    "asked", ["bytes=4-2", "bytes=-", "bytes=0-1,4-5", "lines=0-1", "bytes=a-b", f"bytes={'9' * 5000}-"]
)
async def test_a_part_that_is_not_understood_is_all(
    store: LocalObjectStore, server: PresignedServer, asked: str
) -> None:
    await put(store, KEY, b"0123456789")
    status, headers, content = await send(await _to_get(store), Range=asked)
    assert (status, content) == (200, b"0123456789")
    assert "content-range" not in headers


async def test_a_part_on_a_condition_that_cannot_be_checked_is_all(
    store: LocalObjectStore, server: PresignedServer
) -> None:
    await put(store, KEY, b"0123456789")
    status, _, content = await send(await _to_get(store), Range="bytes=2-4", If_Range='"other"')
    assert (status, content) == (200, b"0123456789")


async def test_the_head_of_a_download(store: LocalObjectStore, server: PresignedServer) -> None:
    await put(store, KEY, b"0123456789")
    download = await _to_get(store)
    heads = PresignedRequest("HEAD", download.url, download.headers)
    status, headers, content = await send(heads)
    assert (status, content) == (200, b"")
    assert headers["content-length"] == "10"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-type"] == "text/csv"
    assert headers["content-disposition"] == 'attachment; filename="a.csv"'
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, _ = await send(heads, Range="bytes=2-4")
    assert (status, headers["content-length"], headers["content-range"]) == (206, "3", "bytes 2-4/10")


async def test_an_empty_object(store: LocalObjectStore, server: PresignedServer) -> None:
    assert (await send(await _to_put(store, 0), b""))[0] == 200
    status, headers, content = await send(await _to_get(store))
    assert (status, headers["content-length"], content) == (200, "0", b"")
    assert (await send(await _to_get(store), Range="bytes=0-"))[0] == 416


async def test_after_its_time_nothing_is_allowed(store: LocalObjectStore, server: PresignedServer) -> None:
    await put(store, KEY, b"old")
    for request, content in ((await _to_put(store, 3, PAST), b"new"), (await _to_get(store, PAST), None)):
        status, _, said = await send(request, content)
        assert (status, b"old" in said) == (403, False)
    assert await read(store, KEY) == b"old"


async def test_methods_and_pages_of_other_origins(store: LocalObjectStore, server: PresignedServer) -> None:
    await put(store, KEY, b"0123456789")
    download = await _to_get(store)
    status, headers, _ = await send(
        PresignedRequest("OPTIONS", download.url),
        Origin="https://app.example",
        Access_Control_Request_Method="PUT",
    )
    assert status == 204
    assert headers["access-control-allow-origin"] == "*"
    assert {"GET", "PUT"} <= set(headers["access-control-allow-methods"].split(", "))
    assert {"Content-Type", "Range"} <= set(headers["access-control-allow-headers"].split(", "))
    _, headers, _ = await send(download, Origin="https://app.example")
    assert headers["access-control-allow-origin"] == "*"
    for method in ("POST", "DELETE", "PATCH", "TRACE"):
        status, headers, _ = await send(PresignedRequest(method, download.url))
        assert (status, headers["allow"]) == (405, "GET, HEAD, PUT")
    assert await keys(store) == [KEY]


async def test_without_a_length_nothing_is_taken(store: LocalObjectStore, server: PresignedServer) -> None:
    request = await _to_put(store, 3)
    for headers, body in (({}, b""), ({"Transfer_Encoding": "chunked"}, b"3\r\none\r\n0\r\n\r\n")):
        bare = PresignedRequest("PUT", request.url, {"Content-Type": "text/csv"})
        async with connected(bare) as (reader, writer):
            writer.write(head(bare, **headers) + body)
            assert await status_of(reader) == 411
    assert _residue(store) == []


async def test_a_body_is_asked_for_only_when_it_is_allowed(
    store: LocalObjectStore, server: PresignedServer
) -> None:
    request = await _to_put(store, 3)
    async with connected(request) as (reader, writer):
        writer.write(head(request, Expect="100-continue"))
        assert await status_of(reader) == 100
        assert await reader.readline() == b"\r\n"
        writer.write(b"one")
        assert await status_of(reader) == 200
    async with connected(request) as (reader, writer):
        writer.write(head(request, Expect="100-continue", Content_Type="text/html"))
        assert await status_of(reader) == 403
    assert await read(store, KEY) == b"one"


async def test_encoded_content_is_kept_as_it_is(store: LocalObjectStore, server: PresignedServer) -> None:
    request = await _to_put(store, 3)
    async with connected(request) as (reader, writer):
        writer.write(head(request, Content_Encoding="gzip") + b"one")
        assert await status_of(reader) == 200
    assert await read(store, KEY) == b"one"


async def test_a_client_that_goes_leaves_nothing(store: LocalObjectStore, server: PresignedServer) -> None:
    request = await _to_put(store, 10 * MEBIBYTE)
    async with connected(request) as (_, writer):
        writer.write(head(request) + bytes(MEBIBYTE))
        await eventually(lambda: asyncio.to_thread(_residue, store))
    await eventually(lambda: asyncio.to_thread(lambda: not _residue(store)))
    assert await keys(store) == []


async def test_a_client_that_stalls_leaves_nothing(store: LocalObjectStore) -> None:
    async with PresignedServer(store, "127.0.0.1", 0, stalled_after=0.05):
        request = await _to_put(store, 10 * MEBIBYTE)
        async with connected(request) as (reader, writer):
            writer.write(head(request) + bytes(MEBIBYTE))
            assert await status_of(reader) == 408
        assert _residue(store) == []


async def test_no_more_requests_are_answered_at_a_time_than_allowed(store: LocalObjectStore) -> None:
    await put(store, KEY, b"content")
    async with PresignedServer(store, "127.0.0.1", 0, max_requests=2):
        to_get, to_put = await _to_get(store), await _to_put(store, 2 * MEBIBYTE)
        async with connected(to_put) as (reader, writer), connected(to_put) as (other_reader, other_writer):
            for one in (writer, other_writer):
                one.write(head(to_put) + bytes(MEBIBYTE))

            async def are_full() -> bool:
                return await asyncio.to_thread(lambda: len(_residue(store)) == 3)

            await eventually(are_full)
            status, headers, _ = await send(to_get)
            assert (status, headers["retry-after"]) == (503, "1")
            writer.write(bytes(MEBIBYTE))
            assert await status_of(reader) == 200
            assert (await send(to_get))[0] == 200
            other_writer.write(bytes(MEBIBYTE))
            assert await status_of(other_reader) == 200


async def test_a_client_that_takes_nothing_is_given_up(store: LocalObjectStore) -> None:
    await put(store, KEY, bytes(64 * MEBIBYTE))
    async with PresignedServer(store, "127.0.0.1", 0, stalled_after=0.05) as server:
        request = await _to_get(store)
        async with connected(request) as (reader, writer):
            writer.write(head(request))
            await eventually(lambda: asyncio.sleep(0, result=server._at_work))
            await eventually(lambda: asyncio.sleep(0, result=not server._at_work))
            taken = 0
            with suppress(ConnectionError):
                while some := await reader.read(MEBIBYTE):
                    taken += len(some)
            assert taken < 64 * MEBIBYTE


async def test_what_is_removed_while_it_is_read_breaks_off(
    store: LocalObjectStore, server: PresignedServer
) -> None:
    await put(store, KEY, bytes(64 * MEBIBYTE))
    request = await _to_get(store)
    async with aiohttp.ClientSession() as session, session.get(URL(request.url, encoded=True)) as answer:
        await answer.content.readany()
        await store.delete(KEY)
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_requests_at_work_may_end_when_the_server_stops(store: LocalObjectStore) -> None:
    server = PresignedServer(store, "127.0.0.1", 0, grace_seconds=60)
    await server.__aenter__()
    request = await _to_put(store, 2 * MEBIBYTE)
    async with connected(request) as (reader, writer):
        writer.write(head(request) + bytes(MEBIBYTE))
        await eventually(lambda: asyncio.to_thread(_residue, store))
        stopping = asyncio.create_task(server.__aexit__(None, None, None))

        async def refuses() -> bool:
            try:
                async with connected(request):
                    return False
            except ConnectionError:
                return True

        await eventually(refuses)
        assert not stopping.done()
        writer.write(bytes(MEBIBYTE))
        assert await status_of(reader) == 200
        await stopping
    assert await keys(store) == [KEY]


async def test_requests_that_do_not_end_are_broken_off(store: LocalObjectStore) -> None:
    async with PresignedServer(store, "127.0.0.1", 0, grace_seconds=0):
        upload = await _to_put(store, 2 * MEBIBYTE)
        async with connected(upload) as (_, writer):
            writer.write(head(upload) + bytes(MEBIBYTE))
            await eventually(lambda: asyncio.to_thread(_residue, store))
    assert _residue(store) == []


async def test_errors_of_the_store_are_logged_once_without_the_signature(
    store: LocalObjectStore,
    server: PresignedServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError("No space left on device")

    monkeypatch.setattr(store, "put", fail)
    request = await _to_put(store, 3)
    with caplog.at_level(logging.DEBUG):
        status, _, said = await send(request, b"one")
    assert (status, b"space" in said) == (503, False)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert KEY in record.getMessage()
    assert request.url.partition("signature=")[2] not in caplog.text


async def test_what_clients_do_is_not_logged(
    store: LocalObjectStore, server: PresignedServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await send(await _to_put(store, 3), b"one")
        await send(await _to_get(store))
        await send(await _to_get(store, PAST))
        async with connected(await _to_get(store)) as (reader, writer):
            writer.write(b"no HTTP\r\n\r\n")
            assert await status_of(reader) == 400
    assert caplog.records == []


async def test_where_nothing_is_served_nothing_is_signed(store: LocalObjectStore) -> None:
    with pytest.raises(StoreRefusedError):
        await _to_get(store)


async def test_a_server_behind_another_url(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "root", files_url="https://files.example/content/")
    await put(store, KEY, b"content")
    async with PresignedServer(store, "127.0.0.1", 0) as server:
        assert server.url == "https://files.example/content"
        download = await _to_get(store)
        assert download.url.startswith(f"{server.url}/{KEY}?")
        for path in ("", "/content"):
            url = f"http://127.0.0.1:{server.port}{path}{download.url.removeprefix(server.url)}"
            status, _, content = await send(download, url=url)
            assert (status, content) == (200, b"content")


async def test_the_port_may_be_taken(store: LocalObjectStore, server: PresignedServer) -> None:
    with pytest.raises(OSError, match="address already in use"):
        async with PresignedServer(store, "127.0.0.1", server.port):
            pass

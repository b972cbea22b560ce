import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace_storage import LocalObjectStore, PresignedRequest, StoreRefusedError
from millrace_storage.presigned_server import PresignedServer
from support.object_stores import keys, put, read, send
from support.raw_requests import connected, head

KEY = "org-acme/4f/object"
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "root")


@pytest.fixture
async def server(store: LocalObjectStore) -> AsyncIterator[PresignedServer]:
    async with PresignedServer(store, "127.0.0.1", 0) as serving:
        yield serving


async def _to_put(store: LocalObjectStore, size: int) -> PresignedRequest:
    return await store.presign_put(KEY, size_bytes=size, content_type="text/csv", expires_in=AN_HOUR)


async def _to_get(store: LocalObjectStore) -> PresignedRequest:
    return await store.presign_get(KEY, file_name="a.csv", content_type="text/csv", expires_in=AN_HOUR)


async def test_the_longest_names_are_served(store: LocalObjectStore, server: PresignedServer) -> None:
    key = "/".join("k" * 127 for _ in range(4))
    await put(store, key, b"content")
    name = "\N{GRINNING FACE}" * 255
    request = await store.presign_get(key, file_name=name, content_type="text/csv", expires_in=AN_HOUR)
    status, headers, content = await send(request)
    assert (status, content) == (200, b"content")
    assert headers["content-disposition"].endswith("%F0%9F%98%80" * 255)


async def test_an_object_that_has_become_shorter_or_is_gone_is_not_served(
    store: LocalObjectStore, server: PresignedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def request(size_bytes: int | None) -> PresignedRequest:
        return await store.presign_get(
            KEY, file_name="a.csv", content_type="text/csv", expires_in=AN_HOUR, size_bytes=size_bytes
        )

    await put(store, KEY, b"0123456789")
    asked, of_an_earlier_release = await request(10), await request(None)
    assert "size=" not in of_an_earlier_release.url
    assert (await send(asked))[::2] == (200, b"0123456789")

    os.truncate(store.root / KEY, 4)

    for answer in (await send(asked), await send(asked, Range="bytes=0-1")):
        assert answer[::2] == (404, b"the content is damaged\n")
    told = [vars(record) for record in caplog.records if record.levelname == "ERROR"]
    assert [(line["object_key"], line["expected_bytes"], line["found_bytes"]) for line in told] == 2 * [
        (KEY, 10, 4)
    ]
    assert (await send(of_an_earlier_release))[::2] == (200, b"0123")
    assert (await send(asked, url=asked.url.replace("size=10", "size=4")))[0] == 403

    await store.delete(KEY)
    assert (await send(asked))[::2] == (404, b"the content is no longer there\n")


@pytest.mark.parametrize("content_type", ["text/csv\r\nX-Evil: 1", "täxt/plain", "", " text/csv", "a\0b"])
async def test_types_that_no_header_can_hold_are_refused(
    store: LocalObjectStore, server: PresignedServer, content_type: str
) -> None:
    with pytest.raises(ValueError, match="media type"):
        await store.presign_get(KEY, file_name="a", content_type=content_type, expires_in=AN_HOUR)
    with pytest.raises(ValueError, match="media type"):
        await store.presign_put(KEY, size_bytes=1, content_type=content_type, expires_in=AN_HOUR)


async def test_spaces_behind_a_type_do_not_count(store: LocalObjectStore, server: PresignedServer) -> None:
    await put(store, KEY, b"content")
    to_get = await store.presign_get(KEY, file_name="a", content_type="text/csv;  ", expires_in=AN_HOUR)
    _, headers, content = await send(to_get)
    assert (headers["content-type"], content) == ("text/csv;", b"content")


async def test_all_servers_of_a_folder_share_a_key(tmp_path: Path) -> None:
    stores = [LocalObjectStore(tmp_path / "root", files_url="http://127.0.0.1:1") for _ in range(20)]
    urls = {request.url.partition("?")[2] for request in await asyncio.gather(*map(_to_get, stores))}
    # The seconds of the expiry may differ.
    signers = await asyncio.gather(*(store.signer() for store in stores))
    for query in urls:
        for signer in signers:
            assert signer.signed_get(KEY, query).file_name == "a.csv"
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".presigning-key"]


async def test_a_damaged_key_is_not_used(store: LocalObjectStore) -> None:
    store.root.mkdir()
    (store.root / ".presigning-key").write_bytes(b"short")
    with pytest.raises(StoreRefusedError, match="damaged"):
        await store.signer()
    (store.root / ".presigning-key").unlink()
    (store.root / ".presigning-key").symlink_to("/etc/hostname")
    with pytest.raises(StoreRefusedError):
        await store.signer()


async def test_a_parameter_stands_there_once(store: LocalObjectStore, server: PresignedServer) -> None:
    await put(store, KEY, b"content")
    download = await _to_get(store)
    for more in (
        "&expires=9999999999",
        "&name=b.html",
        f"&{download.url.partition('?')[2]}",
        "&other=1",
        "&",
    ):
        assert (await send(download, url=download.url + more))[0] == 403


async def test_paths_lead_nowhere_else(store: LocalObjectStore, server: PresignedServer) -> None:
    await put(store, KEY, b"secret")
    (store.root.parent / "outside").write_bytes(b"secret")
    (store.root / "org-acme/4f/link").symlink_to(store.root.parent / "outside")
    query = urlsplit((await _to_get(store)).url).query
    tried = [
        "/../outside",
        "/org-acme/4f/../4f/object",
        "//org-acme/4f/object",
        "/org-acme%2f4f%2fobject",
        "/org-acme/4f%2Fobject",
        "/%2e%2e/outside",
        "/org-acme/4f/object%00",
        "/org-acme/4f/object/",
        "/org-acme/4f/./object",
        "/org-acme/4f/link",
        "/.presigning-key",
        "/org-acme\\4f\\object",
        "/org-acme/4f/objec%74",
        "/",
        "*",
        "org-acme/4f/object",
    ]
    for method in ("GET", "PUT"):
        request = PresignedRequest(method, (await _to_get(store)).url)
        for target in tried:
            async with connected(request) as (reader, writer):
                writer.write(head(request, target=f"{target}?{query}", Connection="close"))
                answer = await reader.read()
                assert answer[9:12] in (b"400", b"403"), target
                assert b"secret" not in answer
    linked = await store.presign_get(
        "org-acme/4f/link", file_name="a", content_type="a/b", expires_in=AN_HOUR
    )
    assert (await send(linked))[0] == 404


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "double", "cut"]),
        st.integers(0, 400),
        st.characters(min_codepoint=33, max_codepoint=126),
    ),
    min_size=1,
    max_size=3,
)


def _changed(text: str, changes: list[tuple[str, int, str]]) -> str:
    for kind, where, character in changes:
        at = where % max(1, len(text))
        match kind:
            case "replace":
                text = text[:at] + character + text[at + 1 :]
            case "insert":
                text = text[:at] + character + text[at:]
            case "delete":
                text = text[:at] + text[at + 1 :]
            case "double":
                text = f"{text}&{text.partition('?')[2]}"
            case _:
                text = text[:at]
    return text


async def test_no_changed_url_gives_more_than_was_signed(
    store: LocalObjectStore, server: PresignedServer
) -> None:
    content = os.urandom(32)
    for key in (KEY, "org-acme/4f/objecT", "org-acme/4f/objec"):
        await put(store, key, content if key == KEY else b"secret")
    download, upload = await _to_get(store), await _to_put(store, 3)
    mutants: dict[tuple[str, str], None] = {}

    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(method=st.sampled_from(["GET", "PUT"]), changes=_CHANGES)
    def mutate(method: str, changes: list[tuple[str, int, str]]) -> None:
        url = urlsplit((download if method == "GET" else upload).url)
        mutants[method, _changed(f"{url.path}?{url.query}", changes)] = None

    mutate()
    refused = 0
    for method, target in mutants:
        request = PresignedRequest(method, download.url, upload.headers if method == "PUT" else {})
        async with connected(request) as (reader, writer):
            writer.write(head(request, target=target or "/", Connection="close"))
            writer.write(b"new" if method == "PUT" else b"")
            answer = await reader.read()
        status, body = int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]
        refused += status in (400, 403)
        if status == 200:
            # Other letters for the same request.
            assert body == (content if method == "GET" else b"")
            if method == "PUT":
                await put(store, KEY, content)
        else:
            assert status in (400, 403), target
    assert refused > 0.9 * len(mutants) > 100
    assert await read(store, KEY) == content
    assert await keys(store) == sorted([KEY, "org-acme/4f/objecT", "org-acme/4f/objec"])

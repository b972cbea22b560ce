import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id, new_id
from millrace_storage import FileStore, LocalObjectStore
from support.jobs_api import JobsApi, detail, eventually, refusal, refused_fields, serving, status_of

MEBIBYTE = 1024 * 1024
CONTENT = b"name,price\nbolt,3\n"


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


def _header(**fields: Any) -> files_service_pb2.UploadFileRequest:
    header = files_service_pb2.UploadFileHeader(**{"org_id": "acme", "name": "prices.csv", **fields})
    return files_service_pb2.UploadFileRequest(header=header)


def _chunk(content: bytes) -> files_service_pb2.UploadFileRequest:
    return files_service_pb2.UploadFileRequest(chunk=content)


async def _send(api: JobsApi, messages: Iterable[files_service_pb2.UploadFileRequest]) -> file_pb2.File:
    async def all_messages() -> AsyncIterator[files_service_pb2.UploadFileRequest]:
        for message in messages:
            yield message

    return (await api.files.UploadFile(all_messages())).file


async def _upload(api: JobsApi, content: bytes = CONTENT, **fields: Any) -> file_pb2.File:
    chunks = [content[start : start + MEBIBYTE] for start in range(0, len(content), MEBIBYTE)]
    return await _send(api, [_header(**fields), *(_chunk(chunk) for chunk in chunks)])


async def _download(
    api: JobsApi, file_id: str, org_id: str = "acme"
) -> list[files_service_pb2.DownloadFileResponse]:
    request = files_service_pb2.DownloadFileRequest(org_id=org_id, file_id=file_id)
    return [response async for response in api.files.DownloadFile(request)]


async def _get(api: JobsApi, file_id: str, org_id: str = "acme") -> file_pb2.File:
    request = files_service_pb2.GetFileRequest(org_id=org_id, file_id=file_id)
    return (await api.files.GetFile(request)).file


def _stored(folder: Path) -> list[Path]:
    """Return all files in the object store, half-written ones included."""
    return [path for path in (folder / "files").rglob("*") if path.is_file()]


async def _rows(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM files")
    return count


async def test_a_file_comes_back_as_it_was(api: JobsApi) -> None:
    content = bytes(range(256)) * 10_000 + b"end"

    file = await _upload(api, content, name="Mäuse 1.bin")

    assert (file.name, file.org_id, file.size_bytes) == ("Mäuse 1.bin", "acme", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert (file.created_by, file.job_id) == ("anonymous", "")
    assert await _get(api, file.file_id) == file
    first, *chunks = await _download(api, file.file_id)
    assert first.file == file
    assert all(0 < len(response.chunk) <= MEBIBYTE for response in chunks)
    assert all(len(response.chunk) >= MEBIBYTE // 4 for response in chunks[:-1])
    assert b"".join(response.chunk for response in chunks) == content


async def test_an_empty_file_is_a_file(api: JobsApi) -> None:
    file = await _upload(api, b"", size_bytes=0)

    assert file.size_bytes == 0
    assert [response.WhichOneof("part") for response in await _download(api, file.file_id)] == ["file"]


async def test_what_is_announced_is_checked_and_kept(api: JobsApi) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()

    file = await _upload(
        api,
        size_bytes=len(CONTENT),
        sha256=sha256.upper(),
        content_type="text/plain; charset=utf-8",
        created_by="ann",
    )

    assert (file.sha256, file.content_type, file.created_by) == (sha256, "text/plain; charset=utf-8", "ann")


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("prices.csv", "text/csv"),
        ("REPORT.PDF", "application/pdf"),
        ("prices.csv.gz", "application/gzip"),
        ("data:text.html", "text/html"),
        ("noending", "application/octet-stream"),
        ("odd.no-such-ending", "application/octet-stream"),
    ],
)
async def test_the_content_type_is_guessed_from_the_name(api: JobsApi, name: str, content_type: str) -> None:
    assert (await _upload(api, name=name)).content_type == content_type


@pytest.mark.parametrize(
    ("announced", "field"),
    [
        ({"size_bytes": len(CONTENT) + 1}, "header.size_bytes"),
        ({"size_bytes": len(CONTENT) - 1}, "header.size_bytes"),
        ({"size_bytes": 0}, "header.size_bytes"),
        ({"sha256": "0" * 64}, "header.sha256"),
        ({"size_bytes": len(CONTENT), "sha256": "f" * 64}, "header.sha256"),
    ],
)
async def test_content_that_is_not_what_was_announced_leaves_nothing(
    api: JobsApi, database: Database, tmp_path: Path, announced: dict[str, Any], field: str
) -> None:
    assert set(await refused_fields(_upload(api, **announced))) == {field}

    assert _stored(tmp_path) == []
    assert await _rows(database) == 0


@pytest.mark.parametrize(
    ("last", "field"),
    [
        (_header(), "chunk"),
        (files_service_pb2.UploadFileRequest(), "chunk"),
        (_chunk(bytes(MEBIBYTE + 1)), "chunk"),
    ],
)
async def test_a_message_that_is_no_chunk_ends_the_upload_and_leaves_nothing(
    api: JobsApi, database: Database, tmp_path: Path, last: files_service_pb2.UploadFileRequest, field: str
) -> None:
    messages = [_header(), _chunk(bytes(MEBIBYTE)), last]

    assert set(await refused_fields(_send(api, messages))) == {field}

    assert _stored(tmp_path) == []
    assert await _rows(database) == 0


async def test_an_aborted_upload_leaves_nothing(api: JobsApi, database: Database, tmp_path: Path) -> None:
    call = api.files.UploadFile()
    await call.write(_header())
    for _ in range(4):
        await call.write(_chunk(bytes(MEBIBYTE)))

    async def has_begun() -> bool:
        return _stored(tmp_path) != []

    async def is_clean() -> bool:
        return _stored(tmp_path) == []

    await eventually(has_begun)
    call.cancel()
    await eventually(is_clean)
    assert await _rows(database) == 0


async def test_a_download_goes_no_further_than_the_caller_reads(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await _upload(api, bytes(24 * MEBIBYTE))
    read = 0
    read_chunk = LocalObjectStore._read_chunk

    def counted(self: LocalObjectStore, key: str, start: int, length: int) -> bytes:
        nonlocal read
        read += length
        return read_chunk(self, key, start, length)

    monkeypatch.setattr(LocalObjectStore, "_read_chunk", counted)
    request = files_service_pb2.DownloadFileRequest(org_id="acme", file_id=file.file_id)
    call = api.files.DownloadFile(request)
    responses = aiter(call)
    assert (await anext(responses)).file == file
    assert (await anext(responses)).chunk

    async def stands_still() -> bool:
        before = read
        await asyncio.sleep(0.3)
        return read == before

    await eventually(stands_still)
    assert read < file.size_bytes
    rest = [len(response.chunk) async for response in responses]
    assert sum(rest) > 0
    assert read == file.size_bytes


async def test_content_that_is_gone_is_data_loss(api: JobsApi, tmp_path: Path) -> None:
    file = await _upload(api)
    (stored,) = _stored(tmp_path)
    stored.unlink()

    error = await refusal(_download(api, file.file_id))

    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert file.file_id in str(error.details())
    assert await _get(api, file.file_id) == file


async def test_a_file_that_a_job_made_names_it(api: JobsApi, database: Database, tmp_path: Path) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT

    job_id = new_id()
    store = FileStore(database, LocalObjectStore(tmp_path / "files"))
    saved = await store.save(
        org_id="acme", name="a.txt", content_type="text/plain", created_by="", chunks=content(), job_id=job_id
    )

    file = await _get(api, format_id("file", saved.file_id))

    assert file.job_id == format_id("job", job_id)


@pytest.mark.parametrize("act", [_get, _download])
async def test_a_file_of_another_organisation_is_not_found(api: JobsApi, act: Any) -> None:
    theirs = await _upload(api, org_id="other")

    for file_id in (theirs.file_id, "file_" + "0" * 32):
        error = await refusal(act(api, file_id))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == ("file", file_id)
    assert await act(api, theirs.file_id, "other")


async def test_files_are_listed_newest_first_in_pages(api: JobsApi) -> None:
    uploaded = [await _upload(api, name=f"{number}.csv") for number in range(5)]
    await _upload(api, org_id="other")

    async def page(token: str, org_id: str = "acme") -> files_service_pb2.ListFilesResponse:
        request = files_service_pb2.ListFilesRequest(org_id=org_id, page_size=2, page_token=token)
        return await api.files.ListFiles(request)

    listed: list[file_pb2.File] = []
    token = ""
    while True:
        found = await page(token)
        listed += found.files
        token = found.next_page_token
        if not token:
            break
        await _upload(api, name="later.csv")

    assert listed == uploaded[::-1]
    first = await page("")
    assert set(await refused_fields(page(first.next_page_token, org_id="other"))) == {"page_token"}

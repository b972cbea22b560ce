import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id, new_id, parse_id
from millrace_jobs.file_refusals import file_refusals
from millrace_runtime.errors import DataLoss
from millrace_runtime.settings import Settings
from millrace_storage import LocalObjectStore, open_file_store
from support.files_api import (
    CONTENT,
    MEBIBYTE,
    chunk,
    content_of,
    download,
    get,
    header,
    rows,
    send,
    stored,
    upload,
)
from support.jobs_api import JobsApi, detail, refusal, refused_fields, serving, status_of, violations
from support.polling import eventually


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def test_a_file_comes_back_as_it_was(api: JobsApi) -> None:
    content = bytes(range(256)) * 10_000 + b"end"

    file = await upload(api, content, name="Mäuse 1.bin")

    assert (file.name, file.org_id, file.size_bytes) == ("Mäuse 1.bin", "acme", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert (file.created_by, file.job_id) == ("anonymous", "")
    assert file.state == file_pb2.FILE_STATE_PERSISTENT
    assert not file.HasField("expires_at")
    assert not file.HasField("deleted_at")
    assert await get(api, file.file_id) == file
    first, *chunks = await download(api, file.file_id)
    assert first.file == file
    assert all(0 < len(response.chunk) <= MEBIBYTE for response in chunks)
    assert all(len(response.chunk) >= MEBIBYTE // 4 for response in chunks[:-1])
    assert b"".join(response.chunk for response in chunks) == content


async def test_an_empty_file_is_a_file(api: JobsApi) -> None:
    file = await upload(api, b"", size_bytes=0)

    assert file.size_bytes == 0
    assert [response.WhichOneof("part") for response in await download(api, file.file_id)] == ["file"]


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, slice(None)),
        (5, 0, slice(5, None)),
        (0, 7, slice(7)),
        (MEBIBYTE - 3, 7, slice(MEBIBYTE - 3, MEBIBYTE + 4)),
        (MEBIBYTE, MEBIBYTE, slice(MEBIBYTE, 2 * MEBIBYTE)),
        (7, 2**63 - 1, slice(7, None)),
        (3 * MEBIBYTE - 1, 1, slice(-1, None)),
        (3 * MEBIBYTE, 0, slice(0, 0)),
        (3 * MEBIBYTE, 5, slice(0, 0)),
    ],
)
async def test_a_part_of_a_file_is_downloaded_alone(
    api: JobsApi, offset: int, length: int, expected: slice
) -> None:
    content = bytes(number * 7 % 251 for number in range(3 * MEBIBYTE))
    file = await upload(api, content, name="a.bin")

    first, *chunks = await download(api, file.file_id, offset=offset, length=length)

    assert first.file == file
    assert b"".join(response.chunk for response in chunks) == content[expected]


async def test_a_part_behind_the_end_is_out_of_range(api: JobsApi) -> None:
    file = await upload(api)

    for offset in (len(CONTENT) + 1, 2**63 - 1):
        error = await refusal(download(api, file.file_id, offset=offset))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert violations(status_of(error)) == {"offset": f"lies behind the end, which is at {len(CONTENT)}"}
    assert await content_of(api, file.file_id, offset=len(CONTENT) - 2) == CONTENT[-2:]


async def test_what_is_announced_is_checked_and_kept(api: JobsApi) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()

    file = await upload(
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
    assert (await upload(api, b"", name=name)).content_type == content_type


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
    assert set(await refused_fields(upload(api, **announced))) == {field}

    assert stored(tmp_path) == []
    assert await rows(database) == 0


@pytest.mark.parametrize(
    ("last", "field"),
    [
        (header(), "chunk"),
        (files_service_pb2.UploadFileRequest(), "chunk"),
        (chunk(bytes(MEBIBYTE + 1)), "chunk"),
    ],
)
async def test_a_message_that_is_no_chunk_ends_the_upload_and_leaves_nothing(
    api: JobsApi, database: Database, tmp_path: Path, last: files_service_pb2.UploadFileRequest, field: str
) -> None:
    messages = [header(), chunk(bytes(MEBIBYTE)), last]

    assert set(await refused_fields(send(api, messages))) == {field}

    assert stored(tmp_path) == []
    assert await rows(database) == 0


async def test_an_aborted_upload_leaves_nothing(api: JobsApi, database: Database, tmp_path: Path) -> None:
    call = api.files.UploadFile()
    await call.write(header())
    for _ in range(4):
        await call.write(chunk(bytes(MEBIBYTE)))

    async def has_begun() -> bool:
        return stored(tmp_path) != []

    async def is_clean() -> bool:
        return stored(tmp_path) == []

    await eventually(has_begun)
    call.cancel()
    await eventually(is_clean)
    assert await rows(database) == 0


async def test_a_download_goes_no_further_than_the_caller_reads(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await upload(api, bytes(24 * MEBIBYTE))
    read = 0
    read_chunk = LocalObjectStore._read_chunk

    def counted(self: LocalObjectStore, key: str, found: os.stat_result, start: int, length: int) -> bytes:
        nonlocal read
        read += length
        return read_chunk(self, key, found, start, length)

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


@pytest.mark.parametrize(
    ("found_bytes", "said"), [(None, "is no longer there"), (len(CONTENT) - 1, "is damaged")]
)
async def test_content_that_is_lost_is_told_to_callers_and_operators(
    api: JobsApi, tmp_path: Path, found_bytes: int | None, said: str
) -> None:
    file = await upload(api)
    (path,) = stored(tmp_path)
    if found_bytes is None:
        path.unlink()
    else:
        os.truncate(path, found_bytes)

    with capture_logs([merge_contextvars]) as logged:
        error = await refusal(download(api, file.file_id))

    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert error.details() == f"the content of {file.file_id} {said}"
    assert await get(api, file.file_id) == file
    [lost] = [line for line in logged if line["log_level"] == "error"]
    assert (lost["event"], lost["org_id"], lost["file_id"]) == (
        "the content of a file is lost",
        "acme",
        file.file_id,
    )
    assert (lost["expected_bytes"], lost["found_bytes"]) == (len(CONTENT), found_bytes)
    assert path.as_posix().endswith(lost["object_key"])
    [call] = [line for line in logged if line["event"] == "call" and line["code"] == "DATA_LOSS"]
    assert call["file_id"] == file.file_id


async def test_content_that_goes_with_its_file_is_not_lost(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as api:
        file = await upload(api)
    settings = Settings(data_dir=tmp_path)
    async with open_file_store(database, settings) as files:
        file_id = parse_id("file", file.file_id)
        _, chunks = await files.open("acme", file_id)
        await files.delete("acme", file_id, permanently=True)
        with capture_logs() as logged, pytest.raises(DataLoss), file_refusals("acme", file.file_id):
            await anext(chunks)
    assert logged == []


async def test_a_file_that_a_job_made_names_it(api: JobsApi, database: Database, tmp_path: Path) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT

    job_id = new_id()
    async with open_file_store(database, Settings(data_dir=tmp_path)) as store:
        saved = await store.save(
            org_id="acme",
            name="a.txt",
            content_type="text/plain",
            created_by="",
            chunks=content(),
            job_id=job_id,
            state="with_job",
        )

    file = await get(api, format_id("file", saved.file_id))

    assert (file.job_id, file.state) == (format_id("job", job_id), file_pb2.FILE_STATE_WITH_JOB)


@pytest.mark.parametrize("act", [get, download])
async def test_a_file_of_another_organisation_is_not_found(api: JobsApi, act: Any) -> None:
    theirs = await upload(api, org_id="other")

    for file_id in (theirs.file_id, "file_" + "0" * 32):
        error = await refusal(act(api, file_id))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == ("file", file_id)
    assert await act(api, theirs.file_id, "other")


async def test_files_are_listed_newest_first_in_pages(api: JobsApi) -> None:
    uploaded = [await upload(api, name=f"{number}.csv") for number in range(5)]
    await upload(api, org_id="other")

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
        await upload(api, name="later.csv")

    assert listed == uploaded[::-1]
    first = await page("")
    assert set(await refused_fields(page(first.next_page_token, org_id="other"))) == {"page_token"}

"""The life of a file in each kind of object store, which only the settings choose."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from structlog.testing import capture_logs

from millrace_database.database import Database
from millrace_storage.s3_writing import MAX_WRITES as S3_WRITES_AT_ONCE
from support.files_api import (
    MEBIBYTE,
    cancel,
    chunk,
    confirm,
    content_of,
    delete,
    download,
    download_url,
    fetch,
    get,
    header,
    initiate,
    put,
    removals_due,
    rows,
    upload,
)
from support.jobs_api import JobsApi, detail, refusal, refused_fields, serving, status_of
from support.object_stores import KINDS
from support.polling import eventually
from support.s3_server import S3Bucket, S3Server, new_bucket

_CONTENT = bytes(range(251)) * (20 * MEBIBYTE // 251)


def _settings_of(bucket: S3Bucket) -> dict[str, Any]:
    configuration = bucket.server.configuration
    return {
        "storage_provider": "s3",
        "s3_bucket": bucket.name,
        "s3_endpoint": configuration.endpoint,
        "s3_public_endpoint": configuration.endpoint if bucket.server.checks_presigned else bucket.proxy.url,
        "s3_prefix": "files/",
    }


@asynccontextmanager
async def _serving_from(
    kind: str, database: Database, folder: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[JobsApi]:
    if kind == "local":
        async with serving(database, folder) as api:
            yield api
    else:
        async with (
            new_bucket(server, monkeypatch) as bucket,
            serving(database, folder, **_settings_of(bucket)) as api,
        ):
            yield api
            assert [stored.key async for stored in bucket.store().list()] == []
            assert await bucket.unfinished() == []


@pytest.fixture(params=KINDS)
async def api(
    request: pytest.FixtureRequest,
    database: Database,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[JobsApi]:
    """The service with a store of each kind, in which a test leaves nothing."""
    async with _serving_from(request.param, database, tmp_path, s3_server, monkeypatch) as api:
        yield api


async def _remove(api: JobsApi, database: Database, *file_ids: str) -> None:
    for file_id in file_ids:
        await delete(api, file_id, permanently=True)

    async def is_gone() -> bool:
        return await removals_due(database) == 0

    await eventually(is_gone)


async def test_a_file_comes_back_whole_and_in_parts(api: JobsApi, database: Database) -> None:
    file = await upload(api, _CONTENT, name="a.bin", sha256=hashlib.sha256(_CONTENT).hexdigest())

    first, *chunks = await download(api, file.file_id)
    assert first.file == file == await get(api, file.file_id)
    assert b"".join(response.chunk for response in chunks) == _CONTENT
    for offset, length in ((0, 1), (5 * MEBIBYTE - 1, 2), (len(_CONTENT) - 3, 0), (len(_CONTENT), 0)):
        end = len(_CONTENT) if length == 0 else offset + length
        assert await content_of(api, file.file_id, offset=offset, length=length) == _CONTENT[offset:end]
    error = await refusal(download(api, file.file_id, offset=len(_CONTENT) + 1))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    await _remove(api, database, file.file_id)


async def test_content_that_is_wrong_leaves_nothing(api: JobsApi, database: Database) -> None:
    wrong = upload(api, _CONTENT, name="a.bin", sha256="0" * 64)

    assert set(await refused_fields(wrong)) == {"header.sha256"}

    async def is_gone() -> bool:
        return await removals_due(database) + await rows(database, "file_uploads") == 0

    await eventually(is_gone)


async def test_uploads_that_say_nothing_give_their_places_back(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_jobs.file_uploads._SILENT_SECONDS", 0.5)

    async def stalled(*pieces: bytes) -> grpc.StatusCode:
        call = api.files.UploadFile()
        for message in (header(name="a.bin"), *map(chunk, pieces)):
            await call.write(message)
        return (await refusal(call)).code()

    # As many as a store writes at a time, and one more that has begun its second part.
    ended = await asyncio.gather(
        stalled(*[bytes(MEBIBYTE)] * 6), *(stalled(b"a") for _ in range(S3_WRITES_AT_ONCE))
    )

    assert set(ended) == {grpc.StatusCode.ABORTED}
    await _remove(api, database, (await upload(api, b"a", name="a.bin")).file_id)


async def test_an_upload_by_http_becomes_a_file(api: JobsApi, database: Database) -> None:
    announced, given_up = await initiate(api, _CONTENT, name="a.bin"), await initiate(api, _CONTENT)
    assert [await put(one, _CONTENT) for one in (announced, given_up)] == [200, 200]

    file = await confirm(api, announced.upload_id)
    await cancel(api, given_up.upload_id)

    assert (file.size_bytes, file.sha256) == (len(_CONTENT), hashlib.sha256(_CONTENT).hexdigest())
    assert await content_of(api, file.file_id) == _CONTENT
    await _remove(api, database, file.file_id)


async def test_an_upload_by_http_of_another_length_is_refused(api: JobsApi) -> None:
    announced = await initiate(api, b"1234", name="a.bin")

    assert await put(announced, b"123", Content_Length="3") in (400, 403)

    assert (await refusal(confirm(api, announced.upload_id))).code() is grpc.StatusCode.FAILED_PRECONDITION
    await cancel(api, announced.upload_id)


async def test_a_file_is_downloaded_by_http(api: JobsApi, database: Database) -> None:
    file = await upload(api, b"0123456789", name='Mäuse "1".txt')
    url = await download_url(api, file.file_id)

    status, headers, content = await fetch(url)
    assert (status, content) == (200, b"0123456789")
    assert headers["content-disposition"].startswith("attachment;")
    assert "M%C3%A4use%20%221%22.txt" in headers["content-disposition"]
    status, _, content = await fetch(url, Range="bytes=3-5")
    assert (status, content) == (206, b"345")
    await _remove(api, database, file.file_id)
    # S3 says 403 to those who may not list what there is.
    assert (await fetch(url))[0] in (403, 404)


async def test_a_deleted_file_is_not_read(api: JobsApi, database: Database) -> None:
    file = await upload(api, b"content", name="a.txt")
    await delete(api, file.file_id)

    for call in (download(api, file.file_id), download_url(api, file.file_id)):
        assert (await refusal(call)).code() is grpc.StatusCode.FAILED_PRECONDITION
    await _remove(api, database, file.file_id)


async def test_a_store_that_cannot_be_reached_is_told_and_leaves_nothing(
    database: Database, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    nowhere = {"s3_bucket": "bucket", "s3_endpoint": "http://127.0.0.1:1", "s3_attempts": 1}
    async with serving(database, tmp_path, storage_provider="s3", **nowhere) as api:
        error = await refusal(upload(api))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "STORE_UNAVAILABLE"
    assert detail(status_of(error), error_details_pb2.RetryInfo).retry_delay.seconds == 1
    assert await rows(database) == await rows(database, "file_uploads") == 0


async def test_a_store_that_refuses_is_told_without_its_words(
    database: Database, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        new_bucket(s3_server, monkeypatch) as bucket,
        serving(database, tmp_path, **_settings_of(bucket)) as api,
    ):
        await bucket.clients.own.delete_bucket(Bucket=bucket.name)
        with capture_logs() as logged:
            error = await refusal(upload(api))
        await bucket.clients.own.create_bucket(Bucket=bucket.name)

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "STORE_REFUSED"
    assert error.details() == "the object store refused the request"
    assert [entry["log_level"] for entry in logged if "refused" in entry["event"]] == ["error"]


async def test_a_file_in_a_store_that_nobody_tells_of_is_shown_and_not_read(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as api:
        file = await upload(api)
        async with database.connection() as connection:
            await connection.execute("UPDATE files SET provider = 's3', bucket = 'old'")

        error = await refusal(download(api, file.file_id))

        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "STORE_NOT_CONFIGURED"
        assert await get(api, file.file_id) == file


async def test_files_stay_readable_where_they_are(
    database: Database, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_bucket(s3_server, monkeypatch) as bucket:
        async with serving(database, tmp_path) as api:
            old = await upload(api, b"old", name="a.txt")
        async with serving(database, tmp_path, **_settings_of(bucket)) as api:
            new = await upload(api, b"new", name="a.txt")
            assert await content_of(api, old.file_id) == b"old"
        back = {**_settings_of(bucket), "storage_provider": "local"}
        async with serving(database, tmp_path, **back) as api:
            contents = [await content_of(api, file.file_id) for file in (old, new)]

    assert contents == [b"old", b"new"]

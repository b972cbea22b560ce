"""Files and uploads that go while their store takes requests and does not answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from google.rpc import error_details_pb2

from millrace_database.database import Database
from millrace_storage.s3_silence import SilenceTimes
from millrace_storage.storage_cleanup import clean_up_storage
from support.files_api import cancel, delete, download, get, initiate, put, rows, upload
from support.jobs_api import JobsApi, detail, refusal, serving, status_of
from support.s3_disturbances import Silence
from support.s3_server import S3Bucket
from support.stored_files import AT_ONCE, StoresOf

_DEADLINE_SECONDS = 20


@pytest.fixture
async def api(database: Database, tmp_path: Path, s3_bucket: S3Bucket) -> AsyncIterator[JobsApi]:
    s3 = {"storage_provider": "s3", "s3_bucket": s3_bucket.name, "s3_endpoint": s3_bucket.proxy.url}
    async with serving(database, tmp_path, **s3) as api:
        yield api


async def test_what_is_deleted_or_cancelled_is_gone_and_the_clean_up_removes_the_objects(
    api: JobsApi, database: Database, s3_bucket: S3Bucket
) -> None:
    file = await upload(api)
    begun = await initiate(api)
    assert await put(begun) == 200
    over = asyncio.Event()

    async def silent(request: web.BaseRequest, _: bytes) -> web.Response | None:
        if request.method == "DELETE":
            await over.wait()
        return None

    s3_bucket.proxy.always.append(silent)
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            await asyncio.gather(delete(api, file.file_id, permanently=True), cancel(api, begun.upload_id))
    finally:
        over.set()

    assert (await refusal(get(api, file.file_id))).code() is grpc.StatusCode.NOT_FOUND
    assert await rows(database) == await rows(database, "file_uploads") == 0
    assert await rows(database, "file_removals") == 2
    await _let_all_be_due(database)
    await clean_up_storage(database, StoresOf(s3_bucket.store()), times=AT_ONCE)
    assert [stored.key async for stored in s3_bucket.store().list()] == ["millrace-owner"]


async def test_callers_are_told_when_a_silent_store_is_asked_again(
    database: Database, tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = SilenceTimes(patience_seconds=0.1, question_seconds=0.1, pause_seconds=3600)
    monkeypatch.setattr("millrace_storage.s3_client._silence_times", lambda _: times)
    s3 = {"storage_provider": "s3", "s3_bucket": s3_bucket.name, "s3_endpoint": s3_bucket.proxy.url}
    async with serving(database, tmp_path, **s3) as api:
        file = await upload(api)
        silence = Silence()
        s3_bucket.proxy.always.append(silence)
        error = await refusal(download(api, file.file_id))
        silence.end()

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert ("grpc-retry-pushback-ms", "-1") in tuple(error.trailing_metadata())
    told = detail(status_of(error), error_details_pb2.RetryInfo).retry_delay.seconds
    assert 0 <= 3600 - told <= _DEADLINE_SECONDS


async def _let_all_be_due(database: Database) -> None:
    """As when the time is over in which the URL of a cancelled upload is taken."""
    async with database.connection() as connection:
        await connection.execute("UPDATE file_removals SET due_at = now()")

"""Files and uploads that go while their store takes requests and does not answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from millrace_database.database import Database
from millrace_storage.storage_cleanup import clean_up_storage
from support.files_api import cancel, delete, get, initiate, put, rows, upload
from support.jobs_api import JobsApi, refusal, serving
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


async def _let_all_be_due(database: Database) -> None:
    """As when the time is over in which the URL of a cancelled upload is taken."""
    async with database.connection() as connection:
        await connection.execute("UPDATE file_removals SET due_at = now()")

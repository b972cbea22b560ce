"""Uploads that stand still give their place in the store to those that wait for one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace_database.database import Database
from support.files_api import CONTENT, chunk, content_of, header, rows, upload
from support.jobs_api import JobsApi, detail, serving, status_of
from support.polling import eventually
from support.s3_server import S3Bucket

_PLACES = 2


@pytest.fixture
async def api(
    database: Database, tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[JobsApi]:
    monkeypatch.setattr("millrace_storage.s3_writing.MAX_WRITES", _PLACES)
    monkeypatch.setattr("millrace_jobs.upload_pace._BLOCK_SECONDS", 0.1)
    monkeypatch.setattr("millrace_jobs.upload_pace._LOOK_EVERY_SECONDS", 0.01)
    s3 = {"storage_provider": "s3", "s3_bucket": s3_bucket.name, "s3_endpoint": s3_bucket.server.endpoint}
    async with serving(database, tmp_path, **s3) as api:
        yield api


async def test_who_comes_takes_the_place_of_one_that_stands_still(api: JobsApi, database: Database) -> None:
    stalled = [api.files.UploadFile() for _ in range(_PLACES)]
    for call in stalled:
        await call.write(header())
        await call.write(chunk(CONTENT))

    async def are_written() -> bool:
        return await rows(database, "file_uploads") == _PLACES

    await eventually(are_written)
    file = await upload(api)

    assert await content_of(api, file.file_id) == CONTENT
    ends = await asyncio.gather(*(_end(call) for call in stalled))
    given_up = [error for error in ends if error is not None]
    assert given_up
    for error in given_up:
        assert error.code() is grpc.StatusCode.ABORTED
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "UPLOAD_GIVEN_UP"


async def _end(call: Any) -> grpc.RpcError | None:
    """Ends an upload; returns why it had ended before."""
    try:
        with suppress(asyncio.InvalidStateError):
            await call.done_writing()
        await call
    except grpc.RpcError as error:
        return error
    return None

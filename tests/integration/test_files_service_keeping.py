"""For how long files are kept: temporary, persistent, deleted, undeleted."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_database.database import Database
from support.files_api import (
    CONTENT,
    content_of,
    delete,
    download_url,
    duration,
    get,
    listed,
    set_limits,
    upload,
    usage,
)
from support.jobs_api import JobsApi, detail, refusal, serving, status_of


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path, files_temporary_hours=2, files_deleted_days=3) as api:
        yield api


async def _persist(api: JobsApi, file_id: str, org_id: str = "acme") -> file_pb2.File:
    request = files_service_pb2.PersistFileRequest(org_id=org_id, file_id=file_id)
    return (await api.files.PersistFile(request)).file


async def _undelete(api: JobsApi, file_id: str, org_id: str = "acme") -> file_pb2.File:
    request = files_service_pb2.UndeleteFileRequest(org_id=org_id, file_id=file_id)
    return (await api.files.UndeleteFile(request)).file


async def _expire(database: Database) -> None:
    """Have the time of all files with one come."""
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE files SET expires_at = now() - interval '1 second' WHERE expires_at IS NOT NULL"
        )


def _left(file: file_pb2.File) -> timedelta:
    return file.expires_at.ToDatetime(UTC) - datetime.now(UTC)


async def test_a_temporary_file_goes_when_its_time_has_come(api: JobsApi, database: Database) -> None:
    file = await upload(api, temporary=True)
    kept = await upload(api)
    assert file.state == file_pb2.FILE_STATE_TEMPORARY
    assert timedelta(hours=1.9) < _left(file) < timedelta(hours=2.1)
    assert await content_of(api, file.file_id) == CONTENT

    await _expire(database)

    for call in (get(api, file.file_id), content_of(api, file.file_id), _persist(api, file.file_id)):
        assert (await refusal(call)).code() is grpc.StatusCode.NOT_FOUND
    assert await listed(api) == [kept]


async def test_the_url_of_a_temporary_file_ends_with_the_file(api: JobsApi) -> None:
    file = await upload(api, temporary=True)

    request = files_service_pb2.GetDownloadUrlRequest(
        org_id="acme", file_id=file.file_id, expires_in=duration(timedelta(days=7))
    )
    answer = await api.files.GetDownloadUrl(request)

    assert answer.expires_at == file.expires_at
    signed_until = int(parse_qs(urlsplit(answer.url).query)["expires"][0])
    assert abs(signed_until - file.expires_at.ToSeconds()) <= 1
    sooner = await api.files.GetDownloadUrl(
        files_service_pb2.GetDownloadUrlRequest(org_id="acme", file_id=file.file_id)
    )
    assert sooner.expires_at.ToDatetime() < file.expires_at.ToDatetime() - timedelta(minutes=50)


async def test_a_persisted_file_stays(api: JobsApi, database: Database) -> None:
    file = await upload(api, temporary=True)

    persisted = await _persist(api, file.file_id)

    assert (persisted.state, persisted.HasField("expires_at")) == (file_pb2.FILE_STATE_PERSISTENT, False)
    assert await _persist(api, file.file_id) == persisted
    await _expire(database)
    assert await get(api, file.file_id) == persisted


async def test_a_deleted_file_is_shown_and_not_read_until_it_goes(api: JobsApi, database: Database) -> None:
    file = await upload(api)

    deleted = (await delete(api, file.file_id)).file

    assert deleted.state == file_pb2.FILE_STATE_DELETED
    assert deleted.HasField("deleted_at")
    assert timedelta(days=2.9) < _left(deleted) < timedelta(days=3.1)
    assert (await delete(api, file.file_id)).file == deleted
    assert await get(api, file.file_id) == deleted
    assert await listed(api) == []
    assert await listed(api, states=[file_pb2.FILE_STATE_DELETED]) == [deleted]
    for call in (
        content_of(api, file.file_id),
        download_url(api, file.file_id),
        _persist(api, file.file_id),
    ):
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        failure = detail(status_of(error), error_details_pb2.PreconditionFailure)
        assert [(one.type, one.subject) for one in failure.violations] == [("FILE_DELETED", file.file_id)]
    await _expire(database)
    assert (await refusal(get(api, file.file_id))).code() is grpc.StatusCode.NOT_FOUND
    assert (await refusal(_undelete(api, file.file_id))).code() is grpc.StatusCode.NOT_FOUND
    assert await listed(api, states=[file_pb2.FILE_STATE_DELETED]) == []


async def test_an_undeleted_file_is_what_it_was(api: JobsApi) -> None:
    file, temporary = await upload(api), await upload(api, temporary=True)
    await delete(api, file.file_id)
    await delete(api, temporary.file_id)

    assert await _undelete(api, file.file_id) == file
    assert await _undelete(api, file.file_id) == file
    again = await _undelete(api, temporary.file_id)

    assert again.state == file_pb2.FILE_STATE_TEMPORARY
    assert timedelta(hours=1.9) < _left(again) < timedelta(hours=2.1)
    assert await content_of(api, file.file_id) == CONTENT
    assert await listed(api) == [again, file]


async def test_a_file_deleted_for_good_is_gone_at_once(api: JobsApi) -> None:
    file, deleted = await upload(api), await upload(api)
    await delete(api, deleted.file_id)

    for file_id in (file.file_id, deleted.file_id):
        assert await delete(api, file_id, permanently=True) == files_service_pb2.DeleteFileResponse()
        for call in (get(api, file_id), _undelete(api, file_id), delete(api, file_id, permanently=True)):
            assert (await refusal(call)).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("act", [_persist, _undelete, "delete"])
async def test_a_file_of_another_organisation_is_not_found(api: JobsApi, act: Any) -> None:
    theirs = await upload(api, org_id="other")

    for file_id in (theirs.file_id, "file_" + "0" * 32):
        call = delete(api, file_id) if act == "delete" else act(api, file_id)
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == ("file", file_id)
    assert await get(api, theirs.file_id, "other") == theirs


async def test_deleted_files_count_for_nothing_and_come_back_within_the_limits(api: JobsApi) -> None:
    file = await upload(api)
    assert ((await usage(api)).total_bytes, (await usage(api)).files) == (len(CONTENT), 1)
    await delete(api, file.file_id)
    assert ((await usage(api)).total_bytes, (await usage(api)).files) == (0, 0)

    await set_limits(api, max_files=1)
    other = await upload(api)
    assert (await refusal(_undelete(api, file.file_id))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await delete(api, other.file_id, permanently=True)

    assert await _undelete(api, file.file_id) == file
    assert ((await usage(api)).total_bytes, (await usage(api)).files) == (len(CONTENT), 1)

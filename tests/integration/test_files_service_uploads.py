"""Uploads that go straight to the object store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.files.v1 import file_pb2
from millrace_database.database import Database
from support.files_api import (
    CONTENT,
    MEBIBYTE,
    cancel,
    confirm,
    content_of,
    delete,
    duration,
    get,
    initiate,
    put,
    residue,
    rows,
    stored,
    upload,
)
from support.jobs_api import JobsApi, detail, refusal, refused_fields, serving, status_of


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path, files_allowed_types=("text/*",)) as api:
        yield api


async def test_an_upload_becomes_a_file_once_it_is_confirmed(api: JobsApi, database: Database) -> None:
    content = b"0123456789abcde\n" * (3 * MEBIBYTE // 16)
    sha256 = hashlib.sha256(content).hexdigest()
    announced = await initiate(
        api, content, sha256=sha256.upper(), name="Mäuse.txt", created_by="ann", content_type="text/markdown"
    )

    assert await put(announced, content) == 200
    assert await rows(database) == 0
    file = await confirm(api, announced.upload_id)

    assert file.file_id == announced.upload_id.replace("upload_", "file_")
    assert (file.name, file.created_by, file.content_type) == ("Mäuse.txt", "ann", "text/markdown")
    assert (file.size_bytes, file.sha256, file.state) == (
        len(content),
        sha256,
        file_pb2.FILE_STATE_PERSISTENT,
    )
    assert await get(api, file.file_id) == file
    assert await content_of(api, file.file_id) == content


async def test_an_upload_says_how_it_is_done_and_until_when(api: JobsApi) -> None:
    before = datetime.now(UTC)
    announced = await initiate(api, expires_in=duration(timedelta(minutes=5)))
    by_default = await initiate(api)

    assert announced.org_id == "acme"
    assert announced.method == "PUT"
    assert announced.url.startswith("http://127.0.0.1:")
    expires_at = announced.expires_at.ToDatetime(UTC)
    assert timedelta(minutes=4) < expires_at - before < timedelta(minutes=6)
    assert timedelta(minutes=59) < by_default.expires_at.ToDatetime(UTC) - before < timedelta(minutes=61)


async def test_a_confirmation_may_be_repeated_and_what_comes_later_changes_nothing(api: JobsApi) -> None:
    announced = await initiate(api)
    await put(announced)
    confirmed = await asyncio.gather(*(confirm(api, announced.upload_id) for _ in range(4)))

    await put(announced, b"x" * len(CONTENT))

    assert [await confirm(api, announced.upload_id), *confirmed] == [confirmed[0]] * 5
    assert await content_of(api, confirmed[0].file_id) == CONTENT


async def test_nothing_is_confirmed_before_it_is_uploaded(api: JobsApi) -> None:
    announced = await initiate(api)

    error = await refusal(confirm(api, announced.upload_id))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    failure = detail(status_of(error), error_details_pb2.PreconditionFailure)
    assert [(one.type, one.subject) for one in failure.violations] == [
        ("NOTHING_UPLOADED", announced.upload_id)
    ]


async def test_wrong_content_is_told_and_can_be_uploaded_again(api: JobsApi, database: Database) -> None:
    announced = await initiate(api, sha256=hashlib.sha256(CONTENT).hexdigest())
    await put(announced, b"X" * len(CONTENT))
    assert set(await refused_fields(confirm(api, announced.upload_id))) == {"sha256"}
    assert await rows(database) == 0

    await put(announced)

    assert (await confirm(api, announced.upload_id)).size_bytes == len(CONTENT)


async def test_a_type_that_is_not_allowed_is_told_before_and_after(api: JobsApi) -> None:
    assert set(await refused_fields(initiate(api, name="a.zip"))) == {"content_type"}
    pdf = b"%PDF-1.7\n" + bytes(100)
    announced = await initiate(api, pdf)
    await put(announced, pdf)

    assert set(await refused_fields(confirm(api, announced.upload_id))) == {"content_type"}


async def test_a_cancelled_upload_is_gone_and_so_is_what_was_uploaded(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    announced, unsent = await initiate(api), await initiate(api)
    await put(announced)

    for upload_id in (announced.upload_id, unsent.upload_id, announced.upload_id):
        await cancel(api, upload_id)

    assert await residue(database, tmp_path) == {}
    error = await refusal(confirm(api, announced.upload_id))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    resource = detail(status_of(error), error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("upload", announced.upload_id)


async def test_a_confirmed_upload_is_not_cancelled(api: JobsApi) -> None:
    announced = await initiate(api)
    await put(announced)
    file = await confirm(api, announced.upload_id)

    error = await refusal(cancel(api, announced.upload_id))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert file.file_id in str(error.details())
    assert await content_of(api, file.file_id) == CONTENT


async def test_an_upload_of_another_organisation_is_not_found(api: JobsApi) -> None:
    theirs = await initiate(api, org_id="other")
    await put(theirs)

    for upload_id in (theirs.upload_id, "upload_" + "0" * 32):
        assert (await refusal(confirm(api, upload_id))).code() is grpc.StatusCode.NOT_FOUND
    await cancel(api, theirs.upload_id)
    assert (await confirm(api, theirs.upload_id, "other")).org_id == "other"


async def test_an_upload_that_has_expired_is_not_found(api: JobsApi, database: Database) -> None:
    announced = await initiate(api)
    await put(announced)
    async with database.connection() as connection:
        await connection.execute("UPDATE file_uploads SET expires_at = now() - interval '1 second'")

    assert (await refusal(confirm(api, announced.upload_id))).code() is grpc.StatusCode.NOT_FOUND


async def test_a_temporary_upload_becomes_a_temporary_file(api: JobsApi) -> None:
    announced = await initiate(api, temporary=True)
    await put(announced)

    file = await confirm(api, announced.upload_id)

    assert file.state == file_pb2.FILE_STATE_TEMPORARY
    assert file.expires_at.ToDatetime(UTC) > datetime.now(UTC) + timedelta(hours=23)


async def test_an_empty_file_can_be_uploaded_too(api: JobsApi) -> None:
    announced = await initiate(api, b"")
    assert await put(announced, b"") == 200

    assert (await confirm(api, announced.upload_id)).size_bytes == 0


@pytest.mark.parametrize("change", ["signature", "another upload", "expired"])
async def test_a_request_that_is_not_the_one_allowed_is_refused(
    api: JobsApi, tmp_path: Path, change: str
) -> None:
    announced = await initiate(
        api, expires_in=duration(timedelta(seconds=1)) if change == "expired" else None
    )
    if change == "signature":
        announced.url = announced.url[:-1] + ("0" if announced.url[-1] != "0" else "1")
    elif change == "another upload":
        other = await initiate(api, CONTENT + b"more")
        announced.url = announced.url.partition("?")[0] + "?" + other.url.partition("?")[2]
    else:
        await _until(announced.expires_at.ToDatetime(UTC))

    assert await put(announced) in (400, 403)
    assert stored(tmp_path) == []


async def _until(time: datetime) -> None:
    while datetime.now(UTC) <= time + timedelta(seconds=1):
        await asyncio.sleep(0.05)


async def test_a_file_that_came_so_is_deleted_like_any_other(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    announced = await initiate(api)
    await put(announced)
    file = await confirm(api, announced.upload_id)
    assert await upload(api)

    assert (await delete(api, file.file_id)).file.state == file_pb2.FILE_STATE_DELETED
    assert (await refusal(content_of(api, file.file_id))).code() is grpc.StatusCode.FAILED_PRECONDITION

"""The uploads that can still be confirmed, as a caller of the service lists them."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_database.database import Database
from support.files_api import CONTENT, cancel, confirm, initiate, listed_uploads, put, upload
from support.jobs_api import JobsApi, refused_fields, serving


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


def _without_request(upload: file_pb2.Upload) -> file_pb2.Upload:
    told = file_pb2.Upload()
    told.CopyFrom(upload)
    for field in ("url", "method", "headers"):
        told.ClearField(field)
    return told


async def _end(database: Database, upload: file_pb2.Upload) -> None:
    """Let the time of an upload be over."""
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE file_uploads SET expires_at = now() WHERE upload_id = $1::uuid",
            upload.upload_id.removeprefix("upload_"),
        )


async def test_what_can_still_be_confirmed_is_listed_newest_first(api: JobsApi, database: Database) -> None:
    first = await initiate(api, created_by="ann", temporary=True)
    second = await initiate(api, created_by="bob", sha256=hashlib.sha256(CONTENT).hexdigest().upper())
    third = await initiate(api, created_by="ann")
    confirmed, cancelled, expired = [await initiate(api, created_by="ann") for _ in range(3)]
    assert await put(confirmed) == 200
    await confirm(api, confirmed.upload_id)
    await cancel(api, cancelled.upload_id)
    await _end(database, expired)
    await initiate(api, org_id="other")
    await upload(api, created_by="ann")

    assert await listed_uploads(api) == [_without_request(begun) for begun in (third, second, first)]
    assert await listed_uploads(api, page_size=1) == await listed_uploads(api)
    assert await listed_uploads(api, created_by="ann", page_size=1) == [
        _without_request(begun) for begun in (third, first)
    ]
    assert await listed_uploads(api, created_by="eve") == []


async def test_an_upload_says_what_it_will_be(api: JobsApi) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    begun = await initiate(
        api, name="a.csv", content_type="Text/CSV", sha256=sha256.upper(), created_by="ann", temporary=True
    )
    (listed,) = await listed_uploads(api)
    assert begun.url
    assert (listed.url, listed.method, dict(listed.headers)) == ("", "", {})
    for told in (begun, listed):
        assert (told.name, told.content_type, told.size_bytes, told.sha256) == (
            "a.csv",
            "text/csv",
            len(CONTENT),
            sha256,
        )
        assert (told.org_id, told.created_by, told.temporary) == ("acme", "ann", True)
        assert told.expires_at.ToNanoseconds() - told.created_at.ToNanoseconds() == 3_600 * 10**9


async def test_the_order_stays_while_uploads_come_and_go(api: JobsApi) -> None:
    begun = [await initiate(api) for _ in range(4)]
    request = files_service_pb2.ListUploadsRequest(org_id="acme", page_size=2)
    first = await api.files.ListUploads(request)
    await initiate(api)
    await cancel(api, begun[3].upload_id)
    request.page_token = first.next_page_token
    rest = await api.files.ListUploads(request)
    assert [upload.upload_id for upload in (*first.uploads, *rest.uploads)] == [
        upload.upload_id for upload in reversed(begun)
    ]
    assert rest.next_page_token == ""


async def test_a_page_token_is_good_for_the_same_list_only(api: JobsApi) -> None:
    for _ in range(2):
        await initiate(api, created_by="ann")
        await upload(api, created_by="ann")

    async def page(**fields: Any) -> files_service_pb2.ListUploadsResponse:
        request = {"org_id": "acme", "page_size": 1, "created_by": "ann", **fields}
        return await api.files.ListUploads(files_service_pb2.ListUploadsRequest(**request))

    of_files = await api.files.ListFiles(
        files_service_pb2.ListFilesRequest(org_id="acme", page_size=1, created_by="ann")
    )
    token = (await page()).next_page_token
    assert (await page(page_token=token)).uploads
    for other in ({"created_by": ""}, {"created_by": "bob"}, {"page_token": of_files.next_page_token}):
        assert set(await refused_fields(page(**{"page_token": token, **other}))) == {"page_token"}, other

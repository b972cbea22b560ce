"""Uploads that the SDK begins for others, lists, confirms and cancels, against the real service."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from millrace_client import FailedPreconditionError, Millrace, NotFoundError, Upload
from millrace_client.direct_upload import put_directly
from millrace_database.database import Database
from support.jobs_api import serving

CONTENT = b"name,price\nbolt,3\n"


@pytest.fixture
async def client(database: Database, tmp_path: Path) -> AsyncIterator[Millrace]:
    async with serving(database, tmp_path) as api, Millrace(api.address, org_id="acme") as client:
        yield client


async def _listed(client: Millrace, created_by: str = "", limit: int | None = None) -> list[Upload]:
    uploads = client.files.list_uploads(created_by=created_by, limit=limit, page_size=2)
    return [upload async for upload in uploads]


async def test_an_upload_is_begun_sent_by_somebody_and_confirmed(client: Millrace) -> None:
    begun = await client.files.initiate_upload(
        "prices.csv",
        len(CONTENT),
        created_by="ann",
        temporary=True,
        expires_in=timedelta(minutes=5),
    )
    assert begun.expires_at - begun.created_at == timedelta(minutes=5)
    assert (begun.name, begun.content_type, begun.size_bytes) == ("prices.csv", "text/csv", len(CONTENT))
    assert (begun.method, begun.headers["Content-Type"]) == ("PUT", "text/csv")
    assert begun.url not in repr(begun)

    await put_directly(begun, CONTENT, len(CONTENT), None)
    file = await client.files.confirm_upload(begun.upload_id)
    assert await client.files.read(file.file_id) == CONTENT
    assert (file.name, file.created_by, file.state) == ("prices.csv", "ann", "TEMPORARY")
    assert await client.files.confirm_upload(begun.upload_id) == file
    with pytest.raises(FailedPreconditionError):
        await client.files.cancel_upload(begun.upload_id)


async def test_what_is_open_is_listed_until_it_is_cancelled(client: Millrace) -> None:
    begun = [
        await client.files.initiate_upload("a", 1, created_by=creator) for creator in ("ann", "bob", "ann")
    ]
    listed = await _listed(client)
    assert [upload.upload_id for upload in listed] == [upload.upload_id for upload in reversed(begun)]
    assert {(upload.url, upload.method, len(upload.headers)) for upload in listed} == {("", "", 0)}
    assert await _listed(client, "ann") == [listed[0], listed[2]]
    assert await _listed(client, limit=1) == listed[:1]

    for upload in listed:
        await client.files.cancel_upload(upload.upload_id)
        await client.files.cancel_upload(upload.upload_id)
    assert await _listed(client) == []
    with pytest.raises(NotFoundError):
        await client.files.confirm_upload(begun[0].upload_id)

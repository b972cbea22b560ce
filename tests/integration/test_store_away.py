"""A store that refuses or is silent is asked a few times by the service, and no more by anybody else."""

import io
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from millrace_client import Millrace, UnavailableError
from millrace_database.database import Database
from millrace_storage.storage_cleanup import clean_up_storage
from support.files_api import CONTENT, chunk, confirm, content_of, header, initiate, put, refused_stream, rows
from support.jobs_api import JobsApi, refusal, serving, status_of, violations
from support.object_stores import keys
from support.polling import eventually
from support.s3_disturbances import Silence
from support.s3_presigned import refusal as refused
from support.s3_server import S3Bucket
from support.stored_files import AT_ONCE, StoresOf

_ATTEMPTS = 2


@dataclass
class _Service:
    api: JobsApi
    client: Millrace
    bucket: S3Bucket
    is_away: bool = False

    def requests(self) -> Counter[str]:
        """How many requests of each method there were since the last call."""
        methods = Counter(method for method, _ in self.bucket.proxy.requests)
        self.bucket.proxy.requests.clear()
        return methods


@pytest.fixture
async def service(database: Database, tmp_path: Path, s3_bucket: S3Bucket) -> AsyncIterator[_Service]:
    s3 = {
        "storage_provider": "s3",
        "s3_bucket": s3_bucket.name,
        "s3_endpoint": s3_bucket.proxy.url,
        "s3_attempts": _ATTEMPTS,
        "files_allowed_types": ("text/*",),
    }
    async with (
        serving(database, tmp_path, **s3) as api,
        Millrace(api.address, org_id="acme") as client,
    ):
        service = _Service(api, client, s3_bucket)

        async def away(_: web.BaseRequest, __: bytes) -> web.Response | None:
            return refused(503, "SlowDown") if service.is_away else None

        s3_bucket.proxy.always.append(away)
        service.requests()
        yield service


async def test_an_upload_writes_and_looks_whether_that_was_done_and_leaves_the_rest_to_the_clean_up(
    service: _Service, database: Database, s3_bucket: S3Bucket
) -> None:
    service.is_away = True
    with pytest.raises(UnavailableError):
        await service.client.files.upload(CONTENT, "a.csv")

    assert service.requests() == {"PUT": _ATTEMPTS, "HEAD": _ATTEMPTS}
    assert await rows(database, "file_removals") == 1
    assert await rows(database) == await rows(database, "file_uploads") == 0

    service.is_away = False
    await clean_up_storage(database, StoresOf(s3_bucket.store()), times=AT_ONCE)
    assert await rows(database, "file_removals") == 0


async def test_a_download_is_not_repeated_by_the_client_too(service: _Service) -> None:
    file = await service.client.files.upload(CONTENT, "a.csv")
    service.requests()
    service.is_away = True
    with pytest.raises(UnavailableError) as caught:
        await service.client.files.download(file.file_id, io.BytesIO())
    assert service.requests() == {"HEAD": _ATTEMPTS}
    # Whoever wants to try again is told when.
    assert caught.value.retry_after is not None


async def test_a_confirmation_is_not_repeated_by_the_client_either(service: _Service) -> None:
    upload = await initiate(service.api)
    assert await put(upload) == 200
    service.requests()
    service.is_away = True
    with pytest.raises(UnavailableError):
        await service.client.files.confirm_upload(upload.upload_id)
    assert service.requests() == {"PUT": _ATTEMPTS, "HEAD": _ATTEMPTS}

    service.is_away = False
    assert (await service.client.files.confirm_upload(upload.upload_id)).size_bytes == len(CONTENT)


async def test_a_confirmation_leaves_what_was_uploaded_to_the_next_one(service: _Service) -> None:
    upload = await initiate(service.api)
    assert await put(upload) == 200
    service.requests()
    service.is_away = True
    assert (await refusal(confirm(service.api, upload.upload_id))).code() is grpc.StatusCode.UNAVAILABLE
    # The copy into its place, and whether there is something to be copied back.
    assert service.requests() == {"PUT": _ATTEMPTS, "HEAD": _ATTEMPTS}

    service.is_away = False
    file = await confirm(service.api, upload.upload_id)
    assert await content_of(service.api, file.file_id) == CONTENT


async def test_what_is_refused_by_its_first_bytes_does_not_wait_for_a_silent_store(
    service: _Service, database: Database
) -> None:
    silence = Silence()
    service.bucket.proxy.always.append(silence)
    png = chunk(b"\x89PNG\r\n\x1a\n" + bytes(64))
    error = await refused_stream(service.api, [header(content_type="text/plain"), png])
    assert set(violations(status_of(error))) == {"header.content_type"}

    assert service.requests() == {}
    assert await rows(database, "file_uploads") == await rows(database, "file_removals") == 0
    silence.end()


async def test_what_a_silent_store_does_after_all_goes_with_the_clean_up(
    service: _Service, database: Database, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_storage.s3_writing._SETTLING_SECONDS", 0.1)
    silence = Silence()
    silence.of = lambda request: request.method == "PUT"
    s3_bucket.proxy.always.append(silence)
    call = service.api.files.UploadFile(iter([header(), chunk(CONTENT)]))

    async def is_asked() -> bool:
        return bool(s3_bucket.proxy.requests)

    await eventually(is_asked)
    call.cancel()

    async def is_left_to_the_clean_up() -> bool:
        return await rows(database, "file_removals") == 1

    await eventually(is_left_to_the_clean_up)
    assert service.requests() == {"PUT": 1}
    silence.end()

    (written,) = await eventually(lambda: keys(s3_bucket.store()))
    await clean_up_storage(database, StoresOf(s3_bucket.store()), times=AT_ONCE)
    assert written not in await keys(s3_bucket.store())
    assert await rows(database, "file_removals") == await rows(database) == 0

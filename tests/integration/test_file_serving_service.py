"""The HTTP server for presigned content, as a part of the Jobs service."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.rpc import error_details_pb2
from yarl import URL

from millrace_database.database import Database
from millrace_jobs.service import definition
from millrace_runtime.service import running
from millrace_runtime.settings import Settings, StartupError
from support.files_api import (
    CONTENT,
    confirm,
    content_of,
    download_url,
    fetch,
    initiate,
    put,
    residue,
    stored,
    upload,
)
from support.jobs_api import detail, refusal, serving, status_of
from support.polling import eventually
from support.s3_server import S3Server

# New files go to a server that nobody asks here.
_ON_S3: dict[str, Any] = {
    "storage_provider": "s3",
    "s3_bucket": "bucket",
    "s3_endpoint": "http://127.0.0.1:1",
    "s3_attempts": 1,
}


@pytest.fixture(autouse=True)
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some to ask that server with."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_port_that_is_taken_is_named_with_its_variable(database: Database, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(jobs_port=0, files_port=port, data_dir=tmp_path)

        with pytest.raises(StartupError) as refused:
            async with running(definition, settings, database):
                pass

    assert str(refused.value) == (
        f"MILLRACE_FILES_PORT: cannot listen on 127.0.0.1:{port}: address already in use"
    )


async def test_services_of_one_folder_take_each_others_uploads(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as one, serving(database, tmp_path) as other:
        announced, url = await initiate(one), await download_url(other, (await upload(one)).file_id)
        host, elsewhere = URL(url).authority, URL(announced.url).authority
        assert host != elsewhere

        announced.url = announced.url.replace(elsewhere, host)
        assert await put(announced) == 200
        assert (await confirm(other, announced.upload_id)).size_bytes == len(CONTENT)
        assert await fetch(url.replace(host, elsewhere)) == await fetch(url)


async def test_the_urls_are_those_that_clients_know(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path, files_url="https://files.test/base/") as api:
        assert (await initiate(api)).url.startswith("https://files.test/base/incoming/")
    async with serving(database, tmp_path, advertised_host="jobs.test") as api:
        assert (await initiate(api)).url.startswith("http://jobs.test:")


async def test_a_file_that_was_made_shorter_is_not_served_as_a_whole(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as api:
        file = await upload(api)
        url = await download_url(api, file.file_id)
        [path] = [path for path in (tmp_path / "files").rglob("org-acme/*/*") if path.is_file()]
        os.truncate(path, file.size_bytes - 1)
        assert (await fetch(url))[0] == 404


async def test_with_another_store_nothing_listens(database: Database, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(jobs_port=0, files_port=taken.getsockname()[1], data_dir=tmp_path, **_ON_S3)
        async with running(definition, settings, database):
            pass

    assert _entries(tmp_path) == []


async def test_requests_of_files_that_are_here_are_taken_with_another_store_too(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path) as api:
        announced, file = await initiate(api), await upload(api)
        url = await download_url(api, file.file_id)
    async with serving(database, tmp_path, **_ON_S3) as api:
        again = await download_url(api, file.file_id)
        host, before = URL(again).authority, URL(url).authority
        announced.url = announced.url.replace(before, host)
        assert [(await fetch(link))[2] for link in (again, url.replace(before, host))] == [CONTENT] * 2
        assert await put(announced) == 200
        assert (await confirm(api, announced.upload_id)).size_bytes == len(CONTENT)


async def test_for_older_files_alone_a_port_that_is_taken_ends_nothing(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(jobs_port=0, files_port=port, data_dir=tmp_path, **_ON_S3)
        async with running(definition, settings, database) as service:
            assert service.address


async def test_a_folder_that_cannot_be_served_is_named(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as api:
        file = await upload(api)
    (tmp_path / "files" / ".presigning-key").write_bytes(b"short")

    with pytest.raises(StartupError, match=f"^MILLRACE_DATA_DIR: cannot use {tmp_path}/files: .*damaged"):
        async with serving(database, tmp_path):
            pass
    # Where only older files are there, all the rest goes on.
    async with serving(database, tmp_path, **_ON_S3) as api:
        assert await content_of(api, file.file_id) == CONTENT
        error = await refusal(download_url(api, file.file_id))
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "STORE_REFUSED"


async def test_requests_at_work_have_the_grace_period_and_leave_nothing(
    database: Database, tmp_path: Path
) -> None:
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CONTENT[:5]
        await more.wait()

    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        async with serving(database, tmp_path, shutdown_grace_seconds=0.3) as api:
            announced = await initiate(api)
            request = http.put(
                URL(announced.url, encoded=True),
                data=slow(),
                headers={**announced.headers, "Content-Length": str(len(CONTENT))},
            )
            sending = asyncio.ensure_future(request)

            async def has_begun() -> bool:
                return stored(tmp_path) != []

            await eventually(has_begun)
        # The service has ended, although its client has not.
        assert await residue(database, tmp_path) == {"file_uploads": 1}
        more.set()
        await asyncio.gather(sending, return_exceptions=True)

"""The HTTP server for presigned content, as a part of the Jobs service."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from millrace_database.database import Database
from millrace_jobs.service import definition
from millrace_runtime.service import running
from millrace_runtime.settings import Settings, StartupError
from support.files_api import CONTENT, confirm, download_url, fetch, initiate, put, residue, stored, upload
from support.jobs_api import eventually, serving


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


async def test_with_another_store_nothing_listens(database: Database, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(
            jobs_port=0,
            files_port=taken.getsockname()[1],
            data_dir=tmp_path,
            storage_provider="s3",
            s3_bucket="bucket",
            s3_endpoint="http://127.0.0.1:1",
        )
        async with running(definition, settings, database):
            pass


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

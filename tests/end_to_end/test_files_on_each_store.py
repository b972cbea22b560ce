"""The same work on each object store: a file goes up, is imported and reported on, and the report comes down."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from millrace_client import FileState, Millrace
from millrace_database.database import Database
from millrace_jobs.service import definition as jobs_service
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from millrace_worker.registry import load_handlers
from millrace_worker.service import worker_service
from support.s3_server import S3Bucket

_AIRPORTS = Path(__file__).parents[2] / "examples" / "data" / "airports.csv"
_REPORT = {"dataset": "airports", "format": "csv"}


@asynccontextmanager
async def system(database: Database, folder: Path, **storage: Any) -> AsyncIterator[Millrace]:
    """The Jobs service and a worker with the handlers that Millrace brings along, and a client of them."""
    settings = Settings(jobs_port=0, worker_port=0, files_port=0, data_dir=folder, **storage)
    worker = worker_service(load_handlers(["millrace_worker.handlers"]))
    async with (
        running(jobs_service, settings, database) as jobs,
        running(worker, settings, database),
        Millrace(jobs.address, org_id="acme") as client,
    ):
        yield client


def on(store: str, bucket: S3Bucket) -> dict[str, Any]:
    """The settings that have new files kept in a store; S3 is known in either case."""
    return {
        "storage_provider": store,
        "s3_bucket": bucket.name,
        "s3_endpoint": bucket.server.endpoint,
        "s3_prefix": "production/",
    }


async def _report_of(client: Millrace, *, direct: bool) -> tuple[str, bytes]:
    """Import the airports, report on them, and return the report's id and content, by all ways it can be had."""
    send = client.files.upload_directly if direct else client.files.upload
    uploaded = await send(_AIRPORTS, temporary=True)
    created = await client.jobs.create("imports:load", {"file_id": uploaded.file_id, "dataset": "airports"})
    await client.jobs.wait(created.job_id, timeout=60)
    created = await client.jobs.create("reports:generate", _REPORT)
    report = await client.jobs.wait(created.job_id, timeout=60)
    content = io.BytesIO()
    described = await client.jobs.download_output(report.job_id, content)
    assert described.state is FileState.WITH_JOB
    assert described.job_id == report.job_id
    assert await client.files.read(described.file_id) == content.getvalue()
    return described.file_id, content.getvalue()


@pytest.mark.parametrize("direct", [False, True], ids=["through the service", "straight to the store"])
async def test_the_same_bytes_come_out_of_both_stores(
    database: Database, tmp_path: Path, s3_bucket: S3Bucket, direct: bool
) -> None:
    reports = {}
    for store in ("local", "s3"):
        async with system(database, tmp_path, **on(store, s3_bucket)) as client:
            file_id, reports[store] = await _report_of(client, direct=direct)
            async with database.connection() as connection:
                kept_in = await connection.fetchval(
                    "SELECT provider FROM files ORDER BY file_id DESC LIMIT 1"
                )
                await connection.execute("DELETE FROM datasets")
        assert kept_in == store
        assert file_id
    assert reports["local"] == reports["s3"]
    assert len(reports["s3"]) > 1000


async def test_files_stay_readable_after_the_provider_was_changed_and_changed_back(
    database: Database, tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    kept: dict[str, bytes] = {}
    for number, store in enumerate(("local", "s3", "local")):
        async with (
            system(database, tmp_path, **on(store, s3_bucket)) as client,
            aiohttp.ClientSession() as http,
        ):
            content = f"written as the {number}th".encode()
            kept[(await client.files.upload(content, "note.txt")).file_id] = content
            for file_id, expected in kept.items():
                assert await client.files.read(file_id) == expected
                link = URL((await client.files.download_url(file_id)).url, encoded=True)
                async with http.get(link) as answer:
                    assert (answer.status, await answer.read()) == (200, expected)

"""Jobs whose handlers meet an object store that does not do what it is asked: the store's words stay in the log."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_options import JobOptions, RetryRule
from millrace_storage import (
    FileRecord,
    ObjectMissingError,
    StoreNotConfigured,
    StoreRefusedError,
    StoreUnavailableError,
)
from millrace_worker import JobContext, Registry
from millrace_worker.handlers.stored_files import open_file
from support.object_stores import chunks_of
from support.s3_server import S3Bucket
from support.worker_runs import create, finished, worker


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.mark.parametrize(
    ("error", "code", "message", "attempts", "event"),
    [
        (
            StoreUnavailableError("secret"),
            "STORE_UNAVAILABLE",
            "The object store cannot be reached.",
            2,
            "handler met an object store that is away",
        ),
        (
            StoreRefusedError("secret"),
            "STORE_REFUSED",
            "The object store refused the request.",
            2,
            "handler failed",
        ),
        (
            StoreNotConfigured("s3", "secret"),
            "STORE_NOT_CONFIGURED",
            "A file is in an object store that the worker has no access to.",
            2,
            "handler failed",
        ),
        (
            ObjectMissingError("org-acme/00/secret"),
            "CONTENT_MISSING",
            "The content of a file is no longer in the object store.",
            1,
            "handler failed",
        ),
    ],
)
@pytest.mark.parametrize("grouped", [False, True])
async def test_the_job_says_what_it_was_without_the_stores_words(
    database: Database,
    registry: Registry,
    tmp_path: Path,
    *,
    error: Exception,
    code: str,
    message: str,
    attempts: int,
    event: str,
    grouped: bool,
) -> None:
    async def fail() -> None:
        raise error

    @registry.job_handler("orders:keep")
    async def keep(context: JobContext[dict[str, Any]]) -> None:
        if not grouped:
            await fail()
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    # So that a store that is away is not waited for.
    options = JobOptions(retry=RetryRule(initial_delay=timedelta(milliseconds=10)))
    with capture_logs() as logged:
        async with worker(database, registry, tmp_path):
            (job_id,) = await create(database, "orders:keep", max_attempts=2, options=options)
            job = await finished(database, job_id)

    assert (job.error_code, job.error_message, job.attempt) == (code, message, attempts)
    told = [line for line in logged if line["event"] == event]
    assert [line["job_id"] for line in told] == [format_id("job", job_id)] * attempts
    assert all("secret" in str(line) for line in told)
    assert [line for line in logged if line["log_level"] in ("warning", "error")] == told


async def test_a_store_that_is_away_is_one_line_for_each_attempt(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:keep")
    async def keep(context: JobContext[dict[str, Any]]) -> None:
        raise StoreUnavailableError("no answer from 10.0.0.1")

    options = JobOptions(retry=RetryRule(initial_delay=timedelta(milliseconds=100), jitter=0))
    with capture_logs() as logged:
        async with worker(database, registry, tmp_path):
            (job_id,) = await create(database, "orders:keep", max_attempts=2, options=options)
            await finished(database, job_id)

    assert [line for line in logged if line["log_level"] in ("warning", "error")] == [
        {
            "event": "handler met an object store that is away",
            "log_level": "warning",
            "error": "StoreUnavailableError: no answer from 10.0.0.1",
            "next_attempt_in_seconds": wait,
            "job_id": format_id("job", job_id),
            "org_id": "acme",
            "type": "orders:keep",
            "attempt": attempt,
        }
        for attempt, wait in ((1, 0.1), (2, None))
    ]


@pytest.mark.parametrize("own_word", [False, True])
async def test_lost_content_is_told_to_operators(
    database: Database, registry: Registry, tmp_path: Path, *, own_word: bool
) -> None:
    saved: list[FileRecord] = []

    @registry.job_handler("orders:keep")
    async def keep(context: JobContext[dict[str, Any]]) -> None:
        files = context.resources.files
        file = await files.save(
            org_id="acme", name="a", content_type="text/plain", created_by="", chunks=chunks_of(b"content")
        )
        saved.append(file)
        for path in (tmp_path / "files").rglob("*"):
            if path.is_file():
                path.unlink()
                path.write_bytes(b"con")
        if own_word:
            await open_file(context, format_id("file", file.file_id))
        else:
            await files.open("acme", file.file_id)

    with capture_logs() as logged:
        async with worker(database, registry, tmp_path):
            (job_id,) = await create(database, "orders:keep")
            job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("failed", "CONTENT_MISSING")
    (file,) = saved
    assert [line for line in logged if line["log_level"] in ("warning", "error")] == [
        {
            "event": "the content of a file is lost",
            "log_level": "error",
            "file_id": format_id("file", file.file_id),
            "object_key": file.object_key,
            "expected_bytes": len(b"content"),
            "found_bytes": len(b"con"),
            "job_id": format_id("job", job_id),
            "org_id": "acme",
            "type": "orders:keep",
            "attempt": 1,
        }
    ]


async def test_a_bucket_that_has_gone_fails_a_job_in_plain_words(
    database: Database, registry: Registry, tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    @registry.job_handler("orders:keep")
    async def keep(context: JobContext[dict[str, Any]]) -> None:
        chunks: AsyncIterator[bytes] = chunks_of(b"content")
        await context.resources.files.save(
            org_id=context.org_id, name="a", content_type="text/plain", created_by="", chunks=chunks
        )

    s3 = {
        "storage_provider": "s3",
        "s3_bucket": s3_bucket.name,
        "s3_endpoint": s3_bucket.server.endpoint,
    }
    async with worker(database, registry, tmp_path, **s3):
        await s3_bucket.clients.own.delete_bucket(Bucket=s3_bucket.name)
        (job_id,) = await create(database, "orders:keep", max_attempts=1)
        job = await finished(database, job_id)
    await s3_bucket.clients.own.create_bucket(Bucket=s3_bucket.name)

    assert (job.error_code, job.error_message) == (
        "STORE_REFUSED",
        "The object store refused the request.",
    )

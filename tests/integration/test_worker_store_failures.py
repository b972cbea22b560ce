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
    ObjectMissingError,
    StoreNotConfigured,
    StoreRefusedError,
    StoreUnavailableError,
)
from millrace_worker import JobContext, Registry
from support.object_stores import chunks_of
from support.s3_server import S3Bucket
from support.worker_runs import create, finished, worker


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.mark.parametrize(
    ("error", "code", "message", "attempts"),
    [
        (StoreUnavailableError("secret"), "STORE_UNAVAILABLE", "The object store cannot be reached.", 2),
        (StoreRefusedError("secret"), "STORE_REFUSED", "The object store refused the request.", 2),
        (
            StoreNotConfigured("s3", "secret"),
            "STORE_NOT_CONFIGURED",
            "A file is in an object store that the worker has no access to.",
            2,
        ),
        (
            ObjectMissingError("org-acme/00/secret"),
            "CONTENT_MISSING",
            "The content of a file is no longer in the object store.",
            1,
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
    told = [line for line in logged if line["event"] == "handler failed"]
    assert [line["job_id"] for line in told] == [format_id("job", job_id)] * attempts


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

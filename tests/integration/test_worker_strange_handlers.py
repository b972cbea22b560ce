"""Handlers that misuse what they are given: each harms its own job only, and the worker goes on."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_worker import Backoff, JobContext, JobError, Registry, execution
from support.worker_runs import create, finished, job_with, worker


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def test_an_error_whose_message_is_no_text_fails_its_job_only(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("strange:message")
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        message: Any = ValueError("no such order")
        raise JobError("NO_SUCH_ORDER", message)

    @registry.job_handler("strange:other")
    async def other(context: JobContext[dict[str, Any]]) -> None:
        await asyncio.sleep(0.5)

    async with worker(database, registry, tmp_path):
        (other_id,) = await create(database, "strange:other")
        (job_id,) = await create(database, "strange:message")
        job = await finished(database, job_id, within=5)
        assert (await finished(database, other_id)).status == "completed"

    assert (job.status, job.error_code, job.error_message) == ("failed", "NO_SUCH_ORDER", "no such order")


@pytest.mark.parametrize(
    "delay",
    [timedelta(days=3_000_000), timedelta(days=120_000_000), timedelta.max],
    ids=["y10k", "pg", "max"],
)
async def test_a_wait_beyond_all_calendars_is_a_very_long_one(
    database: Database, registry: Registry, tmp_path: Path, delay: timedelta
) -> None:
    runs = []

    @registry.job_handler("strange:later")
    async def later(context: JobContext[dict[str, Any]]) -> None:
        runs.append(context.attempt)
        raise JobError("LATER", "in a while", retryable=True, retry_after=delay)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "strange:later")
        job = await job_with(database, job_id, lambda job: job.error_code == "LATER", within=5)
        await asyncio.sleep(1)

    assert (job.status, runs) == ("pending", [1])


async def test_a_backoff_beyond_all_calendars_is_a_very_long_one(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("strange:backoff", backoff=Backoff(base=timedelta.max, cap=timedelta.max, jitter=1))
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        raise ValueError("broken")

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "strange:backoff")
        job = await job_with(database, job_id, lambda job: job.error_code is not None, within=5)

    assert (job.status, job.error_code) == ("pending", "HANDLER_ERROR")


async def test_an_error_of_its_own_kind_that_says_nothing_fails_its_job_only(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    class SilentError(JobError):
        def __init__(self) -> None:
            """Say nothing, not even to the base class."""

        def __str__(self) -> str:
            return "silent"

    @registry.job_handler("strange:silent")
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        raise SilentError

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "strange:silent", max_attempts=1)
        job = await finished(database, job_id, within=5)

    assert (job.status, job.error_code) == ("failed", "HANDLER_ERROR")
    assert job.error_message == "SilentError: silent"


async def test_a_failure_that_the_database_refuses_ends_its_job(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "LONGEST_WAIT", timedelta.max)
    runs = []

    @registry.job_handler("strange:refused")
    async def later(context: JobContext[dict[str, Any]]) -> None:
        runs.append(context.attempt)
        raise JobError("LATER", "in a while", retryable=True, retry_after=timedelta.max)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "strange:refused")
        job = await finished(database, job_id, within=5)

    assert (job.status, job.error_code, runs) == ("failed", "INVALID_OUTPUT", [1])


async def test_errors_that_cannot_be_shown_fail_their_job_only(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    class EvilError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    @registry.job_handler("strange:evil")
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        raise EvilError

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "strange:evil", max_attempts=1)
        job = await finished(database, job_id, within=5)

    assert (job.status, job.error_code, job.error_message) == ("failed", "HANDLER_ERROR", "EvilError")

import asyncio
from pathlib import Path
from typing import Any

import pytest

import millrace_queue
from millrace_database.database import Database
from millrace_worker import JobContext, JobError, Registry, SyncJobContext, progress
from support.worker_runs import create, fetch, finished, job_with, worker

UPDATES = 10_000


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def test_ten_thousand_updates_become_few_writes_and_the_last_one_lands(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("counts:async")
    async def count(context: JobContext[dict[str, Any]]) -> None:
        for number in range(1, UPDATES + 1):
            await context.update_progress(number * 90 // UPDATES, f"number {number}")
            await context.update_processed_items(number, total=UPDATES)
        raise JobError("STOP", "So that the progress stays.")

    @registry.job_handler("counts:thread")
    def count_in_thread(context: SyncJobContext[dict[str, Any]]) -> None:
        for number in range(1, UPDATES + 1):
            context.update_progress(number * 90 // UPDATES, f"number {number}")
            context.update_processed_items(number, total=UPDATES)
        raise JobError("STOP", "So that the progress stays.")

    async with worker(database, registry, tmp_path):
        ids = await create(database, "counts:async") + await create(database, "counts:thread")
        jobs = [await finished(database, job_id) for job_id in ids]

    for job in jobs:
        assert (job.progress, job.message) == (90, f"number {UPDATES}")
        assert (job.processed_items, job.total_items) == (UPDATES, UPDATES)
        # Created, claimed and failed, and a write each quarter of a second.
        assert job.version <= 25


async def test_progress_is_seen_while_the_handler_runs_and_cleared_for_the_next_attempt(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    proceed = asyncio.Event()

    @registry.job_handler("counts:steps")
    async def steps(context: JobContext[dict[str, Any]]) -> None:
        if context.attempt == 1:
            await context.update_progress(40, "nearly half")
            await context.update_processed_items(4, total=10)
            await proceed.wait()
            raise JobError("AGAIN", "Once more.", retryable=True, retry_after=None)
        await proceed.wait()

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "counts:steps")
        job = await job_with(database, job_id, lambda job: job.progress == 40)
        assert (job.status, job.message, job.processed_items, job.total_items) == (
            "processing",
            "nearly half",
            4,
            10,
        )
        proceed.set()
        assert (await finished(database, job_id)).message == ""


async def test_what_cannot_be_progress_is_the_handlers_mistake(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    raised = []

    @registry.job_handler("counts:wrong")
    async def wrong(context: JobContext[dict[str, Any]]) -> None:
        for call in (
            context.update_progress(101),
            context.update_progress(-1),
            context.update_processed_items(-1),
            context.update_processed_items(1, total=2**63),
        ):
            try:
                await call
            except ValueError as error:
                raised.append(str(error))

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "counts:wrong")
        assert (await finished(database, job_id)).status == "completed"

    assert len(raised) == 4
    assert "101" in raised[0]


async def test_updates_of_many_jobs_share_their_writes(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    jobs = 50
    release = asyncio.Event()
    entered = 0

    @registry.job_handler("counts:many", concurrency=jobs)
    async def many(context: JobContext[dict[str, Any]]) -> None:
        nonlocal entered
        entered += 1
        while not release.is_set():
            await context.update_progress(entered)
            await asyncio.sleep(0.01)

    async with worker(database, registry, tmp_path):
        ids = await create(database, "counts:many", [{}] * jobs)
        for job_id in ids:
            await job_with(database, job_id, lambda job: job.progress > 0)
        release.set()
        for job_id in ids:
            assert (await finished(database, job_id)).status == "completed"
        (row,) = await fetch(database, "SELECT max(version) AS versions FROM jobs")

    assert row["versions"] <= 25


async def test_a_handler_that_holds_its_own_job_for_long_holds_up_no_other(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    held, release = asyncio.Event(), asyncio.Event()

    @registry.job_handler("progress:holder")
    async def hold(context: JobContext[dict[str, Any]]) -> None:
        async with context.resources.database.transaction() as connection:
            await millrace_queue.confirm(connection, [context.lease])
            await context.update_progress(30)
            held.set()
            await release.wait()
        await context.update_processed_items(3)

    @registry.job_handler("progress:quick")
    async def quick(context: JobContext[dict[str, Any]]) -> None:
        await context.update_progress(50, "quick")

    async with worker(database, registry, tmp_path):
        (holder_id,) = await create(database, "progress:holder")
        await held.wait()
        await asyncio.sleep(2 * progress.WRITE_INTERVAL_SECONDS)
        (quick_id,) = await create(database, "progress:quick")
        job = await finished(database, quick_id, within=3)
        assert (job.status, job.message) == ("completed", "quick")
        release.set()
        job = await finished(database, holder_id, within=3)

    assert (job.status, job.processed_items, job.attempt) == ("completed", 3, 1)

"""How attempts end, as a worker has it, and what it leaves behind of them."""

import asyncio
import ctypes
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_attempts_repository import count_attempts
from millrace_database.job_lifecycle import rescue_jobs
from millrace_database.job_options import JobOptions, RetryRule
from millrace_worker import Backoff, JobContext, JobError, JobSnoozed, Registry, SyncJobContext
from support.worker_runs import (
    create,
    eventually,
    fetch,
    fetched,
    finished,
    job_with,
    output,
    read,
    worker,
)

_AT_ONCE = Backoff(base=timedelta())


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def _counts(database: Database, job_id: UUID) -> dict[str, int]:
    async with database.connection() as connection:
        return dict(await count_attempts(connection, None, job_id))


async def test_a_job_may_be_put_off_more_often_than_it_has_attempts(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    calls = []

    @registry.job_handler("attempts:wait")
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        calls.append(context.attempt)
        if len(calls) < 4:
            raise JobSnoozed(timedelta(milliseconds=20), "The file is not there yet.")

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "attempts:wait", max_attempts=1)
        job = await finished(database, job_id)

    assert (job.status, job.attempt, calls) == ("completed", 1, [1, 1, 1, 1])
    assert await _counts(database, job_id) == {"snoozed": 3, "completed": 1}


async def test_people_see_why_a_job_is_put_off(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("attempts:wait")
    def wait(context: SyncJobContext[dict[str, Any]]) -> None:
        raise JobSnoozed(timedelta(hours=1), "The file is not there yet.")

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "attempts:wait")
        job = await job_with(database, job_id, lambda job: bool(job.message))

    assert (job.status, job.attempt, job.error_code) == ("pending", 0, None)
    assert job.message == "The file is not there yet."
    assert job.run_at - job.created_at > timedelta(minutes=59)


async def test_a_job_that_is_to_be_cancelled_is_not_put_off(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    started, proceed = threading.Event(), threading.Event()

    @registry.job_handler("attempts:wait")
    def wait(context: SyncJobContext[dict[str, Any]]) -> None:
        started.set()
        proceed.wait(10)
        raise JobSnoozed(timedelta(hours=1))

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "attempts:wait")
        await eventually(started.is_set)
        await fetch(database, "UPDATE queue SET cancel_requested = true")
        await fetch(database, "UPDATE jobs SET status = 'cancelling', version = version + 1")
        # It stays so until the handler has stopped.
        assert (await read(database, job_id)).status == "cancelling"
        proceed.set()
        job = await finished(database, job_id)

    assert job.status == "cancelled"
    assert await _counts(database, job_id) == {"cancelled": 1}


async def test_a_job_may_have_a_timeout_of_its_own(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("attempts:wait", backoff=_AT_ONCE)
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        await asyncio.Event().wait()

    async with worker(database, registry, tmp_path):
        options = JobOptions(timeout=timedelta(milliseconds=50))
        (job_id,) = await create(database, "attempts:wait", max_attempts=2, options=options)
        job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("failed", "TIMEOUT")
    assert job.error_message == "The attempt took longer than 0.05 s."
    assert await _counts(database, job_id) == {"timed_out": 2}


async def test_a_job_may_wait_for_its_attempts_as_its_creator_says(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("attempts:fail", backoff=Backoff(timedelta(minutes=1), jitter=0, kind="linear"))
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        raise JobError("BUSY", "Busy.", retryable=True)

    async with worker(database, registry, tmp_path):
        rules = [RetryRule(initial_delay=timedelta(hours=3), max_delay=timedelta(hours=4)), None]
        waits = []
        for rule in rules:
            (job_id,) = await create(database, "attempts:fail", options=JobOptions(retry=rule))
            await job_with(database, job_id, lambda job: job.error_code == "BUSY")
            (row,) = await fetch(
                database, "SELECT run_at - started_at AS wait FROM jobs WHERE job_id = $1", job_id
            )
            waits.append(row["wait"])

    assert [round(wait / timedelta(minutes=1)) for wait in waits] == [180, 1]


async def test_options_of_a_newer_release_do_not_stop_a_worker(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("attempts:work")
    async def work(context: JobContext[dict[str, Any]]) -> None:
        pass

    (job_id,) = await create(database, "attempts:work", options=JobOptions(retry=RetryRule(factor=2)))
    await fetch(database, """UPDATE jobs SET options = '{"retry": {"unheard": "of"}}'""")
    async with worker(database, registry, tmp_path):
        assert (await finished(database, job_id)).status == "completed"


async def test_a_dead_letter_is_run_at_once(database: Database, registry: Registry, tmp_path: Path) -> None:
    @registry.job_handler("attempts:fail", dead_letter="attempts:dead")
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        raise JobError("BROKEN", "It broke.")

    @registry.job_handler("attempts:dead")
    async def bury(context: JobContext[dict[str, Any]]) -> dict[str, Any]:
        return context.input

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "attempts:fail", [{"order": 7}])
        (letter,) = await fetched(
            database, "SELECT job_id FROM jobs WHERE parent_job_id IS NOT NULL", lambda rows: rows
        )
        job = await finished(database, letter["job_id"])

    assert output(job) == {
        "job_id": format_id("job", job_id),
        "type": "attempts:fail",
        "input": {"order": 7},
        "metadata": {},
        "attempts": 1,
        "error": {"code": "BROKEN", "message": "It broke."},
    }


async def test_a_worker_fails_jobs_whose_deadline_is_over(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        (now,) = await fetch(database, "SELECT now() AS now")
        options = JobOptions(deadline=now["now"] + timedelta(milliseconds=100))
        (job_id,) = await create(database, "attempts:unknown", options=options)
        job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("failed", "DEADLINE_EXCEEDED")


async def test_a_worker_says_which_of_its_leases_were_lost(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("attempts:wait")
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        if context.attempt == 1:
            await asyncio.Event().wait()

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "attempts:wait")
        await job_with(database, job_id, lambda job: job.status == "processing")
        await fetch(database, "DELETE FROM queue_workers")
        async with database.transaction() as connection:
            assert len(await rescue_jobs(connection, limit=10)) == 1
        assert (await finished(database, job_id)).status == "completed"
        await fetched(
            database, "SELECT outcome FROM job_attempts", lambda rows: rows[0]["outcome"] == "lease_lost"
        )


async def test_a_handler_that_holds_the_interpreter_for_longer_than_a_lease_is_quarantined(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    interpreter_held = ctypes.PyDLL(None)

    @registry.job_handler("attempts:hold")
    async def hold(context: JobContext[dict[str, Any]]) -> None:
        while True:
            interpreter_held.usleep(1_600_000)
            await asyncio.sleep(0)

    async with worker(database, registry, tmp_path, lease_seconds=1.2, heartbeat_seconds=0.2):
        (job_id,) = await create(database, "attempts:hold", max_attempts=10)
        job = await finished(database, job_id, within=60)

    assert (job.status, job.error_code) == ("failed", "QUARANTINED")
    assert (await _counts(database, job_id))["lease_lost"] == 3
    # It was not claimed and handed back over and over while handlers were not to run.
    assert job.version < 30

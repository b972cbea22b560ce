"""Cancelling jobs that somebody else's transaction has locked."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

import millrace_queue
from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_lifecycle import ClaimedJob, complete_jobs
from millrace_jobs import bulk_job_changes, job_control_methods
from millrace_worker import JobContext, Registry
from support.jobs_api import JobsApi, claim, detail, refusal, serving, start_worker, status_of
from support.polling import eventually
from support.queue_samples import disagreements
from support.worker_runs import create, finished, worker

PROCESSING = job_pb2.JOB_STATUS_PROCESSING
CANCELLING = job_pb2.JOB_STATUS_CANCELLING
CANCELLED = job_pb2.JOB_STATUS_CANCELLED


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api
    async with database.connection() as connection:
        assert await disagreements(connection) == []


async def _cancel(api: JobsApi, job_id: str) -> job_pb2.Job:
    request = jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=job_id)
    return (await api.jobs.CancelJob(request)).job


async def _cancel_all(api: JobsApi) -> tuple[int, int, bool]:
    request = jobs_service_pb2.CancelJobsRequest(org_id="acme", filter=jobs_service_pb2.JobFilter())
    response = await api.jobs.CancelJobs(request)
    return response.cancelled, response.cancelling, response.more


async def _running(api: JobsApi, database: Database) -> ClaimedJob:
    await api.create()
    return await claim(database, await start_worker(database))


def _id(job: ClaimedJob) -> str:
    return format_id("job", job.claim.id)


async def test_a_handler_that_holds_its_own_job_is_cancelled_all_the_same(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    registry = Registry()
    held = asyncio.Event()

    @registry.job_handler("locks:hold")
    async def hold(context: JobContext[dict[str, Any]]) -> None:
        async with context.resources.database.transaction() as connection:
            await millrace_queue.confirm(connection, [context.lease])
            held.set()
            await asyncio.Event().wait()

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "locks:hold")
        await held.wait()

        assert (await _cancel(api, format_id("job", job_id))).status == CANCELLING
        assert (await finished(database, job_id)).status == "cancelled"


async def test_it_is_cancelling_until_its_handler_has_stopped(api: JobsApi, database: Database) -> None:
    job = await _running(api, database)
    async with database.transaction() as handler:
        await millrace_queue.confirm(handler, [job.lease])

        assert (await _cancel(api, _id(job))).status == CANCELLING
        assert (await api.get(_id(job))).status == CANCELLING
        assert (await _cancel(api, _id(job))).status == CANCELLING


async def test_so_are_many(api: JobsApi, database: Database) -> None:
    job = await _running(api, database)
    await api.create()
    async with database.transaction() as handler:
        await millrace_queue.confirm(handler, [job.lease])

        assert await _cancel_all(api) == (1, 1, False)


async def test_a_job_that_an_open_transaction_completes_is_not_waited_for_without_end(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_control_methods, "_PATIENCE", timedelta(milliseconds=50))
    job = await _running(api, database)
    async with database.connection() as other:
        completing = other.transaction()
        await completing.start()
        await complete_jobs(other, [(job.lease, "{}")])

        error = await refusal(_cancel(api, _id(job)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "JOB_LOCKED"
        assert detail(status_of(error), error_details_pb2.RetryInfo).retry_delay.ToTimedelta() > timedelta()
        assert (await api.get(_id(job))).status == PROCESSING
        await completing.rollback()

    assert (await _cancel(api, _id(job))).status == CANCELLING


async def test_many_are_cancelled_without_the_one_that_an_open_transaction_completes(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_job_changes, "_LOCKED_SECONDS", 0.1)
    job = await _running(api, database)
    for _ in range(3):
        await api.create()
    async with database.connection() as other:
        completing = other.transaction()
        await completing.start()
        await complete_jobs(other, [(job.lease, "{}")])

        assert await _cancel_all(api) == (3, 0, True)
        assert await _cancel_all(api) == (0, 0, True)
        await completing.rollback()

    assert await _cancel_all(api) == (0, 1, False)


@pytest.mark.parametrize("commits", [True, False])
async def test_what_was_locked_for_a_moment_is_seen_to_in_the_same_call(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch, *, commits: bool
) -> None:
    monkeypatch.setattr(bulk_job_changes, "_LOCKED_SECONDS", 60)
    job = await _running(api, database)
    waiting = await api.create()
    async with database.connection() as other:
        completing = other.transaction()
        await completing.start()
        await complete_jobs(other, [(job.lease, "{}")])
        cancelling = asyncio.create_task(_cancel_all(api))

        async def others_are_cancelled() -> bool:
            return (await api.get(waiting.job_id)).status == CANCELLED

        await eventually(others_are_cancelled)
        assert not cancelling.done()
        await (completing.commit() if commits else completing.rollback())
        assert await cancelling == (1, 0 if commits else 1, False)

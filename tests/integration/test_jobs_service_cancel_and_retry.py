import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    ClaimedJob,
    JobFailure,
    cancelled_jobs,
    complete_jobs,
    fail_jobs,
)
from millrace_jobs import execution_canceller
from millrace_queue import CHANNEL_READY
from support.jobs_api import (
    ANY_TYPE,
    MAX_ATTEMPTS,
    JobsApi,
    claim,
    detail,
    refusal,
    serving,
    start_worker,
    status_of,
)
from support.processes import set_dead_proxy
from support.scripted_server import scripted_server

CANCELLED = job_pb2.JOB_STATUS_CANCELLED
CANCELLING = job_pb2.JOB_STATUS_CANCELLING


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _cancel(api: JobsApi, job_id: str, org_id: str = "acme") -> job_pb2.Job:
    request = jobs_service_pb2.CancelJobRequest(org_id=org_id, job_id=job_id)
    return (await api.jobs.CancelJob(request)).job


async def _retry(api: JobsApi, job_id: str, org_id: str = "acme") -> job_pb2.Job:
    request = jobs_service_pb2.RetryJobRequest(org_id=org_id, job_id=job_id)
    return (await api.jobs.RetryJob(request)).job


async def _complete(database: Database, job: ClaimedJob) -> None:
    async with database.transaction() as connection:
        assert await complete_jobs(connection, [(job.lease, "{}")])


async def _fail(database: Database, job: ClaimedJob) -> None:
    async with database.transaction() as connection:
        await fail_jobs(
            connection, [JobFailure(job.lease, None, "NO_PAPER", "out of paper", retryable=False)]
        )


async def test_a_waiting_job_is_cancelled_at_once_and_only_once(api: JobsApi, database: Database) -> None:
    created = await api.create()

    cancelled = await _cancel(api, created.job_id)

    assert cancelled.status == CANCELLED
    assert cancelled.HasField("completed_at")
    assert await _cancel(api, created.job_id) == cancelled
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM queue") == 0


async def test_a_running_job_is_cancelling_until_its_handler_stopped(
    api: JobsApi, database: Database
) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    job = await claim(database, worker_id)

    cancelling = await _cancel(api, created.job_id)
    assert cancelling.status == CANCELLING
    assert not cancelling.HasField("completed_at")
    assert await _cancel(api, created.job_id) == cancelling

    async with database.transaction() as connection:
        assert await cancelled_jobs(connection, [job.lease])
    assert (await api.get(created.job_id)).status == CANCELLED


async def test_a_handler_that_finishes_first_wins(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    job = await claim(database, worker_id)

    assert (await _cancel(api, created.job_id)).status == CANCELLING
    await _complete(database, job)

    assert (await api.get(created.job_id)).status == job_pb2.JOB_STATUS_COMPLETED


@pytest.mark.parametrize(("end", "status"), [(_complete, "COMPLETED"), (_fail, "FAILED")])
async def test_a_finished_job_cannot_be_cancelled(
    api: JobsApi, database: Database, end: Any, status: str
) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    await end(database, await claim(database, worker_id))

    error = await refusal(_cancel(api, created.job_id))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = detail(status_of(error), error_details_pb2.PreconditionFailure).violations
    assert (violation.type, violation.subject) == (f"JOB_{status}", created.job_id)
    assert (await api.get(created.job_id)).status == job_pb2.JobStatus.Value(f"JOB_STATUS_{status}")


class _Worker(worker_service_pb2_grpc.WorkerServiceServicer):
    """A worker that only notes which executions it is told to cancel."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def ListWorkers(  # noqa: N802 - the contract's name
        self, _request: worker_service_pb2.ListWorkersRequest, _context: Any
    ) -> worker_service_pb2.ListWorkersResponse:
        raise NotImplementedError

    async def CancelExecution(  # noqa: N802 - the contract's name
        self, request: worker_service_pb2.CancelExecutionRequest, _context: Any
    ) -> worker_service_pb2.CancelExecutionResponse:
        self.told.put_nowait((request.org_id, request.job_id))
        return worker_service_pb2.CancelExecutionResponse()


@asynccontextmanager
async def _serving_worker() -> AsyncIterator[tuple[str, _Worker]]:
    worker = _Worker()
    add = worker_service_pb2_grpc.add_WorkerServiceServicer_to_server
    async with scripted_server(add, worker) as address:
        yield address, worker


async def test_the_worker_that_runs_the_job_is_told_at_once(api: JobsApi, database: Database) -> None:
    async with _serving_worker() as (address, worker), asyncio.timeout(10):
        worker_id = await start_worker(database, address)
        for _ in range(2):
            created = await api.create()
            await claim(database, worker_id)
            await _cancel(api, created.job_id)
            assert await worker.told.get() == ("acme", created.job_id)


async def test_a_worker_is_told_past_the_proxy_of_the_environment(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_dead_proxy(monkeypatch)
    async with _serving_worker() as (address, worker), asyncio.timeout(10):
        created = await api.create()
        await claim(database, await start_worker(database, address))
        await _cancel(api, created.job_id)
        assert await worker.told.get() == ("acme", created.job_id)


async def test_more_workers_than_kept_channels_are_all_told(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_canceller, "_MAX_CHANNELS", 1)
    async with _serving_worker() as first, _serving_worker() as second, asyncio.timeout(10):
        for address, worker in (first, second, first):
            created = await api.create()
            await claim(database, await start_worker(database, address))
            await _cancel(api, created.job_id)
            assert await worker.told.get() == ("acme", created.job_id)


async def test_a_worker_that_cannot_be_reached_does_not_hinder_a_cancellation(
    api: JobsApi, database: Database
) -> None:
    created = await api.create()
    await claim(database, await start_worker(database, "127.0.0.1:1"))
    assert (await _cancel(api, created.job_id)).status == CANCELLING

    async with _serving_worker() as (address, worker), asyncio.timeout(10):
        reachable = await api.create()
        await claim(database, await start_worker(database, address))
        await _cancel(api, reachable.job_id)
        assert await worker.told.get() == ("acme", reachable.job_id)


async def test_a_failed_job_gets_as_many_attempts_again_as_its_type_gives(
    api: JobsApi, database: Database
) -> None:
    worker_id = await start_worker(database)
    created = await api.create(max_attempts=1)
    await _fail(database, await claim(database, worker_id))

    retried = await _retry(api, created.job_id)

    assert retried.status == job_pb2.JOB_STATUS_PENDING
    assert (retried.attempt, retried.max_attempts) == (1, 1 + MAX_ATTEMPTS)
    assert retried.error.code == "NO_PAPER"
    assert not retried.HasField("completed_at")
    again = await claim(database, worker_id)
    assert again.claim.attempt == 2
    assert not (await api.get(created.job_id)).HasField("error")


async def test_a_cancelled_job_can_be_tried_again_and_workers_are_told(
    api: JobsApi, database: Database
) -> None:
    created = await api.create()
    await _cancel(api, created.job_id)
    hints: asyncio.Queue[str] = asyncio.Queue()
    listening = await database.direct_connection()
    try:
        await listening.add_listener(CHANNEL_READY, lambda *hint: hints.put_nowait(hint[-1]))
        assert (await _retry(api, created.job_id)).status == job_pb2.JOB_STATUS_PENDING
        async with asyncio.timeout(10):
            assert await hints.get() == ANY_TYPE
    finally:
        await listening.close()


async def test_a_job_that_waits_after_a_failed_attempt_is_tried_at_once(
    api: JobsApi, database: Database
) -> None:
    created = await api.create()
    job = await claim(database, await start_worker(database))
    async with database.transaction() as connection:
        failure = JobFailure(job.lease, timedelta(hours=1), "NO_PAPER", "out of paper", retryable=True)
        await fail_jobs(connection, [failure])
    waiting = await api.get(created.job_id)

    retried = await _retry(api, created.job_id)

    assert retried.status == job_pb2.JOB_STATUS_PENDING
    assert (retried.attempt, retried.max_attempts) == (1, waiting.max_attempts)
    assert retried.error.code == "NO_PAPER"
    assert waiting.run_at.seconds - retried.run_at.seconds in range(3_500, 3_601)
    error = await refusal(_retry(api, created.job_id))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "or one that waits after a failed attempt" in (error.details() or "")


async def test_only_a_failed_or_cancelled_job_can_be_tried_again(api: JobsApi, database: Database) -> None:
    created = await api.create()
    expected = ["PENDING"]
    errors = [await refusal(_retry(api, created.job_id))]
    job = await claim(database, await start_worker(database))
    expected.append("PROCESSING")
    errors.append(await refusal(_retry(api, created.job_id)))
    await _complete(database, job)
    expected.append("COMPLETED")
    errors.append(await refusal(_retry(api, created.job_id)))

    for error, status in zip(errors, expected, strict=True):
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == f"JOB_{status}"


@pytest.mark.parametrize("act", [_cancel, _retry])
async def test_a_job_of_another_organisation_is_not_found(api: JobsApi, act: Any) -> None:
    theirs = await api.create(org_id="other")

    error = await refusal(act(api, theirs.job_id))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    resource = detail(status_of(error), error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("job", theirs.job_id)
    assert (await _cancel(api, theirs.job_id, org_id="other")).status == CANCELLED

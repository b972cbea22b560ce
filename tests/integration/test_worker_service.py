import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from millrace.worker.v1 import worker_pb2, worker_service_pb2, worker_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.ids import format_id, new_id
from millrace_database.job_lifecycle import Cancellation, cancel_job
from millrace_worker import JobCancelled, JobContext, Registry, SyncJobContext
from support.worker_runs import ORG, create, eventually, fetch, fetched, finished, job_with, read, worker

NEVER = {"heartbeat_seconds": 30, "lease_seconds": 60}
"""Heartbeats so rare that none comes during a test."""


@asynccontextmanager
async def _stub(address: str) -> AsyncIterator["worker_service_pb2_grpc.WorkerServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield worker_service_pb2_grpc.WorkerServiceStub(channel)


async def _request_cancellation(database: Database, job_id: UUID) -> None:
    async with database.transaction() as connection:
        assert (await cancel_job(connection, ORG, job_id)).outcome is Cancellation.CANCELLING


def _cancel_execution(job_id: UUID, org_id: str = ORG) -> worker_service_pb2.CancelExecutionRequest:
    return worker_service_pb2.CancelExecutionRequest(org_id=org_id, job_id=format_id("job", job_id))


class Handlers:
    """One handler that waits and one that loops in a thread, both until they are stopped."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.started: list[str] = []
        self.stopped: list[type[BaseException]] = []
        self.registry.job_handler("tasks:wait")(self._wait())
        self.registry.job_handler("tasks:loop")(self._loop())

    def _wait(self) -> Callable[[JobContext[dict[str, Any]]], Awaitable[None]]:
        async def wait(context: JobContext[dict[str, Any]]) -> None:
            self.started.append(context.job_id)
            try:
                await asyncio.Event().wait()
            except BaseException as error:
                self.stopped.append(type(error))
                raise

        return wait

    def _loop(self) -> Callable[[SyncJobContext[dict[str, Any]]], None]:
        def loop(context: SyncJobContext[dict[str, Any]]) -> None:
            self.started.append(context.job_id)
            try:
                while True:
                    context.update_progress(1)
                    time.sleep(0.005)
            except BaseException as error:
                self.stopped.append(type(error))
                raise

        return loop


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.mark.parametrize(
    ("type_", "raised"), [("tasks:wait", asyncio.CancelledError), ("tasks:loop", JobCancelled)]
)
async def test_cancel_execution_stops_a_handler_at_once(
    database: Database, handlers: Handlers, tmp_path: Path, type_: str, raised: type[BaseException]
) -> None:
    async with worker(database, handlers.registry, tmp_path, **NEVER) as service:
        (job_id,) = await create(database, type_)
        await eventually(lambda: handlers.started)
        await _request_cancellation(database, job_id)
        assert (await read(database, job_id)).status == "cancelling"
        asked_at = time.monotonic()
        async with _stub(service.address) as stub:
            await stub.CancelExecution(_cancel_execution(job_id))
        job = await finished(database, job_id)

    assert time.monotonic() - asked_at < 1.5
    assert (job.status, job.error_code, job.output_json) == ("cancelled", None, None)
    assert handlers.stopped == [raised]
    assert await fetch(database, "SELECT * FROM queue") == []


@pytest.mark.parametrize("type_", ["tasks:wait", "tasks:loop"])
async def test_a_cancellation_reaches_the_handler_by_heartbeat_alone(
    database: Database, handlers: Handlers, tmp_path: Path, type_: str
) -> None:
    async with worker(database, handlers.registry, tmp_path) as _:
        (job_id,) = await create(database, type_)
        await eventually(lambda: handlers.started)
        await _request_cancellation(database, job_id)
        job = await finished(database, job_id, within=3)

    assert job.status == "cancelled"


async def test_a_handler_that_swallows_its_cancellation_is_cancelled_all_the_same(
    database: Database, tmp_path: Path
) -> None:
    registry = Registry()
    started = asyncio.Event()

    @registry.job_handler("tasks:stubborn")
    async def stubborn(context: JobContext[dict[str, Any]]) -> dict[str, str]:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"ha": "ha"}
        return {}

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "tasks:stubborn")
        await started.wait()
        await _request_cancellation(database, job_id)
        job = await finished(database, job_id)

    assert (job.status, job.output_json) == ("cancelled", None)


async def test_a_handler_that_fails_while_it_is_cancelled_is_cancelled(
    database: Database, tmp_path: Path
) -> None:
    registry = Registry()
    started = asyncio.Event()

    @registry.job_handler("tasks:clumsy")
    async def clumsy(context: JobContext[dict[str, Any]]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("tidying up failed")

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "tasks:clumsy")
        await started.wait()
        await _request_cancellation(database, job_id)
        job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("cancelled", None)


async def test_a_thread_that_does_not_listen_is_cancelling_until_it_returns(
    database: Database, tmp_path: Path
) -> None:
    registry = Registry()
    started, release = threading.Event(), threading.Event()

    @registry.job_handler("tasks:deaf")
    def deaf(context: SyncJobContext[dict[str, Any]]) -> None:
        started.set()
        release.wait(10)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "tasks:deaf")
        await eventually(started.is_set)
        await _request_cancellation(database, job_id)
        (first,) = await fetch(database, "SELECT heartbeat_at FROM queue_workers")
        await fetched(database, "SELECT heartbeat_at FROM queue_workers", lambda rows: rows[0] != first)
        assert (await read(database, job_id)).status == "cancelling"
        release.set()
        assert (await finished(database, job_id)).status == "cancelled"


async def test_cancel_execution_refuses_what_nobody_asked_for_and_what_it_does_not_run(
    database: Database, handlers: Handlers, tmp_path: Path
) -> None:
    async with (
        worker(database, handlers.registry, tmp_path, shutdown_grace_seconds=0.5) as service,
        _stub(service.address) as stub,
    ):
        (job_id,) = await create(database, "tasks:wait")
        await eventually(lambda: handlers.started)
        codes = {}
        for name, request in {
            "not asked": _cancel_execution(job_id),
            "other organisation": _cancel_execution(job_id, "other"),
            "unknown": _cancel_execution(new_id()),
            "malformed": worker_service_pb2.CancelExecutionRequest(org_id=ORG, job_id="x"),
        }.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CancelExecution(request)
            codes[name] = caught.value.code()
        assert (await read(database, job_id)).status == "processing"

    assert codes == {
        "not asked": grpc.StatusCode.FAILED_PRECONDITION,
        "other organisation": grpc.StatusCode.NOT_FOUND,
        "unknown": grpc.StatusCode.NOT_FOUND,
        "malformed": grpc.StatusCode.INVALID_ARGUMENT,
    }


async def test_list_workers_pages_through_all_of_them_in_the_order_they_started(
    database: Database, handlers: Handlers, tmp_path: Path
) -> None:
    async with (
        worker(database, handlers.registry, tmp_path, worker_slots=4, shutdown_grace_seconds=0.5) as first,
        worker(database, Registry(), tmp_path) as second,
    ):
        (job_id,) = await create(database, "tasks:wait")
        await job_with(database, job_id, lambda job: job.status == "processing")
        await fetched(database, "SELECT FROM queue_workers", lambda rows: len(rows) == 2)
        async with _stub(second.address) as stub:
            page = await stub.ListWorkers(worker_service_pb2.ListWorkersRequest(page_size=1))
            last = await stub.ListWorkers(
                worker_service_pb2.ListWorkersRequest(page_size=1, page_token=page.next_page_token)
            )
            nonsense = "?"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListWorkers(worker_service_pb2.ListWorkersRequest(page_token=nonsense))

    workers = {worker.address: worker for worker in [*page.workers, *last.workers]}
    assert set(workers) == {first.address, second.address}
    assert [worker.worker_id for worker in [*page.workers, *last.workers]] == sorted(
        worker.worker_id for worker in workers.values()
    )
    assert last.next_page_token == ""
    busy = workers[first.address]
    assert (busy.state, busy.running_jobs, busy.slots) == (worker_pb2.WORKER_STATE_ACTIVE, 1, 4)
    assert list(busy.job_types) == ["tasks:loop", "tasks:wait"]
    assert busy.name.endswith(f":{os.getpid()}")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

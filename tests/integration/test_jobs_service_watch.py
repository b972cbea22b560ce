import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.jobs.v1 import job_pb2, jobs_service_pb2, jobs_service_pb2_grpc
from millrace_database import jobs_repository
from millrace_database.database import Database
from millrace_database.embedded import EmbeddedPostgres
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import (
    ClaimedJob,
    JobFailure,
    NewJob,
    ProgressReport,
    complete_jobs,
    create_jobs,
    fail_jobs,
    report_progress,
)
from millrace_database.jobs_repository import JobRecord, get_job
from millrace_database.migrate import migrate
from millrace_jobs import job_watcher
from millrace_jobs.job_watcher import JobWatcher
from millrace_runtime.errors import Unavailable
from support.jobs_api import JobsApi, claim, detail, refusal, serving, start_worker, status_of
from support.polling import eventually
from support.postgres_outage import stopped

PENDING = job_pb2.JOB_STATUS_PENDING
PROCESSING = job_pb2.JOB_STATUS_PROCESSING
COMPLETED = job_pb2.JOB_STATUS_COMPLETED
FAILED = job_pb2.JOB_STATUS_FAILED


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


def _watch(
    api: JobsApi, job_id: str
) -> "grpc.aio.UnaryStreamCall[jobs_service_pb2.WatchJobRequest, jobs_service_pb2.WatchJobResponse]":
    return api.jobs.WatchJob(jobs_service_pb2.WatchJobRequest(org_id="acme", job_id=job_id), timeout=30)


async def _next(watch: AsyncIterator[jobs_service_pb2.WatchJobResponse]) -> job_pb2.Job:
    return (await anext(watch)).job


async def _progress(database: Database, job: ClaimedJob, percent: int) -> None:
    async with database.transaction() as connection:
        await report_progress(
            connection, [ProgressReport(job.lease, progress=percent, message=f"at {percent}")]
        )


async def _complete(database: Database, job: ClaimedJob) -> None:
    async with database.transaction() as connection:
        await complete_jobs(connection, [(job.lease, '{"done": true}')])


async def test_a_watch_shows_the_whole_life_of_a_job(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    changes = aiter(_watch(api, created.job_id))

    assert await _next(changes) == created
    job = await claim(database, worker_id)
    started = await _next(changes)
    await _progress(database, job, 40)
    halfway = await _next(changes)
    await _complete(database, job)
    done = await _next(changes)
    with pytest.raises(StopAsyncIteration):
        await _next(changes)

    assert (started.status, started.attempt, started.progress) == (PROCESSING, 1, 0)
    assert not started.HasField("estimated_completion")
    assert (halfway.status, halfway.progress, halfway.message) == (PROCESSING, 40, "at 40")
    assert halfway.estimated_completion.ToDatetime() > halfway.started_at.ToDatetime()
    assert (done.status, done.progress, done.output["done"]) == (COMPLETED, 100, True)
    assert done.completed_at.ToDatetime() >= done.started_at.ToDatetime()
    assert not done.HasField("estimated_completion")


async def test_a_finished_job_is_sent_once(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    await _complete(database, await claim(database, worker_id))

    statuses = [response.job.status async for response in _watch(api, created.job_id)]

    assert statuses == [COMPLETED]


async def test_a_retry_is_watched_to_its_end(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    changes = aiter(_watch(api, created.job_id))
    assert (await _next(changes)).status == PENDING

    for delay in (timedelta(0), None):
        job = await claim(database, worker_id)
        assert (await _next(changes)).status == PROCESSING
        async with database.transaction() as connection:
            await fail_jobs(
                connection, [JobFailure(job.lease, delay, "NO_PAPER", "out of paper", retryable=True)]
            )
        failed = await _next(changes)
        assert (failed.error.code, failed.error.message) == ("NO_PAPER", "out of paper")
        assert failed.error.retryable
        assert failed.status == (FAILED if delay is None else PENDING)
    with pytest.raises(StopAsyncIteration):
        await _next(changes)


async def test_every_watcher_of_many_sees_the_end_and_progress_never_goes_back(
    api: JobsApi, database: Database
) -> None:
    worker_id = await start_worker(database)
    jobs = []
    for _ in range(10):
        created = await api.create()
        jobs.append((created, await claim(database, worker_id)))

    async def watch_to_the_end(job_id: str) -> list[int]:
        return [response.job.progress async for response in _watch(api, job_id)]

    async with asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(watch_to_the_end(created.job_id)) for created, _ in jobs * 10]
        for percent in range(0, 100, 10):
            for _, job in jobs:
                await _progress(database, job, percent)
        for _, job in jobs:
            await _complete(database, job)

    for watch in watches:
        assert watch.result() == sorted(watch.result())
        assert watch.result()[-1] == 100


async def test_a_hint_is_followed_at_once(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_watcher, "_POLL_SECONDS", 3600)
    created = await api.create()
    changes = aiter(_watch(api, created.job_id))
    assert (await _next(changes)).status == PENDING

    request = jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=created.job_id)
    await api.jobs.CancelJob(request)

    assert (await _next(changes)).status == job_pb2.JOB_STATUS_CANCELLED


async def test_an_unknown_job_cannot_be_watched(api: JobsApi) -> None:
    theirs = await api.create(org_id="other")
    for job_id in (theirs.job_id, "job_" + "0" * 32):
        error = await refusal(_next(aiter(_watch(api, job_id))))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == ("job", job_id)


async def test_watches_end_with_unavailable_when_the_service_stops(
    database: Database, tmp_path: Path
) -> None:
    async with AsyncExitStack() as later:
        async with serving(database, tmp_path) as api:
            channel = await later.enter_async_context(grpc.aio.insecure_channel(api.address))
            outliving = replace(api, jobs=jobs_service_pb2_grpc.JobsServiceStub(channel))
            watches = [aiter(_watch(outliving, (await api.create()).job_id)) for _ in range(5)]
            for watch in watches:
                assert (await _next(watch)).status == PENDING
        for watch in watches:
            error = await refusal(_next(watch))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "SHUTTING_DOWN"


async def test_cancelled_and_slow_clients_leave_nothing_behind(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = 0
    look = jobs_repository.get_jobs_changed

    async def counted(*arguments: Any) -> list[JobRecord]:
        nonlocal queries
        queries += 1
        return await look(*arguments)

    monkeypatch.setattr(jobs_repository, "get_jobs_changed", counted)
    created = await api.create()
    watches = [_watch(api, created.job_id) for _ in range(20)]
    slow = [_watch(api, created.job_id) for _ in range(20)]  # nobody reads these
    for watch in watches:
        assert (await _next(aiter(watch))).status == PENDING
    before = queries

    async def has_looked() -> bool:
        return queries > before

    async def has_stopped_to_look() -> bool:
        seen = queries
        await asyncio.sleep(3 * job_watcher._POLL_SECONDS)
        return queries == seen

    await eventually(has_looked)
    for watch in watches + slow:
        watch.cancel()
    await eventually(has_stopped_to_look)


class TestOutage:
    """The hub itself, on a server of its own that can be stopped."""

    @pytest.fixture
    async def following(self, tmp_path: Path) -> AsyncIterator["tuple[Database, JobWatcher, ClaimedJob]"]:
        with EmbeddedPostgres.start(tmp_path, durable=False) as server:
            await migrate(server.url)
            database = await Database.open(server.url, application_name="test")
            watcher = JobWatcher(database)
            running = asyncio.create_task(watcher.run())
            worker_id = await start_worker(database)
            async with database.transaction() as connection:
                await create_jobs(
                    connection, [NewJob(new_id(), "acme", "notes:keep", "{}", "{}", "ann", max_attempts=1)]
                )
            try:
                yield database, watcher, await claim(database, worker_id)
            finally:
                running.cancel()
                await asyncio.wait([running])
                await database.close()

    @asynccontextmanager
    async def _watching(
        self, database: Database, watcher: JobWatcher, job: ClaimedJob
    ) -> AsyncIterator[AsyncIterator[job_pb2.Job]]:
        async with database.connection() as connection:
            record = await get_job(connection, "acme", job.claim.id)
        assert record is not None
        changes = watcher.watch(record)
        assert (await anext(changes)).status == PROCESSING
        yield changes
        await changes.aclose()
        assert watcher.watched_jobs == 0

    async def test_a_watch_outlives_a_short_one(
        self, following: "tuple[Database, JobWatcher, ClaimedJob]", tmp_path: Path
    ) -> None:
        database, watcher, job = following
        async with self._watching(database, watcher, job) as changes:
            with stopped(tmp_path):
                next_change = asyncio.ensure_future(anext(changes))
                await eventually(lambda: _answer(watcher._failing_since is not None))
            await eventually(lambda: _answers(database))
            await _complete(database, job)
            assert (await next_change).status == COMPLETED

    async def test_a_long_one_ends_it_as_unavailable(
        self,
        following: "tuple[Database, JobWatcher, ClaimedJob]",
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(job_watcher, "_PATIENCE_SECONDS", 0.5)
        database, watcher, job = following
        async with self._watching(database, watcher, job) as changes:
            with stopped(tmp_path), pytest.raises(Unavailable):
                await anext(changes)


async def _answer(value: bool) -> bool:
    return value


async def _answers(database: Database) -> bool:
    try:
        await database.ping()
    except Exception:  # noqa: BLE001 - whatever it says, it does not answer
        return False
    return True

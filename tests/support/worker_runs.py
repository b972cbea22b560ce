"""The Worker service in this process, with handlers of a test, on real jobs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import NewJob, create_jobs
from millrace_database.job_options import JobOptions
from millrace_database.jobs_repository import JobRecord, get_job
from millrace_queue import CHANNEL_READY
from millrace_runtime.service import RunningService, running
from millrace_runtime.settings import Settings
from millrace_worker import Registry
from millrace_worker.service import worker_service

ORG = "acme"
FINAL = ("completed", "failed", "cancelled")


@asynccontextmanager
async def worker(
    database: Database, registry: Registry, folder: Path, **settings: Any
) -> AsyncIterator[RunningService]:
    """Runs a worker with these handlers until the end of the block; heartbeats and leases are short."""
    values = {
        "worker_port": 0,
        "heartbeat_seconds": 0.3,
        "lease_seconds": 1.8,
        "shutdown_grace_seconds": 3,
        "data_dir": folder,
        **settings,
    }
    async with running(worker_service(registry), Settings(**values), database) as service:
        yield service


async def create(
    database: Database,
    type_: str,
    inputs: Sequence[Mapping[str, Any]] = ({},),
    *,
    max_attempts: int = 4,
    metadata: Mapping[str, Any] | None = None,
    run_at: datetime | None = None,
    options: JobOptions | None = None,
    hint: bool = True,
) -> list[UUID]:
    """Creates a job for each input and, unless told otherwise, gives the workers a hint of them."""
    jobs = [
        NewJob(
            job_id=new_id(),
            org_id=ORG,
            type=type_,
            input_json=orjson.dumps(input_).decode(),
            metadata_json=orjson.dumps(metadata or {}).decode(),
            created_by="ann",
            max_attempts=max_attempts,
            run_at=run_at,
            options=options,
        )
        for input_ in inputs
    ]
    async with database.transaction() as connection:
        await create_jobs(connection, jobs)
    if hint:
        async with database.connection() as connection:
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL_READY, type_)
    return [job.job_id for job in jobs]


async def read(database: Database, job_id: UUID) -> JobRecord:
    async with database.connection() as connection:
        record = await get_job(connection, ORG, job_id)
    assert record is not None
    return record


async def finished(database: Database, job_id: UUID, *, within: float = 10) -> JobRecord:
    """The job once it is completed, failed or cancelled."""
    return await job_with(database, job_id, lambda job: job.status in FINAL, within=within)


async def job_with(
    database: Database, job_id: UUID, wanted: Callable[[JobRecord], bool], *, within: float = 10
) -> JobRecord:
    """The job once the condition holds; fails with what it is like instead."""
    deadline = time.monotonic() + within
    while not wanted(job := await read(database, job_id)):
        assert time.monotonic() < deadline, job
        await asyncio.sleep(0.02)
    return job


async def eventually(holds: Callable[[], object], *, within: float = 10) -> None:
    """Waits until the condition holds; fails when it takes too long."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


async def fetch(database: Database, query: str, *arguments: Any) -> list[Any]:
    async with database.connection() as connection:
        return list(await connection.fetch(query, *arguments))


async def fetched(
    database: Database, query: str, wanted: Callable[[list[Any]], object], *, within: float = 10
) -> list[Any]:
    """The rows of a query once the condition holds of them; fails with what they are instead."""
    deadline = time.monotonic() + within
    while not wanted(rows := await fetch(database, query)):
        assert time.monotonic() < deadline, rows
        await asyncio.sleep(0.02)
    return rows


def output(job: JobRecord) -> Any:
    """What the job's handler returned."""
    assert job.output_json is not None
    return orjson.loads(job.output_json)

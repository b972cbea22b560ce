"""Built-in handlers, run as a worker runs them, on real jobs and files."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson

from millrace_database.database import Database
from millrace_database.ids import format_id, new_id, parse_id
from millrace_database.job_flow import JobCounts
from millrace_database.job_lifecycle import NewJob, claim_jobs, create_jobs, hand_back_jobs
from millrace_queue import register_worker
from millrace_storage import FileRecord, FileStore
from millrace_worker import JobContext, Resources
from millrace_worker.context import ProgressUpdate
from millrace_worker.delivery_settings import DeliverySettings
from millrace_worker.registry import load_handlers

CHUNK_BYTES = 64 * 1024


@dataclass
class HandlerRuns:
    """Uploads files, makes jobs, and calls handlers with contexts that hold their leases."""

    database: Database
    files: FileStore
    progress: list[ProgressUpdate] = field(default_factory=list)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    created: JobCounts = field(default_factory=Counter)

    async def upload(
        self, content: bytes, name: str, *, org_id: str = "acme", content_type: str = "text/csv"
    ) -> str:
        """Stores a file and returns its id."""
        record = await self.files.save(
            org_id=org_id, name=name, content_type=content_type, created_by="ann", chunks=chunks_of(content)
        )
        return format_id("file", record.file_id)

    async def content(self, file_id: str, *, org_id: str = "acme") -> bytes:
        _, chunks = await self.files.open(org_id, parse_id("file", file_id))
        return b"".join([chunk async for chunk in chunks])

    async def record(self, file_id: str) -> FileRecord:
        record = await self.files.get("acme", parse_id("file", file_id))
        assert record is not None
        return record

    async def context(
        self,
        type_: str,
        input_: Mapping[str, Any],
        *,
        org_id: str = "acme",
        on_progress: Callable[[ProgressUpdate], None] | None = None,
    ) -> JobContext[Any]:
        """Creates a job, claims it, and returns what its handler gets."""
        job = NewJob(
            job_id=new_id(),
            org_id=org_id,
            type=type_,
            input_json=orjson.dumps(input_).decode(),
            metadata_json="{}",
            created_by="ann",
            max_attempts=4,
        )
        async with self.database.transaction() as conn:
            await create_jobs(conn, [job])
        return await self.claimed(type_, on_progress)

    async def claimed_again(
        self, context: JobContext[Any], on_progress: Callable[[ProgressUpdate], None] | None = None
    ) -> JobContext[Any]:
        """Takes a job from its worker, as when that had died, and returns what its next attempt gets."""
        async with self.database.transaction() as conn:
            await hand_back_jobs(conn, [context.lease])
        return await self.claimed(context.type, on_progress)

    async def run(self, type_: str, input_: Mapping[str, Any], *, org_id: str = "acme") -> Any:
        """What the handler returns for a new job."""
        return await call(await self.context(type_, input_, org_id=org_id))

    async def claimed(
        self, type_: str, on_progress: Callable[[ProgressUpdate], None] | None = None
    ) -> JobContext[Any]:
        """Claims a job of a type that exists, and returns what its handler gets."""
        async with self.database.transaction() as conn:
            worker_id = new_id()
            await register_worker(conn, worker_id, lease=timedelta(minutes=5), details={})
            (claimed,) = await claim_jobs(conn, worker_id, {type_: 1}, 1)
        handler = load_handlers(["millrace_worker.handlers"]).get(type_)
        assert handler is not None
        return JobContext(
            job_id=format_id("job", claimed.claim.id),
            org_id=claimed.org_id,
            type=type_,
            input=handler.input_adapter.validate_json(claimed.input_json),
            metadata={},
            attempt=claimed.claim.attempt,
            created_by=claimed.created_by,
            lease=claimed.lease,
            resources=Resources(
                database=self.database,
                files=self.files,
                delivery=self.delivery,
                jobs_created=self.created.update,
            ),
            report=on_progress or self.progress.append,
        )


async def call(context: JobContext[Any]) -> Any:
    """What the handler of the context's job returns."""
    handler = load_handlers(["millrace_worker.handlers"]).get(context.type)
    assert handler is not None
    return await handler.function(context)


async def chunks_of(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]

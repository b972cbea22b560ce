"""The Jobs service in this process, spoken to over a real port, and what its answers hold."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

import grpc
import orjson
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from millrace.files.v1 import files_service_pb2_grpc
from millrace.jobs.v1 import job_pb2, jobs_service_pb2, jobs_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import ClaimedJob, claim_jobs
from millrace_database.job_types_repository import PublishedType, publish_job_types
from millrace_database.workers_repository import WorkerDetails
from millrace_jobs.service import definition
from millrace_queue import register_worker
from millrace_runtime.service import running
from millrace_runtime.settings import Settings

TYPE = "reports:generate"
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "file_id": {"type": "string", "maxLength": 64},
        "limit": {"anyOf": [{"type": "integer", "maximum": 1000}, {"type": "null"}]},
        "rows": {"type": "array", "items": {"type": "object", "required": ["id"]}},
    },
    "required": ["file_id"],
}
ANY_TYPE = "notes:keep"
"""A job type that takes any input."""
MAX_ATTEMPTS = 4

_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True)
class JobsApi:
    """A running service, and stubs that call it."""

    address: str
    jobs: "jobs_service_pb2_grpc.JobsServiceAsyncStub"
    files: "files_service_pb2_grpc.FilesServiceAsyncStub"

    async def create(self, **fields: Any) -> job_pb2.Job:
        """Create a job of an organisation "acme", of a type that takes any input."""
        request = jobs_service_pb2.CreateJobRequest(**{"org_id": "acme", "type": ANY_TYPE, **fields})
        return (await self.jobs.CreateJob(request)).job

    async def get(self, job_id: str) -> job_pb2.Job:
        request = jobs_service_pb2.GetJobRequest(org_id="acme", job_id=job_id)
        return (await self.jobs.GetJob(request)).job


@asynccontextmanager
async def serving(database: Database, data_dir: Path, **settings: Any) -> AsyncIterator[JobsApi]:
    """Run the service on any free port, with two published job types."""
    await publish(database, TYPE, SCHEMA)
    await publish(database, ANY_TYPE, {"type": "object"})
    used = Settings(jobs_port=0, files_port=0, data_dir=data_dir, **settings)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with (
        running(definition, used, database) as service,
        grpc.aio.insecure_channel(service.address, options=options) as channel,
    ):
        yield JobsApi(
            service.address,
            jobs_service_pb2_grpc.JobsServiceStub(channel),
            files_service_pb2_grpc.FilesServiceStub(channel),
        )


async def publish(database: Database, name: str, schema: Mapping[str, Any]) -> None:
    """Make a job type known, as a worker does when it starts."""
    published = PublishedType(
        type=name,
        label=name.title(),
        description=f"Does {name}.",
        input_schema_json=orjson.dumps(schema).decode(),
        max_attempts=MAX_ATTEMPTS,
        timeout=timedelta(minutes=5),
        concurrency=3,
    )
    async with database.transaction() as connection:
        await publish_job_types(connection, [published])


async def start_worker(database: Database, address: str = "127.0.0.1:1") -> UUID:
    """Register a worker, and return its id."""
    worker_id = new_id()
    details = WorkerDetails(name="test", address=address, types=(ANY_TYPE, TYPE), slots=10)
    async with database.transaction() as connection:
        await register_worker(connection, worker_id, lease=timedelta(minutes=1), details=details.as_json())
    return worker_id


async def claim(database: Database, worker_id: UUID) -> ClaimedJob:
    """Claim the one job that waits."""
    async with database.transaction() as connection:
        (job,) = await claim_jobs(connection, worker_id, {ANY_TYPE: 10, TYPE: 10}, 10)
    return job


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Return the error that `call` ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert isinstance(status, status_pb2.Status)
    return status


def detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """Return the one detail of its kind that a status has."""
    found = kind()
    assert [item.Unpack(found) for item in status.details].count(True) == 1
    return found


def violations(status: status_pb2.Status) -> dict[str, str]:
    """Return the fields that a status complains of, and why."""
    bad_request = detail(status, error_details_pb2.BadRequest)
    return {violation.field: violation.description for violation in bad_request.field_violations}


async def refused_fields(call: Awaitable[Any]) -> dict[str, str]:
    """Return the fields because of which `call` is refused."""
    error = await refusal(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return violations(status_of(error))


def ids(jobs: Sequence[job_pb2.Job]) -> list[str]:
    return [job.job_id for job in jobs]

"""The Jobs service as the Scheduler calls it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import grpc
import orjson

from millrace.jobs.v1 import job_pb2, jobs_service_pb2, jobs_service_pb2_grpc
from millrace_database.ids import format_id, parse_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.addresses import DIRECTLY
from millrace_runtime.struct_json import datetime_to_timestamp, dict_to_struct
from millrace_scheduler.overlap import add_overlap_options

SCHEDULED_TIME = "scheduled_time"
"""The key of a job's metadata that says for which time a schedule made it."""

# Every job is created with a request id, so that a call whose answer was lost may be repeated; the others always may.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "millrace.jobs.v1.JobsService", "method": method}
                for method in ("CreateJob", "BatchCreateJobs", "CancelJob", "GetJob")
            ],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_CHANNEL_OPTIONS = (
    *DIRECTLY,
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # After an outage, due schedules wait for the next attempt to connect; gRPC's own limit is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # How long an attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class JobsClient:
    """Creates, finds and cancels the jobs of schedules."""

    def __init__(self, stub: "jobs_service_pb2_grpc.JobsServiceAsyncStub") -> None:
        self._stub = stub

    async def create_job(
        self,
        schedule: ScheduleRecord,
        *,
        scheduled_time: datetime,
        request_id: str,
        deadline_seconds: float,
        wait_for_ready: bool,
        overlap_policy: str = "allow",
    ) -> UUID:
        """Create the job of a schedule for one time, or find the one that was created with this request id.

        `overlap_policy` says what becomes of it while other jobs of the schedule are unfinished. Takes at most
        `deadline_seconds`. Without a connection it waits for one if `wait_for_ready`, and fails otherwise. Raises
        AioRpcError as the Jobs service, or the way to it, says.
        """
        request = job_request(schedule, scheduled_time, request_id)
        add_overlap_options(request, overlap_policy, schedule.schedule_id)
        answer = await self._stub.CreateJob(request, timeout=deadline_seconds, wait_for_ready=wait_for_ready)
        return parse_id("job", answer.job.job_id)

    async def cancel_job(self, org_id: str, job_id: UUID, *, deadline_seconds: float) -> None:
        """Cancel a job, unless it is finished or gone. Raises AioRpcError as the Jobs service says."""
        request = jobs_service_pb2.CancelJobRequest(org_id=org_id, job_id=format_id("job", job_id))
        try:
            await self._stub.CancelJob(request, timeout=deadline_seconds, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                raise

    async def made_for(
        self, schedule: ScheduleRecord, scheduled_time: datetime, job_id: str, *, deadline_seconds: float
    ) -> bool:
        """Tell whether a job is the one that a schedule has for a time. Raises AioRpcError as the Jobs service says."""
        request = jobs_service_pb2.GetJobRequest(org_id=schedule.org_id, job_id=job_id)
        answer = await self._stub.GetJob(request, timeout=deadline_seconds, wait_for_ready=True)
        fields = answer.job.metadata.fields
        return (
            answer.job.schedule_id == format_id("schedule", schedule.schedule_id)
            and SCHEDULED_TIME in fields
            and fields[SCHEDULED_TIME].string_value == rfc3339(scheduled_time)
        )

    async def find_or_create(
        self, request: jobs_service_pb2.CreateJobRequest, *, deadline_seconds: float
    ) -> job_pb2.Job:
        """Create a job, or find the one that was created with its request id. Raises AioRpcError."""
        answer = await self._stub.CreateJob(request, timeout=deadline_seconds)
        return answer.job

    async def create_jobs(
        self, org_id: str, requests: Sequence[jobs_service_pb2.CreateJobRequest], *, deadline_seconds: float
    ) -> Sequence[jobs_service_pb2.BatchCreateJobsResult]:
        """Create jobs of an organisation, or find those that exist; one result for each request. Raises AioRpcError."""
        batch = jobs_service_pb2.BatchCreateJobsRequest(org_id=org_id, requests=requests)
        answer = await self._stub.BatchCreateJobs(batch, timeout=deadline_seconds)
        return answer.results


@asynccontextmanager
async def open_jobs_client(address: str, *, max_message_bytes: int) -> AsyncIterator[JobsClient]:
    """Give a client of the Jobs service at a gRPC target; calls are spread over all addresses it stands for.

    An answer holds the job with its input, which as a Struct is several times as large as its JSON.
    """
    options = (
        *_CHANNEL_OPTIONS,
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    )
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield JobsClient(jobs_service_pb2_grpc.JobsServiceStub(channel))


def job_request(
    schedule: ScheduleRecord, scheduled_time: datetime, request_id: str
) -> jobs_service_pb2.CreateJobRequest:
    """Return what asks for the job of a schedule for one time."""
    metadata = {**orjson.loads(schedule.metadata_json), SCHEDULED_TIME: rfc3339(scheduled_time)}
    return jobs_service_pb2.CreateJobRequest(
        org_id=schedule.org_id,
        type=schedule.type,
        # Postgres puts blanks into its text: without them the input is as large as it was when it was checked.
        input_json=orjson.dumps(orjson.loads(schedule.input_json)),
        metadata=dict_to_struct(metadata),
        request_id=request_id,
        created_by=schedule.created_by,
        schedule_id=format_id("schedule", schedule.schedule_id),
        delivers=schedule.delivery_json is not None,
    )


def firing_request_id(schedule_id: UUID, scheduled_time: datetime) -> str:
    """Return the request id of a schedule's job for one of its times: there is one job for each."""
    return f"schedule:{format_id('schedule', schedule_id)}:{rfc3339(scheduled_time)}"


def rfc3339(time: datetime) -> str:
    """Return a time as RFC 3339 writes it, in UTC, such as 2026-03-29T01:00:00Z."""
    return datetime_to_timestamp(time).ToJsonString()

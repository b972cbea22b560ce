"""The Jobs service as the Scheduler calls it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import grpc
import orjson

from millrace.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc
from millrace_database.ids import format_id, parse_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.addresses import DIRECTLY
from millrace_runtime.struct_json import datetime_to_timestamp, dict_to_struct

SCHEDULED_TIME = "scheduled_time"
"""The key of a job's metadata that says for which time a schedule made it."""

# Every job is created with a request id, so that a call whose answer was lost may be repeated.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "millrace.jobs.v1.JobsService", "method": "CreateJob"}],
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
    """Creates the jobs of schedules."""

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
    ) -> UUID:
        """Create the job of a schedule for one time, or find the one that was created with this request id.

        Takes at most `deadline_seconds`. Without a connection it waits for one if `wait_for_ready`, and fails
        otherwise. Raises AioRpcError as the Jobs service, or the way to it, says.
        """
        metadata = {**orjson.loads(schedule.metadata_json), SCHEDULED_TIME: rfc3339(scheduled_time)}
        request = jobs_service_pb2.CreateJobRequest(
            org_id=schedule.org_id,
            type=schedule.type,
            # Postgres puts blanks into its text: without them the input is as large as it was when it was checked.
            input_json=orjson.dumps(orjson.loads(schedule.input_json)),
            metadata=dict_to_struct(metadata),
            request_id=request_id,
            created_by=schedule.created_by,
            schedule_id=format_id("schedule", schedule.schedule_id),
        )
        answer = await self._stub.CreateJob(request, timeout=deadline_seconds, wait_for_ready=wait_for_ready)
        return parse_id("job", answer.job.job_id)


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


def rfc3339(time: datetime) -> str:
    """Return a time as RFC 3339 writes it, in UTC, such as 2026-03-29T01:00:00Z."""
    return datetime_to_timestamp(time).ToJsonString()

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import orjson
import pytest
from google.protobuf import json_format
from google.rpc import code_pb2

from millrace.jobs.v1 import job_pb2, jobs_service_pb2, jobs_service_pb2_grpc
from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_jobs.service import definition as jobs_service
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from millrace_scheduler.service import definition as scheduler_service
from millrace_worker.registry import load_handlers
from millrace_worker.service import worker_service
from support.deliveries import SECRET, expected_signature, webhook_server
from support.jobs_api import ANY_TYPE, refusal, refused_fields, serving
from support.worker_runs import fetch, fetched

REPORT = {"rows": [{"city": "Porto", "sales": 3}], "format": "csv", "file_name": "sales"}


@dataclass(frozen=True)
class _System:
    jobs: "jobs_service_pb2_grpc.JobsServiceAsyncStub"
    schedules: "scheduler_service_pb2_grpc.SchedulerServiceAsyncStub"


@asynccontextmanager
async def _system(database: Database, folder: Path) -> AsyncIterator[_System]:
    """All services, with the built-in handlers."""
    settings = Settings(
        jobs_port=0,
        scheduler_port=0,
        worker_port=0,
        files_port=0,
        data_dir=folder,
        shutdown_grace_seconds=3,
        webhook_allow_private=True,
    )
    registry = load_handlers(["millrace_worker.handlers"])
    async with running(jobs_service, settings, database) as jobs:
        settings = settings.model_copy(update={"jobs_address": jobs.address})
        async with (
            running(worker_service(registry), settings, database),
            running(scheduler_service, settings, database) as scheduler,
            grpc.aio.insecure_channel(jobs.address) as to_jobs,
            grpc.aio.insecure_channel(scheduler.address) as to_scheduler,
        ):
            yield _System(
                jobs_service_pb2_grpc.JobsServiceStub(to_jobs),
                scheduler_service_pb2_grpc.SchedulerServiceStub(to_scheduler),
            )


async def test_the_report_of_a_schedule_arrives(database: Database, tmp_path: Path) -> None:
    async with webhook_server() as server, _system(database, tmp_path) as system:
        request = json_format.ParseDict(
            {
                "org_id": "acme",
                "name": "Sales of the day",
                "type": "reports:generate",
                "input": REPORT,
                "recurrence": {"once": {"at": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()}},
                "delivery": {"webhook": {"url": server.url, "secret": SECRET}},
            },
            scheduler_service_pb2.CreateScheduleRequest(),
        )
        schedule = (await system.schedules.CreateSchedule(request)).schedule
        assert schedule.delivery.webhook == schedule_pb2.WebhookDelivery(url=server.url)
        [row] = await fetched(
            database,
            "SELECT job_id, parent_job_id FROM jobs WHERE type = 'deliveries:webhook' AND status = 'completed'",
            len,
            within=20,
        )

        async def get(job_id: str) -> job_pb2.Job:
            request = jobs_service_pb2.GetJobRequest(org_id="acme", job_id=job_id)
            return (await system.jobs.GetJob(request)).job

        delivery = await get(format_id("job", row["job_id"]))
        job = await get(format_id("job", row["parent_job_id"]))
    [(headers, body)] = server.received
    data = orjson.loads(body)["data"]
    assert headers["webhook-id"] == delivery.job_id
    assert headers["webhook-signature"] == expected_signature(headers, body)
    assert (job.schedule_id, job.status) == (schedule.schedule_id, job_pb2.JOB_STATUS_COMPLETED)
    assert (data["job_id"], data["schedule_id"]) == (job.job_id, schedule.schedule_id)
    assert (data["output"]["rows"], data["file"]["name"]) == (1, "sales.csv")
    assert data["scheduled_time"] == job.metadata["scheduled_time"]
    assert SECRET not in f"{schedule}{delivery}{job}"


async def test_a_job_may_only_deliver_for_a_schedule(database: Database, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as api:
        assert list(await refused_fields(api.create(delivers=True))) == ["delivers"]


async def test_only_services_may_say_that_a_job_delivers(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: Caller("ann"))
    async with serving(database, tmp_path) as api:
        assert (await refusal(api.create(delivers=True))).code() is grpc.StatusCode.PERMISSION_DENIED
        item = jobs_service_pb2.CreateJobRequest(type=ANY_TYPE, delivers=True)
        answer = await api.jobs.BatchCreateJobs(
            jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=[item])
        )
    assert answer.results[0].error.code == code_pb2.PERMISSION_DENIED
    assert await fetch(database, "SELECT FROM jobs") == []

"""The service as people with a command line find it, who have no contracts at hand."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from support.jobs_api import ANY_TYPE, TYPE, JobsApi, serving

BUF = Path(sys.executable).with_name("buf")


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _curl(api: JobsApi, method: str, request: dict[str, Any]) -> tuple[int, Any]:
    """Call a method with nothing but reflection; return the exit code and the answer, or the error."""
    process = await asyncio.create_subprocess_exec(
        BUF,
        "curl",
        "--protocol=grpc",
        "--http2-prior-knowledge",
        f"--data={json.dumps(request)}",
        f"http://{api.address}/{method}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output or errors)


async def test_a_job_is_created_and_read_in_its_json_form(api: JobsApi) -> None:
    request = {
        "orgId": "acme",
        "type": TYPE,
        "input": {"file_id": "file_1", "rows": [{"id": 1, "note": None}]},
        "metadata": {"team": "billing"},
        "runAt": "2030-01-02T03:04:05Z",
    }
    code, created = await _curl(api, "millrace.jobs.v1.JobsService/CreateJob", request)

    assert code == 0
    job = created["job"]
    assert job["status"] == "JOB_STATUS_PENDING"
    assert job["runAt"] == "2030-01-02T03:04:05Z"
    assert {name: job[name] for name in ("orgId", "type", "input", "metadata")} == {
        name: request[name] for name in ("orgId", "type", "input", "metadata")
    }
    key = {"orgId": "acme", "jobId": job["jobId"]}
    code, got = await _curl(api, "millrace.jobs.v1.JobsService/GetJob", key)
    assert (code, got["job"]) == (0, job)
    assert got["waitingReason"]["cause"] == "WAITING_CAUSE_SCHEDULED"
    assert got["waitingReason"]["until"] == "2030-01-02T03:04:05Z"


async def test_job_types_are_listed_in_their_json_form(api: JobsApi) -> None:
    code, listed = await _curl(api, "millrace.jobs.v1.JobsService/ListJobTypes", {})

    assert code == 0
    assert [known["type"] for known in listed["jobTypes"]] == [ANY_TYPE, TYPE]
    assert listed["jobTypes"][1]["inputSchema"]["required"] == ["file_id"]
    assert listed["jobTypes"][1]["timeout"] == "300s"


async def test_an_error_names_the_field(api: JobsApi) -> None:
    code, error = await _curl(
        api,
        "millrace.jobs.v1.JobsService/CreateJob",
        {"orgId": "acme", "type": TYPE, "input": {"file_id": 1}},
    )

    assert code != 0
    assert error["code"] == "invalid_argument"
    assert error["message"] == "input.file_id: must be string"


async def test_files_are_there_too(api: JobsApi) -> None:
    assert await _curl(api, "millrace.files.v1.FilesService/ListFiles", {"orgId": "acme"}) == (0, {})


async def test_subscriptions_are_there_too(api: JobsApi) -> None:
    service = "millrace.jobs.v1.SubscriptionsService"
    request = {"orgId": "acme", "url": "https://example.com/", "eventTypes": ["job.failed"]}
    code, created = await _curl(api, f"{service}/CreateSubscription", request)

    assert code == 0
    assert created["secret"].startswith("whsec_")
    subscription = created["subscription"]
    assert subscription["state"] == "SUBSCRIPTION_STATE_ENABLED"
    assert await _curl(api, f"{service}/ListSubscriptions", {"orgId": "acme"}) == (
        0,
        {"subscriptions": [subscription]},
    )

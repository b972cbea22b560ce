"""What a completed job came to, downloaded by its id."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from google.rpc import error_details_pb2

from millrace.files.v1 import file_pb2
from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_database.job_lifecycle import JobFailure, complete_jobs, fail_jobs
from support.files_api import CONTENT, MEBIBYTE, delete, stored, upload
from support.jobs_api import (
    JobsApi,
    claim,
    detail,
    refusal,
    refused_fields,
    serving,
    start_worker,
    status_of,
    violations,
)

OUTPUT = {"rows": 3, "names": ["Mäuse", "\n"], "file_id": None}


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _completed(api: JobsApi, database: Database, output: Any) -> job_pb2.Job:
    """A job of "ann" that has ended with an output."""
    job = await api.create(created_by="ann")
    worker_id = await start_worker(database)
    claimed = await claim(database, worker_id)
    async with database.transaction() as connection:
        text = None if output is None else orjson.dumps(output).decode()
        await complete_jobs(connection, [(claimed.lease, text)])
    return await api.get(job.job_id)


async def _download(
    api: JobsApi, job_id: str, org_id: str = "acme", **fields: Any
) -> tuple[file_pb2.File, bytes]:
    """The description of an output, and its content or a part of it."""
    request = jobs_service_pb2.DownloadJobOutputRequest(org_id=org_id, job_id=job_id, **fields)
    first, *chunks = [response async for response in api.jobs.DownloadJobOutput(request)]
    assert first.WhichOneof("part") == "file"
    assert all(0 < len(response.chunk) <= MEBIBYTE for response in chunks)
    return first.file, b"".join(response.chunk for response in chunks)


async def test_an_output_without_a_file_comes_as_json(api: JobsApi, database: Database) -> None:
    job = await _completed(api, database, OUTPUT)

    file, content = await _download(api, job.job_id)

    assert orjson.loads(content) == OUTPUT
    assert file == file_pb2.File(
        org_id="acme",
        name=f"{job.job_id}.json",
        content_type="application/json",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        created_by="ann",
        created_at=job.completed_at,
        job_id=job.job_id,
        state=file_pb2.FILE_STATE_WITH_JOB,
    )


async def test_the_json_is_what_is_stored(api: JobsApi, database: Database) -> None:
    job = await _completed(api, database, {"total": 0.1, "more": {"b": 1, "a": [None, True]}})
    async with database.connection() as connection:
        kept = await connection.fetchval("SELECT output::text FROM jobs")

    assert (await _download(api, job.job_id))[1] == kept.encode()


async def test_the_output_of_a_job_that_gave_none_is_an_empty_object(
    api: JobsApi, database: Database
) -> None:
    job = await _completed(api, database, None)

    assert (await _download(api, job.job_id))[1] == b"{}"


@pytest.mark.parametrize(
    "output",
    [
        {"file_id": "prices.csv"},
        {"file_id": "file_123"},
        {"file_id": 7},
        {"file_id": ["file_" + "0" * 32]},
        {"file_id": "job_" + "0" * 32},
        {"file": {"file_id": "file_" + "0" * 32}},
        {},
    ],
)
async def test_an_output_that_names_no_file_comes_as_json(
    api: JobsApi, database: Database, output: dict[str, Any]
) -> None:
    job = await _completed(api, database, output)

    file, content = await _download(api, job.job_id)

    assert (file.file_id, orjson.loads(content)) == ("", output)


async def test_an_output_that_names_a_file_comes_as_that(api: JobsApi, database: Database) -> None:
    uploaded = await upload(api)
    job = await _completed(api, database, {"rows": 1, "file_id": uploaded.file_id})

    assert await _download(api, job.job_id) == (uploaded, CONTENT)


@pytest.mark.parametrize("has_file", [True, False])
async def test_a_part_of_it_comes_alone(
    api: JobsApi,
    database: Database,
    *,
    has_file: bool,
) -> None:
    if has_file:
        uploaded = await upload(api, b"0123456789")
        job = await _completed(api, database, {"file_id": uploaded.file_id})
    else:
        job = await _completed(api, database, {"text": "x" * (2 * MEBIBYTE)})
    file, whole = await _download(api, job.job_id)

    for offset, length in ((0, 0), (3, 0), (3, 4), (1, 2**63 - 1), (len(whole), 0), (len(whole) - 1, 5)):
        end = len(whole) if length == 0 else offset + length
        assert await _download(api, job.job_id, offset=offset, length=length) == (file, whole[offset:end])
    error = await refusal(_download(api, job.job_id, offset=len(whole) + 1))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert set(violations(status_of(error))) == {"offset"}


async def test_a_job_that_is_not_completed_has_none(api: JobsApi, database: Database) -> None:
    waiting = await api.create()

    async def refused_as(status: str) -> None:
        error = await refusal(_download(api, waiting.job_id))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == f"JOB_{status}"

    await refused_as("PENDING")
    claimed = await claim(database, await start_worker(database))
    await refused_as("PROCESSING")
    async with database.transaction() as connection:
        failure = JobFailure(claimed.lease, None, "BROKEN", "broken", retryable=False)
        await fail_jobs(connection, [failure])
    await refused_as("FAILED")


async def test_a_file_that_is_deleted_or_gone_is_told(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    uploaded = await upload(api)
    job = await _completed(api, database, {"file_id": uploaded.file_id})

    await delete(api, uploaded.file_id)
    error = await refusal(_download(api, job.job_id))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "FILE_DELETED"

    await delete(api, uploaded.file_id, permanently=True)
    error = await refusal(_download(api, job.job_id))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    resource = detail(status_of(error), error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("file", uploaded.file_id)

    lost = await upload(api)
    job = await _completed(api, database, {"file_id": lost.file_id})
    for path in stored(tmp_path):
        path.unlink()
    assert (await refusal(_download(api, job.job_id))).code() is grpc.StatusCode.DATA_LOSS


async def test_a_file_of_another_organisation_is_as_if_it_were_not_there(
    api: JobsApi, database: Database
) -> None:
    theirs = await upload(api, org_id="other")
    job = await _completed(api, database, {"file_id": theirs.file_id})

    assert (await refusal(_download(api, job.job_id))).code() is grpc.StatusCode.NOT_FOUND


async def test_a_job_that_is_not_there_is_not_found(api: JobsApi, database: Database) -> None:
    job = await _completed(api, database, {})

    for job_id, org_id in ((job.job_id, "other"), ("job_" + "0" * 32, "acme")):
        error = await refusal(_download(api, job_id, org_id))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == ("job", job_id)


async def test_what_is_wrong_is_named(api: JobsApi) -> None:
    assert set(await refused_fields(_download(api, "7", "-", offset=-1, length=-1))) == {
        "org_id",
        "job_id",
        "offset",
        "length",
    }


async def test_jobs_are_listed_by_the_job_that_they_were_made_for(api: JobsApi, database: Database) -> None:
    parent, other = await api.create(), await api.create()
    children = [await api.create() for _ in range(5)]
    theirs = await api.create(org_id="other")
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE jobs SET parent_job_id = $1::text::uuid WHERE job_id = ANY ($2::text[]::uuid[])",
            parent.job_id.removeprefix("job_"),
            [job.job_id.removeprefix("job_") for job in (*children, theirs)],
        )
    cancelled = jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=children[1].job_id)
    await api.jobs.CancelJob(cancelled)

    async def page(token: str = "", **filters: Any) -> jobs_service_pb2.ListJobsResponse:
        request = jobs_service_pb2.ListJobsRequest(
            **{"org_id": "acme", "parent_job_id": parent.job_id, "page_token": token, **filters}
        )
        return await api.jobs.ListJobs(request)

    found: list[str] = []
    token = ""
    while True:
        answer = await page(token, page_size=2)
        found += [job.job_id for job in answer.jobs]
        assert all(job.parent_job_id == parent.job_id for job in answer.jobs)
        token = answer.next_page_token
        if not token:
            break
    assert found == [job.job_id for job in reversed(children)]
    by_status = await page(statuses=[job_pb2.JOB_STATUS_CANCELLED, job_pb2.JOB_STATUS_FAILED])
    assert [job.job_id for job in by_status.jobs] == [children[1].job_id]
    assert not (await page(parent_job_id=other.job_id)).jobs
    assert len((await page(org_id="-")).jobs) == 6
    token = (await page(page_size=2)).next_page_token
    assert set(await refused_fields(page(token, parent_job_id=other.job_id))) == {"page_token"}
    assert set(await refused_fields(page(parent_job_id="schedule_1"))) == {"parent_job_id"}

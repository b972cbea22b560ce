"""What callers may do who are not allowed everything."""

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from millrace.files.v1 import files_service_pb2
from millrace.jobs.v1 import job_options_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller, Role
from support.jobs_api import ANY_TYPE, JobsApi, refusal, refused_fields, serving

NO_JOB = "job_" + "0" * 32
NO_FILE = "file_" + "0" * 32
SCHEDULE = "schedule_" + "0" * 32


@pytest.fixture
async def api(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JobsApi]:
    """The service as Ann of "acme" finds it, who is neither a service nor an operator."""
    ann = Caller("ann", frozenset({"acme"}))
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: ann)
    async with serving(database, tmp_path) as api:
        yield api


def _become(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: caller)


async def _code(call: Awaitable[Any]) -> grpc.StatusCode:
    return (await refusal(call)).code()


async def _upload(api: JobsApi, **fields: Any) -> files_service_pb2.UploadFileResponse:
    async def messages() -> AsyncIterator[files_service_pb2.UploadFileRequest]:
        header = files_service_pb2.UploadFileHeader(**{"org_id": "acme", "name": "a.txt", **fields})
        yield files_service_pb2.UploadFileRequest(header=header)

    return await api.files.UploadFile(messages())


async def test_whoever_creates_is_recorded_as_the_creator(api: JobsApi) -> None:
    assert (await api.create()).created_by == "ann"
    assert (await api.create(created_by="ann")).created_by == "ann"
    assert (await _upload(api)).file.created_by == "ann"


async def test_every_call_is_denied_in_another_organisation(api: JobsApi) -> None:
    job: dict[str, Any] = {"org_id": "other", "job_id": NO_JOB}
    file: dict[str, Any] = {"org_id": "other", "file_id": NO_FILE}
    batch = jobs_service_pb2.BatchCreateJobsRequest(
        org_id="other", requests=[jobs_service_pb2.CreateJobRequest(type=ANY_TYPE)]
    )
    calls: list[Awaitable[Any]] = [
        api.create(org_id="other"),
        api.jobs.BatchCreateJobs(batch),
        api.jobs.GetJob(jobs_service_pb2.GetJobRequest(**job)),
        api.jobs.ListJobs(jobs_service_pb2.ListJobsRequest(org_id="other")),
        anext(aiter(api.jobs.WatchJob(jobs_service_pb2.WatchJobRequest(**job)))),
        api.jobs.CancelJob(jobs_service_pb2.CancelJobRequest(**job)),
        api.jobs.RetryJob(jobs_service_pb2.RetryJobRequest(**job)),
        api.files.GetFile(files_service_pb2.GetFileRequest(**file)),
        api.files.ListFiles(files_service_pb2.ListFilesRequest(org_id="other")),
        anext(aiter(api.files.DownloadFile(files_service_pb2.DownloadFileRequest(**file)))),
        _upload(api, org_id="other"),
        anext(aiter(api.jobs.DownloadJobOutput(jobs_service_pb2.DownloadJobOutputRequest(**job)))),
        *_file_calls(api),
    ]
    assert [await _code(call) for call in calls] == [grpc.StatusCode.PERMISSION_DENIED] * len(calls)


def _file_calls(api: JobsApi) -> list[Awaitable[Any]]:
    """The other calls about files, each in another organisation."""
    file: dict[str, Any] = {"org_id": "other", "file_id": NO_FILE}
    upload = {"org_id": "other", "upload_id": "upload_" + "0" * 32}
    begun = files_service_pb2.InitiateUploadRequest(org_id="other", name="a.csv", size_bytes=1)
    return [
        api.files.InitiateUpload(begun),
        api.files.ConfirmUpload(files_service_pb2.ConfirmUploadRequest(**upload)),
        api.files.CancelUpload(files_service_pb2.CancelUploadRequest(**upload)),
        api.files.ListUploads(files_service_pb2.ListUploadsRequest(org_id="other")),
        api.files.GetDownloadUrl(files_service_pb2.GetDownloadUrlRequest(**file)),
        api.files.PersistFile(files_service_pb2.PersistFileRequest(**file)),
        api.files.DeleteFile(files_service_pb2.DeleteFileRequest(**file)),
        api.files.UndeleteFile(files_service_pb2.UndeleteFileRequest(**file)),
        api.files.GetFileUsage(files_service_pb2.GetFileUsageRequest(org_id="other")),
    ]


async def test_only_an_operator_sets_the_limits_of_files(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = files_service_pb2.UpdateFileLimitsRequest(
        org_id="acme", limits=files_service_pb2.FileLimitsUpdate(max_files=1)
    )
    assert await _code(api.files.UpdateFileLimits(change)) is grpc.StatusCode.PERMISSION_DENIED

    _become(monkeypatch, Caller("op", frozenset(), frozenset({Role.OPERATOR})))
    assert (await api.files.UpdateFileLimits(change)).usage.limits.max_files == 1


async def test_only_an_operator_lists_all_organisations(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = jobs_service_pb2.ListJobsRequest(org_id="-")
    assert await _code(api.jobs.ListJobs(everything)) is grpc.StatusCode.PERMISSION_DENIED

    _become(monkeypatch, Caller("op", frozenset(), frozenset({Role.OPERATOR})))
    await api.jobs.ListJobs(everything)


async def test_only_a_service_names_another_creator_or_a_schedule(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    assert await _code(api.create(created_by="bob")) is denied
    assert await _code(api.create(schedule_id=SCHEDULE)) is denied
    assert await _code(_upload(api, created_by="bob")) is denied
    begun = files_service_pb2.InitiateUploadRequest(
        org_id="acme", name="a.csv", size_bytes=1, created_by="bob"
    )
    assert await _code(api.files.InitiateUpload(begun)) is denied

    _become(monkeypatch, Caller("scheduler", None, frozenset({Role.SERVICE})))
    job = await api.create(created_by="bob", schedule_id=SCHEDULE)
    assert (job.created_by, job.schedule_id) == ("bob", SCHEDULE)
    assert (await _upload(api, created_by="bob")).file.created_by == "bob"


async def test_an_item_that_is_not_allowed_fails_alone(api: JobsApi) -> None:
    request = jobs_service_pb2.CreateJobRequest
    batch = jobs_service_pb2.BatchCreateJobsRequest(
        org_id="acme", requests=[request(type=ANY_TYPE, created_by="bob"), request(type=ANY_TYPE)]
    )
    results = (await api.jobs.BatchCreateJobs(batch)).results

    assert [result.error.code for result in results] == [code_pb2.PERMISSION_DENIED, code_pb2.OK]
    assert (await api.get(results[1].job_id)).created_by == "ann"


async def test_keys_of_millrace_are_for_services(api: JobsApi, monkeypatch: pytest.MonkeyPatch) -> None:
    unique = job_options_pb2.Uniqueness(key="millrace:schedule:1")
    concurrency = job_options_pb2.Concurrency(key="millrace:schedule:1")
    assert await refused_fields(api.create(unique=unique, concurrency=concurrency)) == {
        "unique.key": "must not begin with 'millrace:'",
        "concurrency.key": "must not begin with 'millrace:'",
    }

    _become(monkeypatch, Caller("scheduler", frozenset({"acme"}), frozenset({Role.SERVICE})))
    assert (await api.create(unique=unique, concurrency=concurrency)).job_id

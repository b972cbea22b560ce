"""The SDK's job calls against a server that misbehaves on command."""
# ruff: noqa: N802, ARG002 - the methods of generated servicers

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from millrace.files.v1 import file_pb2
from millrace.jobs.v1 import job_pb2
from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client import (
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    JobCancelledError,
    JobFailedError,
    JobStatus,
    Millrace,
    NewJob,
    NotFoundError,
    UnavailableError,
)
from support.scripted_jobs import ScriptedJobs, client_of, serving

PENDING = job_pb2.JOB_STATUS_PENDING
PROCESSING = job_pb2.JOB_STATUS_PROCESSING
COMPLETED = job_pb2.JOB_STATUS_COMPLETED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def job(status: job_pb2.JobStatus.ValueType = PENDING, **fields: Any) -> job_pb2.Job:
    return job_pb2.Job(job_id="job_1", org_id="acme", status=status, **fields)


def created(**fields: Any) -> messages.CreateJobResponse:
    return messages.CreateJobResponse(job=job(**fields))


def got(status: job_pb2.JobStatus.ValueType) -> messages.GetJobResponse:
    return messages.GetJobResponse(job=job(status))


def page(count: int, next_page_token: str) -> messages.ListJobsResponse:
    return messages.ListJobsResponse(jobs=[job() for _ in range(count)], next_page_token=next_page_token)


async def test_creating_sends_everything_that_was_asked() -> None:
    jobs = ScriptedJobs(created(type="imports:load", input={"rows": 3}))
    run_at = datetime(2027, 1, 31, 9, 30, tzinfo=UTC)
    async with client_of(jobs) as client:
        new = await client.jobs.create(
            "imports:load",
            {"serial": 2**60, "rows": 3},
            metadata={"ticket": 7},
            request_id="mine",
            run_at=run_at,
            priority=5,
            max_attempts=2,
            created_by="ada",
        )
    [request] = jobs.requests
    assert request.org_id == "acme"
    assert request.type == "imports:load"
    assert request.input_json == b'{"serial":1152921504606846976,"rows":3}'
    assert dict(request.metadata) == {"ticket": 7}
    assert request.request_id == "mine"
    assert request.run_at.ToDatetime(tzinfo=UTC) == run_at
    assert (request.priority, request.max_attempts, request.created_by) == (5, 2, "ada")
    assert (new.job_id, new.status, new.type, new.input) == (
        "job_1",
        JobStatus.PENDING,
        "imports:load",
        {"rows": 3},
    )


async def test_a_create_is_repeated_with_the_same_request_id_while_the_service_is_unavailable() -> None:
    jobs = ScriptedJobs(UNAVAILABLE, UNAVAILABLE, created())
    async with client_of(jobs) as client:
        assert (await client.jobs.create("noop")).job_id == "job_1"
    assert len(jobs.requests) == 3
    assert len({request.request_id for request in jobs.requests}) == 1
    assert len(jobs.requests[0].request_id) == 32


async def test_two_creates_have_request_ids_of_their_own() -> None:
    jobs = ScriptedJobs(created(), created())
    async with client_of(jobs) as client:
        await client.jobs.create("noop")
        await client.jobs.create("noop")
    assert jobs.requests[0].request_id != jobs.requests[1].request_id


async def test_an_empty_request_id_counts_as_none_since_the_call_may_be_repeated() -> None:
    jobs = ScriptedJobs(UNAVAILABLE, created(), messages.BatchCreateJobsResponse())
    async with client_of(jobs) as client:
        await client.jobs.create("reports:generate", request_id="")
        await client.jobs.create_many([NewJob("reports:generate", request_id="")])
    first, second, batch = jobs.requests
    assert first.request_id == second.request_id != ""
    assert batch.requests[0].request_id not in ("", first.request_id)


async def test_a_retry_of_a_job_is_never_repeated() -> None:
    jobs = ScriptedJobs(UNAVAILABLE, messages.RetryJobResponse(job=job()))
    async with client_of(jobs) as client:
        with pytest.raises(UnavailableError, match="as scripted"):
            await client.jobs.retry("job_1")
    assert len(jobs.requests) == 1


async def test_an_error_carries_what_the_server_said_of_it() -> None:
    status = Status(code=code_pb2.INVALID_ARGUMENT, message="the request is not valid")
    violation = error_details_pb2.BadRequest.FieldViolation(field="input.rows", description="is not a number")
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    async with client_of(ScriptedJobs(status)) as client:
        with pytest.raises(InvalidArgumentError) as raised:
            await client.jobs.create("imports:load", {"rows": "three"})
    assert raised.value.violations == (FieldViolation("input.rows", "is not a number"),)


async def test_a_call_that_is_not_answered_in_time_ends() -> None:
    jobs = ScriptedJobs([asyncio.Event()])
    async with client_of(jobs) as client:
        with pytest.raises(TimeoutError):
            await client.jobs.wait("job_1", timeout=0.2)

    class Silent(ScriptedJobs):
        async def GetJob(self, request: Any, context: Any) -> Any:
            await asyncio.Event().wait()

    async with client_of(Silent()) as client:
        with pytest.raises(DeadlineExceededError):
            await client.jobs.get("job_1", timeout=0.2)


async def test_another_organisation_shares_the_connections() -> None:
    jobs = ScriptedJobs(got(PENDING), got(PENDING))
    async with client_of(jobs) as client:
        await client.jobs.get("job_1")
        await client.organisation("globex").jobs.get("job_1")
    assert [request.org_id for request in jobs.requests] == ["acme", "globex"]


async def test_a_list_goes_through_all_pages() -> None:
    jobs = ScriptedJobs(page(2, "second"), page(2, "third"), page(1, ""))
    async with client_of(jobs) as client:
        listed = [
            listed
            async for listed in client.jobs.list(
                statuses=["FAILED"], metadata={"a": 1}, error_codes=["TIMEOUT"], page_size=2
            )
        ]
    assert len(listed) == 5
    assert [request.page_token for request in jobs.requests] == ["", "second", "third"]
    assert {request.page_size for request in jobs.requests} == {2}
    assert all(list(request.statuses) == [job_pb2.JOB_STATUS_FAILED] for request in jobs.requests)
    assert all(dict(request.metadata) == {"a": 1} for request in jobs.requests)
    assert all(list(request.error_codes) == ["TIMEOUT"] for request in jobs.requests)


async def test_a_limited_list_asks_for_no_more_than_it_gives() -> None:
    jobs = ScriptedJobs(page(2, "second"), page(2, "third"))
    async with client_of(jobs) as client:
        assert len([listed async for listed in client.jobs.list(limit=3, page_size=2)]) == 3
    assert len(jobs.requests) == 2


async def test_a_batch_is_split_and_its_results_are_in_order() -> None:
    class Batches(ScriptedJobs):
        async def BatchCreateJobs(self, request: Any, context: Any) -> Any:
            self.requests.append(request)
            return messages.BatchCreateJobsResponse(
                results=[self._result(item.input_json) for item in request.requests]
            )

        def _result(self, input_json: bytes) -> messages.BatchCreateJobsResult:
            number = json.loads(input_json)["number"]
            if number == 2_001:
                return messages.BatchCreateJobsResult(
                    error=Status(code=code_pb2.NOT_FOUND, message="no such type")
                )
            return messages.BatchCreateJobsResult(job_id=f"job_{number}", already_existed=number == 1)

    jobs = Batches()
    async with client_of(jobs) as client:
        results = await client.jobs.create_many(NewJob("noop", {"number": number}) for number in range(2_002))
        assert sorted(len(request.requests) for request in jobs.requests) == [2, 1_000, 1_000]
        large = "x" * 1_000_000
        await client.jobs.create_many(
            NewJob("noop", {"number": number, "text": large}) for number in range(4)
        )
    assert [result.job_id for result in results[:2_001]] == [f"job_{number}" for number in range(2_001)]
    assert [result.already_existed for result in results[:3]] == [False, True, False]
    assert isinstance(results[2_001].error, NotFoundError)
    assert sorted(len(request.requests) for request in jobs.requests[3:]) == [1, 3]
    request_ids = [item.request_id for request in jobs.requests for item in request.requests]
    assert len(set(request_ids)) == 2_006


async def test_a_watch_goes_on_after_the_stream_breaks_and_repeats_nothing() -> None:
    jobs = ScriptedJobs(
        [job(PENDING), job(PROCESSING, progress=10), UNAVAILABLE],
        [job(PROCESSING, progress=10), job(PROCESSING, progress=60)],
        [job(COMPLETED, progress=100, output={"rows": 3})],
    )
    async with client_of(jobs) as client:
        seen = [(seen.status, seen.progress) async for seen in client.jobs.watch("job_1")]
    assert seen == [
        (JobStatus.PENDING, 0),
        (JobStatus.PROCESSING, 10),
        (JobStatus.PROCESSING, 60),
        (JobStatus.COMPLETED, 100),
    ]


async def test_a_watch_outlives_a_restart_of_the_server() -> None:
    async with AsyncExitStack() as first_life:
        stuck = ScriptedJobs([job(PROCESSING), asyncio.Event()])
        address = await first_life.enter_async_context(serving(stuck))
        async with Millrace(address, org_id="acme") as client:
            watch = client.jobs.watch("job_1")
            assert (await anext(watch)).status is JobStatus.PROCESSING
            await first_life.aclose()
            async with serving(ScriptedJobs([job(COMPLETED)]), port=int(address.rpartition(":")[2])):
                assert [seen.status async for seen in watch] == [JobStatus.COMPLETED]


async def test_a_watch_that_was_silent_for_longer_than_its_patience_is_made_anew_when_it_breaks() -> None:
    silence = asyncio.Event()
    jobs = ScriptedJobs([job(PROCESSING), silence, UNAVAILABLE], [job(COMPLETED)])
    async with client_of(jobs) as client:
        watch = client.jobs.watch("job_1", patience=0.3)
        assert (await anext(watch)).status is JobStatus.PROCESSING
        asyncio.get_running_loop().call_later(0.6, silence.set)
        assert [seen.status async for seen in watch] == [JobStatus.COMPLETED]


async def test_a_watch_gives_up_when_nobody_answers_for_long() -> None:
    jobs = ScriptedJobs([job(PROCESSING), UNAVAILABLE], *[[UNAVAILABLE]] * 20)
    async with client_of(jobs) as client:
        watch = client.jobs.watch("job_1", patience=0.3)
        assert (await anext(watch)).status is JobStatus.PROCESSING
        with pytest.raises(UnavailableError, match="as scripted"):
            await anext(watch)
    assert 1 < len(jobs.requests) < 20


async def test_a_watch_of_a_job_that_is_not_there_ends_at_once() -> None:
    jobs = ScriptedJobs([grpc.StatusCode.NOT_FOUND])
    async with client_of(jobs) as client:
        with pytest.raises(NotFoundError):
            await client.jobs.wait("job_2")
    assert len(jobs.requests) == 1


async def test_leaving_a_watch_ends_the_call() -> None:
    ended = asyncio.Event()

    class Watched(ScriptedJobs):
        async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[messages.WatchJobResponse]:
            context.add_done_callback(lambda _: ended.set())
            yield messages.WatchJobResponse(job=job(PROCESSING))
            await asyncio.Event().wait()

    async with client_of(Watched()) as client:
        async with aclosing(client.jobs.watch("job_1")) as watch:
            await anext(watch)
        async with asyncio.timeout(5):
            await ended.wait()


async def test_waiting_returns_the_finished_job_and_raises_only_when_asked() -> None:
    failed = job(
        job_pb2.JOB_STATUS_FAILED,
        error=job_pb2.JobError(code="BAD_ROW", message="row 3 has no name", retryable=False),
    )
    jobs = ScriptedJobs([job(PENDING), failed], [job(job_pb2.JOB_STATUS_CANCELLED)], [job(COMPLETED)])
    async with client_of(jobs) as client:
        finished = await client.jobs.wait("job_1")
        assert finished.status is JobStatus.FAILED
        with pytest.raises(JobFailedError, match="job_1 failed: BAD_ROW: row 3 has no name"):
            finished.raise_for_status()
        with pytest.raises(JobCancelledError, match="job_1 was cancelled"):
            (await client.jobs.wait("job_1")).raise_for_status()
        assert (await client.jobs.wait("job_1")).raise_for_status().status is JobStatus.COMPLETED


async def test_addresses_and_organisation_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = ScriptedJobs(got(PENDING), got(PENDING))
    async with serving(jobs) as address:
        monkeypatch.setenv("MILLRACE_ORG_ID", "from-environment")
        monkeypatch.setenv("MILLRACE_JOBS_PORT", address.rpartition(":")[2])
        async with Millrace() as client:
            await client.jobs.get("job_1")
        monkeypatch.setenv("MILLRACE_JOBS_PORT", "1")
        monkeypatch.setenv("MILLRACE_JOBS_ADDRESS", address)
        async with Millrace() as client:
            await client.jobs.get("job_1")
    assert [request.org_id for request in jobs.requests] == ["from-environment"] * 2


async def test_the_output_of_a_job_is_downloaded_and_described(tmp_path: Path) -> None:
    content = b'{"rows": 3}'
    described = file_pb2.File(
        name="job_1.json", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    description = messages.DownloadJobOutputResponse(file=described)
    jobs = ScriptedJobs(
        [description, messages.DownloadJobOutputResponse(chunk=content)],
        [description, messages.DownloadJobOutputResponse(chunk=content[:1])],
    )
    async with client_of(jobs) as client:
        await client.jobs.download_output("job_1", tmp_path)
        file = await client.jobs.describe_output("job_1")
    assert (tmp_path / "job_1.json").read_bytes() == content
    assert (file.file_id, file.name, file.size_bytes) == ("", "job_1.json", len(content))
    assert [(request.job_id, request.offset) for request in jobs.requests] == [("job_1", 0), ("job_1", 0)]

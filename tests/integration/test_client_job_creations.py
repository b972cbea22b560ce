"""Single creates of concurrent callers of the SDK: what they share, and what they must not."""
# ruff: noqa: N802, ARG002 - the methods of generated servicers

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from millrace.jobs.v1 import job_pb2
from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace.jobs.v1.jobs_service_pb2_grpc import JobsServiceServicer, add_JobsServiceServicer_to_server
from millrace_client import (
    AlreadyExistsError,
    CallError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    Job,
    Millrace,
    UnavailableError,
)
from millrace_client.connection import Addresses, Connection
from millrace_client.job_creations import JobCreations
from millrace_database.database import Database
from support.jobs_api import ANY_TYPE, TYPE
from support.jobs_api import serving as serving_jobs
from support.polling import eventually
from support.scripted_server import scripted_server


class Jobs(JobsServiceServicer):
    """Makes a job of each request, whose id is the request's number; calls wait while `gate` is closed.

    `failures` are the statuses that the next batches fail with.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.requests: list[messages.CreateJobRequest] = []
        self.read: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[grpc.StatusCode] = []
        self.refused: set[int] = set()
        self.with_jobs = True
        self.cancelled = asyncio.Event()

    async def CreateJob(self, request: Any, context: Any) -> Any:
        await self._enter([request], context)
        return messages.CreateJobResponse(job=_job(request))

    async def BatchCreateJobs(self, request: Any, context: Any) -> Any:
        assert request.org_id == "acme"
        assert request.return_jobs
        await self._enter(request.requests, context)
        if self.failures:
            await context.abort(self.failures.pop(), "as scripted")
        return messages.BatchCreateJobsResponse(results=[self._result(item) for item in request.requests])

    async def GetJob(self, request: Any, context: Any) -> Any:
        self.read.append(request.job_id)
        return messages.GetJobResponse(job=job_pb2.Job(job_id=request.job_id))

    async def _enter(self, requests: Any, context: Any) -> None:
        self.calls.append([_number(request) for request in requests])
        self.requests += requests
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def _result(self, request: messages.CreateJobRequest) -> messages.BatchCreateJobsResult:
        job = _job(request)
        if _number(request) in self.refused:
            error = Status(code=code_pb2.INVALID_ARGUMENT, message=f"{job.job_id} is refused")
            return messages.BatchCreateJobsResult(error=error)
        return messages.BatchCreateJobsResult(job_id=job.job_id, job=job if self.with_jobs else None)


def _number(request: messages.CreateJobRequest) -> int:
    number: int = json.loads(request.input_json)["number"]
    return number


def _job(request: messages.CreateJobRequest) -> job_pb2.Job:
    return job_pb2.Job(job_id=f"job_{_number(request)}", org_id=request.org_id, priority=request.priority)


@pytest.fixture
async def jobs() -> Jobs:
    return Jobs()  # type: ignore[abstract]  # it has those methods that are called


@pytest.fixture
async def client(jobs: Jobs) -> AsyncIterator[Millrace]:
    async with (
        scripted_server(add_JobsServiceServicer_to_server, jobs) as address,
        Millrace(address, org_id="acme") as client,
    ):
        yield client


def _create(client: Millrace, number: int, **options: Any) -> "asyncio.Task[Job]":
    return asyncio.create_task(client.jobs.create("noop", {"number": number}, **options))


async def _closed_gate(client: Millrace, jobs: Jobs) -> list["asyncio.Task[Job]"]:
    """Have as many calls under way as there may be, and return their callers."""
    jobs.gate.clear()
    callers = []
    for number in (-1, -2):
        callers.append(_create(client, number))
        await _arrived(jobs, len(callers))
    return callers


async def _arrived(jobs: Jobs, calls: int) -> None:
    async def enough() -> bool:
        return len(jobs.calls) >= calls

    await eventually(enough)


async def test_who_is_alone_has_a_call_of_his_own(client: Millrace, jobs: Jobs) -> None:
    for number in range(3):
        assert (await client.jobs.create("noop", {"number": number})).job_id == f"job_{number}"
    assert jobs.calls == [[0], [1], [2]]


async def test_callers_of_the_same_moment_share_a_call_and_have_each_their_own_job(
    client: Millrace, jobs: Jobs
) -> None:
    created = await asyncio.gather(*(_create(client, number, priority=number) for number in range(50)))
    assert [(job.job_id, job.priority) for job in created] == [(f"job_{n}", n) for n in range(50)]
    assert jobs.calls == [list(range(50))]


async def test_callers_that_come_during_two_calls_share_the_next_one(client: Millrace, jobs: Jobs) -> None:
    first = await _closed_gate(client, jobs)
    late = []
    for number in range(10):
        late.append(_create(client, number))
        await asyncio.sleep(0)
    jobs.gate.set()
    assert [job.job_id for job in await asyncio.gather(*late)] == [f"job_{number}" for number in range(10)]
    assert jobs.calls == [[-1], [-2], list(range(10))]
    await asyncio.gather(*first)


async def test_clients_of_one_organisation_share_calls_and_others_do_not(
    client: Millrace, jobs: Jobs
) -> None:
    same, other = client.organisation("acme"), client.organisation("globex")
    created = await asyncio.gather(
        client.jobs.create("noop", {"number": 0}),
        same.jobs.create("noop", {"number": 1}),
        other.jobs.create("noop", {"number": 2}),
    )
    assert [job.org_id for job in created] == ["acme", "acme", "globex"]
    assert sorted(jobs.calls) == [[0, 1], [2]]


async def test_a_call_holds_no_more_than_the_server_takes(client: Millrace, jobs: Jobs) -> None:
    await asyncio.gather(*(_create(client, number) for number in range(1_100)))
    assert [len(call) for call in jobs.calls] == [500, 500, 100]
    jobs.calls.clear()

    text = "x" * 200_000
    inputs = [{"number": number, "text": text} for number in range(5)]
    await asyncio.gather(*(client.jobs.create("noop", item) for item in inputs))
    assert [len(call) for call in jobs.calls] == [2, 2, 1]


async def test_an_error_is_its_own_callers(client: Millrace, jobs: Jobs) -> None:
    jobs.refused = {1, 3}
    results = await asyncio.gather(*(_create(client, number) for number in range(5)), return_exceptions=True)
    assert len(jobs.calls) == 1
    for number, result in enumerate(results):
        if number in jobs.refused:
            assert isinstance(result, InvalidArgumentError)
            assert result.message == f"job_{number} is refused"
        else:
            assert isinstance(result, Job)
            assert result.job_id == f"job_{number}"


async def test_a_caller_that_gives_up_harms_nobody(client: Millrace, jobs: Jobs) -> None:
    first = await _closed_gate(client, jobs)
    waiting = [_create(client, number) for number in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    jobs.gate.set()
    await asyncio.gather(waiting[0], waiting[2], *first)
    assert jobs.calls[2:] == [[0, 2]]

    jobs.gate.clear()
    sent = [_create(client, number) for number in range(3)]
    await _arrived(jobs, 4)
    sent[1].cancel()
    jobs.gate.set()
    assert [job.job_id for job in await asyncio.gather(sent[0], sent[2])] == ["job_0", "job_2"]
    assert sent[1].cancelled()


async def test_a_call_that_nobody_waits_for_is_cancelled(client: Millrace, jobs: Jobs) -> None:
    jobs.gate.clear()
    callers = [_create(client, number) for number in range(2)]
    await _arrived(jobs, 1)
    for caller in callers:
        caller.cancel()
    async with asyncio.timeout(5):
        await jobs.cancelled.wait()
    jobs.gate.set()
    assert (await client.jobs.create("noop", {"number": 7})).job_id == "job_7"


async def test_each_caller_has_a_deadline_of_its_own(client: Millrace, jobs: Jobs) -> None:
    first = await _closed_gate(client, jobs)
    patient, impatient = _create(client, 0), _create(client, 1, timeout=0.2)
    with pytest.raises(DeadlineExceededError):
        async with asyncio.timeout(5):
            await impatient
    jobs.gate.set()
    assert (await patient).job_id == "job_0"
    await asyncio.gather(*first)
    assert jobs.calls[2:] == [[0]]

    jobs.gate.clear()
    patient, impatient = _create(client, 2), _create(client, 3, timeout=0.2)
    with pytest.raises(DeadlineExceededError) as shared:
        await impatient
    assert jobs.calls[3:] == [[2, 3]]
    jobs.gate.set()
    assert (await patient).job_id == "job_2"

    jobs.gate.clear()
    with pytest.raises(DeadlineExceededError) as alone:
        await client.jobs.create("noop", {"number": 4}, timeout=0.2)
    assert shared.value.args == alone.value.args


async def test_a_call_that_fails_for_a_while_is_repeated_with_the_same_request_ids(
    client: Millrace, jobs: Jobs
) -> None:
    jobs.failures = [grpc.StatusCode.UNAVAILABLE] * 2
    created = await asyncio.gather(*(_create(client, number) for number in range(3)))
    assert [job.job_id for job in created] == ["job_0", "job_1", "job_2"]
    assert jobs.calls == [[0, 1, 2]] * 3
    request_ids = [request.request_id for request in jobs.requests]
    assert request_ids[:3] == request_ids[3:6] == request_ids[6:]
    assert len(set(request_ids)) == 3


async def test_an_outage_is_told_to_each_caller(client: Millrace, jobs: Jobs) -> None:
    jobs.failures = [grpc.StatusCode.UNAVAILABLE] * 5
    results = await asyncio.gather(*(_create(client, number) for number in range(3)), return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    assert len({id(result) for result in results}) == 3
    assert len(jobs.calls) == 5


async def test_a_batch_that_fails_as_a_whole_is_sent_one_by_one(client: Millrace, jobs: Jobs) -> None:
    jobs.failures = [grpc.StatusCode.INTERNAL]
    created = await asyncio.gather(*(_create(client, number) for number in range(3)))
    assert [job.job_id for job in created] == ["job_0", "job_1", "job_2"]
    assert sorted(jobs.calls) == [[0], [0, 1, 2], [1], [2]]


async def test_a_job_that_the_answer_had_no_room_for_is_read(client: Millrace, jobs: Jobs) -> None:
    jobs.with_jobs = False
    created = await asyncio.gather(*(_create(client, number) for number in range(3)))
    assert [job.job_id for job in created] == ["job_0", "job_1", "job_2"]
    assert sorted(jobs.read) == ["job_0", "job_1", "job_2"]


async def test_closing_the_client_ends_the_calls(jobs: Jobs) -> None:
    async with (
        scripted_server(add_JobsServiceServicer_to_server, jobs) as address,
        Millrace(address, org_id="acme") as client,
    ):
        callers = [*await _closed_gate(client, jobs), _create(client, 1)]
        await asyncio.sleep(0)
        await client.close()
        done, pending = await asyncio.wait(callers, timeout=5)
        assert not pending
        assert all(caller.cancelled() for caller in done)


async def test_a_trial_travels_alone(jobs: Jobs) -> None:
    async with scripted_server(add_JobsServiceServicer_to_server, jobs) as address:
        connection = Connection(Addresses(address, address, address), timeout=10, credentials=None)
        creations = JobCreations(connection, "acme")
        requests = [
            messages.CreateJobRequest(input_json=b'{"number": %d}' % number, validate_only=number == 1)
            for number in range(3)
        ]
        await asyncio.gather(*(creations.create(request, 10) for request in requests))
        await connection.close()
    assert sorted(jobs.calls) == [[0, 2], [1]]


async def test_errors_in_company_are_those_that_one_gets_alone(database: Database, tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"job_type": "nobody:knows", "priority": 101, "created_by": "c" * 300},
        {"job_type": TYPE, "job_input": {"limit": "many", "rows": [{}]}},
        {"job_type": ANY_TYPE, "job_input": {"a": "\0"}},
        {"job_type": ANY_TYPE, "job_input": {"other": True}, "request_id": "taken"},
    ]
    async with serving_jobs(database, tmp_path) as api, Millrace(api.address, org_id="acme") as client:
        await client.jobs.create(ANY_TYPE, request_id="taken")
        alone = [await _error(client, **options) for options in bad]
        together = await asyncio.gather(
            *(_error(client, **options) for options in bad),
            *(client.jobs.create(ANY_TYPE, {"number": number}) for number in range(20)),
        )

    assert [type(error) for error in alone] == [InvalidArgumentError] * 3 + [AlreadyExistsError]
    assert [(type(error), error.args) for error in together[: len(bad)] if isinstance(error, CallError)] == [
        (type(error), error.args) for error in alone
    ]
    assert [job.input for job in together[len(bad) :] if isinstance(job, Job)] == [
        {"number": number} for number in range(20)
    ]


async def _error(client: Millrace, **options: Any) -> CallError:
    with pytest.raises(CallError) as raised:
        await client.jobs.create(**options)
    return raised.value


async def test_an_organisation_that_cannot_be_is_named_to_each_caller(
    database: Database, tmp_path: Path
) -> None:
    async with serving_jobs(database, tmp_path) as api, Millrace(api.address, org_id="no/body") as client:
        alone = await _error(client, job_type="nobody:knows")
        together = await asyncio.gather(*(_error(client, job_type="nobody:knows") for _ in range(3)))
    assert {violation.field for violation in alone.violations} == {"org_id", "type"}
    assert [error.args for error in together] == [alone.args] * 3


async def test_one_job_that_the_database_refuses_does_not_harm_the_others(
    database: Database, tmp_path: Path
) -> None:
    async with serving_jobs(database, tmp_path) as api, Millrace(api.address, org_id="acme") as client:
        async with database.connection() as connection:
            await connection.execute("ALTER TABLE jobs ADD CHECK (input <> '{\"bad\": true}'::jsonb)")
        results = await asyncio.gather(
            *(client.jobs.create(ANY_TYPE, {"bad": number == 1}) for number in range(3)),
            return_exceptions=True,
        )
    assert [isinstance(result, Job) for result in results] == [True, False, True]
    assert isinstance(results[1], InternalError)


async def test_jobs_of_one_caller_are_created_in_order(database: Database, tmp_path: Path) -> None:
    async with serving_jobs(database, tmp_path) as api, Millrace(api.address, org_id="acme") as client:

        async def create_some() -> list[str]:
            return [(await client.jobs.create(ANY_TYPE)).job_id for _ in range(10)]

        created = await asyncio.gather(*(create_some() for _ in range(10)))
        together = await asyncio.gather(*(client.jobs.create(ANY_TYPE) for _ in range(50)))
    assert all(ids == sorted(ids) for ids in created)
    assert len({job_id for ids in created for job_id in ids}) == 100
    assert [job.job_id for job in together] == sorted(job.job_id for job in together)

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2, error_details_pb2

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.database import Database
from support.jobs_api import ANY_TYPE, TYPE, JobsApi, detail, refused_fields, serving, violations

_CLIENTS_ACCEPT = 4 * 1024 * 1024


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _create(
    api: JobsApi, requests: Sequence[jobs_service_pb2.CreateJobRequest]
) -> Sequence[jobs_service_pb2.BatchCreateJobsResult]:
    batch = jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=requests)
    return (await api.jobs.BatchCreateJobs(batch)).results


def _request(**fields: Any) -> jobs_service_pb2.CreateJobRequest:
    return jobs_service_pb2.CreateJobRequest(**{"type": ANY_TYPE, **fields})


async def test_each_item_has_its_result_at_its_own_place(api: JobsApi, database: Database) -> None:
    results = await _create(
        api,
        [
            _request(input_json=b'{"number": 0}'),
            _request(type="nobody:knows", priority=1000),
            _request(type=TYPE, input_json=b'{"limit": 1}'),
            _request(org_id="acme", input_json=b'{"number": 3}'),
            _request(org_id="other"),
            _request(input_json=b'{"a": "\\u0000"}'),
        ],
    )

    refused = {
        place: set(violations(result.error))
        for place, result in enumerate(results)
        if result.HasField("error")
    }
    assert refused == {
        1: {"type", "priority"},
        2: {"input.file_id"},
        4: {"org_id"},
        5: {"input_json"},
    }
    assert {result.error.code for result in results} == {code_pb2.OK, code_pb2.INVALID_ARGUMENT}
    for place in (0, 3):
        assert not results[place].already_existed
        job = await api.get(results[place].job_id)
        assert job.input["number"] == place
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM queue") == 2


async def test_items_with_one_request_id_make_one_job(api: JobsApi) -> None:
    first = await api.create(request_id="before")

    results = await _create(
        api,
        [
            _request(request_id="before"),
            _request(request_id="new"),
            _request(request_id="new"),
            _request(request_id="before", input_json=b'{"other": true}'),
        ],
    )

    assert [result.already_existed for result in results] == [True, False, True, False]
    assert results[0].job_id == first.job_id
    assert results[1].job_id == results[2].job_id
    assert results[3].error.code == code_pb2.ALREADY_EXISTS
    assert not results[3].job_id
    resource = detail(results[3].error, error_details_pb2.ResourceInfo)
    assert resource.resource_name == first.job_id


async def test_a_repeated_batch_creates_nothing_more(api: JobsApi, database: Database) -> None:
    requests = [_request(request_id=f"r-{number}") for number in range(50)]
    first = await _create(api, requests)
    again = await _create(api, list(reversed(requests)))

    assert [result.job_id for result in again] == [result.job_id for result in reversed(first)]
    assert all(result.already_existed for result in again)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 50


async def test_ten_thousand_jobs_are_created_and_not_one_more(api: JobsApi, database: Database) -> None:
    request = _request(input_json=b'{"a": 1}')
    results = await _create(api, [request] * 10_000)
    assert len({result.job_id for result in results}) == 10_000

    assert "requests" in await refused_fields(_create(api, [request] * 10_001))

    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 10_000
        assert await connection.fetchval("SELECT count(*) FROM queue") == 10_000


async def test_an_empty_batch_is_refused(api: JobsApi) -> None:
    assert "requests" in await refused_fields(_create(api, []))


async def test_items_that_are_all_refused_leave_nothing(api: JobsApi, database: Database) -> None:
    too_deep = Struct()
    level = too_deep
    for _ in range(32):
        level = level.get_or_create_struct("a")
    results = await _create(api, [_request(input=too_deep), _request(type="nobody:knows")])

    assert set(violations(results[0].error)) == {"input"}
    assert set(violations(results[1].error)) == {"type"}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0


async def test_jobs_are_returned_when_that_is_asked_for(api: JobsApi) -> None:
    before = await api.create(request_id="before", metadata={"ticket": 7})
    await api.jobs.CancelJob(jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=before.job_id))
    batch = jobs_service_pb2.BatchCreateJobsRequest(
        org_id="acme",
        requests=[
            _request(request_id="before"),
            _request(input_json=b'{"a": [1, 2.5, "x", null], "b": 1e3}', metadata={"ticket": 8}, priority=-3),
            _request(type="nobody:knows"),
        ],
        return_jobs=True,
    )

    existing, new, refused = (await api.jobs.BatchCreateJobs(batch)).results

    assert existing.job == await api.get(before.job_id)
    assert existing.job.status == job_pb2.JOB_STATUS_CANCELLED
    assert new.job == await api.get(new.job_id)
    assert not refused.HasField("job")
    batch.return_jobs = False
    assert not any(result.HasField("job") for result in (await api.jobs.BatchCreateJobs(batch)).results)


async def test_jobs_that_an_answer_has_no_room_for_are_left_out(api: JobsApi) -> None:
    text = json.dumps({"text": "x" * 900_000}).encode()
    batch = jobs_service_pb2.BatchCreateJobsRequest(
        org_id="acme", requests=[_request(input_json=text)] * 5 + [_request()], return_jobs=True
    )

    answer = await api.jobs.BatchCreateJobs(batch)

    assert answer.ByteSize() < _CLIENTS_ACCEPT
    assert [result.HasField("job") for result in answer.results] == [True] * 4 + [False, True]
    assert (await api.get(answer.results[4].job_id)).job_id


async def test_thousands_of_long_errors_are_shortened(api: JobsApi) -> None:
    bad = _request(
        type="t" * 200 + "é",
        created_by="c" * 300,
        request_id="\0",
        priority=101,
        max_attempts=-1,
        input_json=b"{",
    )
    bad.run_at.nanos = -1
    batch = jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=[bad] * 10_000)

    answer = await api.jobs.BatchCreateJobs(batch)

    assert answer.ByteSize() < _CLIENTS_ACCEPT
    first, last = answer.results[0].error, answer.results[-1].error
    assert set(violations(first)) >= {
        "type",
        "created_by",
        "request_id",
        "priority",
        "max_attempts",
        "run_at",
    }
    assert last.code == code_pb2.INVALID_ARGUMENT
    assert detail(last, error_details_pb2.ErrorInfo).reason == "INVALID_FIELDS"
    assert first.message.startswith(last.message.removesuffix("…"))
    assert len(last.message) > 50


async def test_the_largest_batch_of_errors_is_still_one_answer(api: JobsApi) -> None:
    results = await _create(api, [_request(type="nobody:knows")] * 10_000)

    assert len(results) == 10_000
    assert set(violations(results[-1].error)) == {"type"}
    assert results[-1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]

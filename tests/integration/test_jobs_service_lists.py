import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_database.job_lifecycle import JobFailure, complete_jobs, fail_jobs
from millrace_runtime.struct_json import dict_to_struct, struct_to_dict
from support.jobs_api import (
    ANY_TYPE,
    MAX_ATTEMPTS,
    SCHEMA,
    TYPE,
    JobsApi,
    claim,
    ids,
    publish,
    refused_fields,
    serving,
    start_worker,
)


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _page(api: JobsApi, **fields: Any) -> jobs_service_pb2.ListJobsResponse:
    return await api.jobs.ListJobs(jobs_service_pb2.ListJobsRequest(**{"org_id": "acme", **fields}))


async def _listed(api: JobsApi, **fields: Any) -> list[job_pb2.Job]:
    """Return the jobs of all pages."""
    jobs: list[job_pb2.Job] = []
    token = ""
    while True:
        page = await _page(api, page_token=token, **fields)
        jobs += page.jobs
        token = page.next_page_token
        if not token:
            return jobs


async def _created(api: JobsApi, count: int, **fields: Any) -> list[job_pb2.Job]:
    return [await api.create(**fields) for _ in range(count)]


async def test_pages_hold_every_job_once_newest_first(api: JobsApi) -> None:
    created = await _created(api, 7)
    await api.create(org_id="other")

    first = await _page(api, page_size=3)
    assert ids(first.jobs) == ids(created)[:3:-1]
    assert ids(await _listed(api, page_size=3)) == ids(created)[::-1]
    assert ids(await _listed(api, page_size=7)) == ids(created)[::-1]
    whole = await _page(api)
    assert list(whole.jobs) == created[::-1]
    assert not whole.next_page_token


async def test_an_organisation_without_jobs_has_an_empty_page(api: JobsApi) -> None:
    assert await _page(api) == jobs_service_pb2.ListJobsResponse()


async def test_pages_stay_whole_while_jobs_are_created_and_change(api: JobsApi, database: Database) -> None:
    before = await _created(api, 30)
    done = asyncio.Event()

    async def go_on_creating() -> None:
        while not done.is_set():
            await api.create()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on_creating())
        listed = []
        token = ""
        while True:
            page = await _page(api, page_size=4, page_token=token)
            listed += ids(page.jobs)
            token = page.next_page_token
            if not token:
                break
            await _change_all(database)
        done.set()

    assert listed == sorted(set(listed), reverse=True)
    assert listed[-30:] == ids(before)[::-1]


async def _change_all(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("UPDATE jobs SET message = message || '.', version = version + 1")


async def test_the_filters_narrow_the_list(api: JobsApi, database: Database) -> None:
    schedule_id = "schedule_" + "a" * 32
    plain = await api.create()
    labelled = await api.create(metadata=dict_to_struct({"team": "billing", "tier": {"level": 2}}))
    anns = await api.create(type=TYPE, input_json=b'{"file_id": "a"}', created_by="ann")
    scheduled = await api.create(schedule_id=schedule_id)
    request = jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=plain.job_id)
    await api.jobs.CancelJob(request)
    everything = [scheduled, anns, labelled, plain]

    async def found(**filters: Any) -> list[str]:
        return ids(await _listed(api, page_size=2, **filters))

    assert await found() == ids(everything)
    assert await found(statuses=[job_pb2.JOB_STATUS_CANCELLED]) == ids([plain])
    both = [job_pb2.JOB_STATUS_PENDING, job_pb2.JOB_STATUS_CANCELLED]
    assert await found(statuses=both) == ids(everything)
    assert await found(types=[TYPE]) == ids([anns])
    assert await found(types=[TYPE, ANY_TYPE, "never:seen"]) == ids(everything)
    assert await found(types=["never:seen"]) == []
    assert await found(created_by="ann") == ids([anns])
    assert await found(schedule_id=schedule_id) == ids([scheduled])
    assert await found(metadata=dict_to_struct({"team": "billing"})) == ids([labelled])
    assert await found(metadata=dict_to_struct({"tier": {"level": 2}})) == ids([labelled])
    assert await found(metadata=dict_to_struct({"team": "sales"})) == []
    assert await found(metadata=dict_to_struct({})) == ids(everything)
    assert await found(created_after=anns.created_at) == ids([scheduled, anns])
    assert await found(created_before=anns.created_at) == ids([labelled, plain])
    assert await found(created_by="ann", types=[ANY_TYPE]) == []
    long_ago = Timestamp(seconds=0)
    assert await found(created_before=long_ago) == []
    assert await found(created_after=long_ago) == ids(everything)


async def test_a_list_by_the_error_has_all_whose_latest_attempt_ended_with_it(
    api: JobsApi, database: Database
) -> None:
    worker_id = await start_worker(database)
    jobs = []
    hour = timedelta(hours=1)
    for code, delay in (("NO_PAPER", hour), ("NO_PAPER", None), ("NO_PAPER", hour), ("NO_INK", None)):
        jobs.append(await api.create())
        lease = (await claim(database, worker_id)).lease
        async with database.transaction() as connection:
            await fail_jobs(connection, [JobFailure(lease, delay, code, "no", retryable=True)])
    retried, failed, cancelled, other = jobs
    completed = await api.create()
    await api.jobs.CancelJob(jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=cancelled.job_id))
    lease = (await claim(database, worker_id)).lease
    async with database.transaction() as connection:
        await complete_jobs(connection, [(lease, None)])

    async def found(*codes: str, **filters: Any) -> list[str]:
        return ids(await _listed(api, page_size=2, error_codes=codes, **filters))

    assert await found() == ids([completed, other, cancelled, failed, retried])
    assert await found("NO_PAPER") == ids([cancelled, failed, retried])
    assert await found("NO_PAPER", "NO_INK") == ids([other, cancelled, failed, retried])
    assert await found("NO_PAPER", statuses=[job_pb2.JOB_STATUS_PENDING]) == ids([retried])
    assert await found("NO_PAPER", statuses=[job_pb2.JOB_STATUS_FAILED]) == ids([failed])
    assert await found("NO_PAPER", statuses=[job_pb2.JOB_STATUS_COMPLETED]) == []
    assert await found("NO_PAPER", org_id="other") == []
    token = (await _page(api, page_size=1, error_codes=["NO_PAPER"])).next_page_token
    other_token = _page(api, page_token=token, error_codes=["NO_INK"])
    assert set(await refused_fields(other_token)) == {"page_token"}


async def test_a_page_token_is_good_for_the_same_filters_only(api: JobsApi) -> None:
    await _created(api, 3, metadata=dict_to_struct({"a": 1, "b": 2}))
    labels = dict_to_struct({"a": 1, "b": 2})
    token = (await _page(api, page_size=1, metadata=labels)).next_page_token

    same = dict_to_struct({"b": 2, "a": 1})
    assert len((await _page(api, page_size=2, page_token=token, metadata=same)).jobs) == 2
    for change in ({"metadata": None}, {"metadata": labels, "types": [TYPE]}, {"org_id": "other"}):
        fields: dict[str, Any] = {"metadata": labels, **change}
        assert set(await refused_fields(_page(api, page_token=token, **fields))) == {"page_token"}


async def test_a_page_of_large_jobs_ends_before_it_is_too_large_for_a_client(api: JobsApi) -> None:
    text = b"x" * 900_000
    created = await _created(api, 5, input_json=b'{"text": "' + text + b'"}')

    first = await _page(api, page_size=5)
    assert 1 <= len(first.jobs) < 5
    assert first.ByteSize() < 4 * 1024 * 1024
    assert ids(await _listed(api, page_size=5)) == ids(created)[::-1]


async def test_a_page_may_hold_a_thousand_jobs(api: JobsApi) -> None:
    batch = jobs_service_pb2.BatchCreateJobsRequest(
        org_id="acme", requests=[jobs_service_pb2.CreateJobRequest(type=ANY_TYPE)] * 1001
    )
    await api.jobs.BatchCreateJobs(batch)

    first = await _page(api, page_size=5000)
    second = await _page(api, page_size=5000, page_token=first.next_page_token)

    assert len(first.jobs) == 1000
    assert len(second.jobs) == 1
    assert not second.next_page_token


async def test_operators_list_the_jobs_of_all_organisations(api: JobsApi) -> None:
    ours, theirs = await api.create(), await api.create(org_id="other")

    assert ids(await _listed(api, org_id="-", page_size=1)) == [theirs.job_id, ours.job_id]


async def test_job_types_are_listed_by_name_with_all_that_is_known(api: JobsApi, database: Database) -> None:
    await start_worker(database)
    await publish(database, "imports:load", {"type": "object"})

    async def page(token: str) -> jobs_service_pb2.ListJobTypesResponse:
        return await api.jobs.ListJobTypes(
            jobs_service_pb2.ListJobTypesRequest(page_size=2, page_token=token)
        )

    first = await page("")
    second = await page(first.next_page_token)

    assert [known.type for known in first.job_types] == ["imports:load", ANY_TYPE]
    assert not second.next_page_token
    (report,) = second.job_types
    assert report.type == TYPE
    assert struct_to_dict(report.input_schema) == SCHEMA
    assert (report.label, report.description) == ("Reports:Generate", f"Does {TYPE}.")
    assert (report.max_attempts, report.concurrency) == (MAX_ATTEMPTS, 3)
    assert report.timeout.ToTimedelta().total_seconds() == 300
    assert [known.active_workers for known in (*first.job_types, report)] == [0, 1, 1]


async def test_a_running_job_says_how_far_it_is(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    await api.create()
    job = await claim(database, worker_id)
    (running,) = await _listed(api, statuses=[job_pb2.JOB_STATUS_PROCESSING])
    assert (running.attempt, running.status) == (1, job_pb2.JOB_STATUS_PROCESSING)

    async with database.transaction() as connection:
        await complete_jobs(connection, [(job.lease, '{"rows": [1, null, {"a": "b"}]}')])

    (completed,) = await _listed(api, statuses=[job_pb2.JOB_STATUS_COMPLETED])
    assert struct_to_dict(completed.output) == {"rows": [1, None, {"a": "b"}]}


async def test_jobs_of_another_organisation_are_not_found(api: JobsApi) -> None:
    theirs = await api.create(org_id="other")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.get(theirs.job_id)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND

"""Cancelling and retrying many jobs by a filter."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_database.ids import new_id, parse_id
from millrace_database.job_lifecycle import JobFailure, claim_jobs, fail_jobs
from millrace_jobs import bulk_job_changes
from millrace_queue import CHANNEL_READY
from millrace_runtime.struct_json import dict_to_struct
from support.jobs_api import ANY_TYPE, MAX_ATTEMPTS, TYPE, JobsApi, ids, refused_fields, serving, start_worker
from support.queue_samples import disagreements

PENDING = job_pb2.JOB_STATUS_PENDING
PROCESSING = job_pb2.JOB_STATUS_PROCESSING
CANCELLING = job_pb2.JOB_STATUS_CANCELLING
COMPLETED = job_pb2.JOB_STATUS_COMPLETED
FAILED = job_pb2.JOB_STATUS_FAILED
CANCELLED = job_pb2.JOB_STATUS_CANCELLED


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api
    async with database.connection() as connection:
        assert await disagreements(connection) == []


async def _cancel(
    api: JobsApi, org_id: str = "acme", *, validate_only: bool = False, **filters: Any
) -> tuple[int, int, bool]:
    request = jobs_service_pb2.CancelJobsRequest(
        org_id=org_id, filter=jobs_service_pb2.JobFilter(**filters), validate_only=validate_only
    )
    response = await api.jobs.CancelJobs(request)
    return response.cancelled, response.cancelling, response.more


async def _retry(
    api: JobsApi, org_id: str = "acme", *, validate_only: bool = False, **filters: Any
) -> tuple[int, int, bool]:
    request = jobs_service_pb2.RetryJobsRequest(
        org_id=org_id, filter=jobs_service_pb2.JobFilter(**filters), validate_only=validate_only
    )
    response = await api.jobs.RetryJobs(request)
    return response.retried, response.conflicts, response.more


async def _statuses(api: JobsApi, org_id: str = "acme") -> dict[str, int]:
    """Return how many jobs of an organisation there are of each status."""
    listed = await api.jobs.ListJobs(jobs_service_pb2.ListJobsRequest(org_id=org_id, page_size=1000))
    statuses = [job_pb2.JobStatus.Name(job.status).removeprefix("JOB_STATUS_") for job in listed.jobs]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


async def _claim_all(database: Database, worker_id: Any) -> list[Any]:
    async with database.transaction() as connection:
        return await claim_jobs(connection, worker_id, {ANY_TYPE: 100, TYPE: 100}, 100)


async def _fail_all(database: Database, code: str = "NO_PAPER") -> None:
    """Have all that waits run and fail for good."""
    claimed = await _claim_all(database, await start_worker(database))
    failures = [JobFailure(job.lease, None, code, "no", retryable=True) for job in claimed]
    async with database.transaction() as connection:
        await fail_jobs(connection, failures)


async def test_all_that_is_not_finished_is_cancelled_and_nothing_else(
    api: JobsApi, database: Database
) -> None:
    worker_id = await start_worker(database)
    await api.create()
    await _fail_all(database)
    await api.create()
    await _claim_all(database, worker_id)
    for _ in range(3):
        await api.create()
    await api.create(org_id="other")

    assert await _cancel(api, validate_only=True) == (3, 1, False)
    assert await _statuses(api) == {"FAILED": 1, "PENDING": 3, "PROCESSING": 1}
    assert await _cancel(api) == (3, 1, False)
    assert await _statuses(api) == {"CANCELLED": 3, "CANCELLING": 1, "FAILED": 1}
    assert await _statuses(api, "other") == {"PENDING": 1}
    assert await _cancel(api) == (0, 0, False)
    assert await _cancel(api, "-") == (1, 0, False)


async def test_what_is_asked_for_but_cannot_be_cancelled_is_left_as_it_is(
    api: JobsApi, database: Database
) -> None:
    await api.create()
    await _fail_all(database)
    await api.create()

    assert await _cancel(api, statuses=[CANCELLED, CANCELLING]) == (0, 0, False)
    assert await _cancel(api, statuses=[CANCELLED], validate_only=True) == (0, 0, False)
    assert await _statuses(api) == {"FAILED": 1, "PENDING": 1}


@pytest.mark.parametrize("validate_only", [False, True])
async def test_a_status_that_can_never_match_is_named(
    api: JobsApi, database: Database, validate_only: bool
) -> None:
    await api.create()
    await _fail_all(database)
    await api.create()

    finished = "a finished job cannot be cancelled"
    assert await refused_fields(
        _cancel(api, statuses=[PENDING, FAILED, COMPLETED], validate_only=validate_only)
    ) == {
        "filter.statuses[1]": f"is failed: {finished}",
        "filter.statuses[2]": f"is completed: {finished}",
    }
    rule = "only a failed or cancelled job can be tried again"
    statuses = [PENDING, FAILED, PROCESSING, CANCELLED, CANCELLING, COMPLETED]
    assert await refused_fields(_retry(api, statuses=statuses, validate_only=validate_only)) == {
        "filter.statuses[0]": f"is pending: {rule}",
        "filter.statuses[2]": f"is processing: {rule}",
        "filter.statuses[4]": f"is cancelling: {rule}",
        "filter.statuses[5]": f"is completed: {rule}",
    }
    assert await _statuses(api) == {"FAILED": 1, "PENDING": 1}


@pytest.mark.parametrize(
    ("filters", "matching"),
    [
        ({"types": [TYPE]}, {"typed"}),
        ({"types": [TYPE, ANY_TYPE]}, {"typed", "labelled", "hers", "old"}),
        ({"created_by": "ann"}, {"hers"}),
        ({"metadata": dict_to_struct({"team": "billing"})}, {"labelled"}),
        ({"types": [ANY_TYPE], "created_by": "ann"}, {"hers"}),
        ({"types": [TYPE], "created_by": "ann"}, set()),
    ],
)
async def test_filters_choose_what_is_cancelled_and_what_is_retried(
    api: JobsApi, filters: dict[str, Any], matching: set[str]
) -> None:
    jobs = {
        "old": await api.create(),
        "typed": await api.create(type=TYPE, input=dict_to_struct({"file_id": "1"})),
        "labelled": await api.create(metadata=dict_to_struct({"team": "billing", "n": 1})),
        "hers": await api.create(created_by="ann"),
    }

    async def with_status(status: job_pb2.JobStatus.ValueType) -> set[str]:
        listed = await api.jobs.ListJobs(jobs_service_pb2.ListJobsRequest(org_id="acme", statuses=[status]))
        found = ids(listed.jobs)
        return {name for name, job in jobs.items() if job.job_id in found}

    assert await _cancel(api, **filters) == (len(matching), 0, False)
    assert await with_status(CANCELLED) == matching
    assert await _retry(api, statuses=[CANCELLED], **filters) == (len(matching), 0, False)
    assert await with_status(PENDING) == set(jobs)


async def test_time_bounds_choose_what_is_cancelled(api: JobsApi) -> None:
    first, second, third = [await api.create() for _ in range(3)]

    assert await _cancel(api, created_after=second.created_at, created_before=third.created_at) == (
        1,
        0,
        False,
    )

    assert (await api.get(first.job_id)).status == PENDING
    assert (await api.get(second.job_id)).status == CANCELLED
    assert (await api.get(third.job_id)).status == PENDING


async def test_failed_jobs_are_retried_and_cancelled_ones_only_when_asked_for(
    api: JobsApi, database: Database
) -> None:
    failed = [await api.create(max_attempts=1) for _ in range(3)]
    await _fail_all(database)
    await api.create()
    await _cancel(api)

    assert await _retry(api, validate_only=True) == (3, 0, False)
    assert await _statuses(api) == {"CANCELLED": 1, "FAILED": 3}
    assert await _retry(api) == (3, 0, False)
    assert await _statuses(api) == {"CANCELLED": 1, "PENDING": 3}
    for job in failed:
        retried = await api.get(job.job_id)
        assert (retried.attempt, retried.max_attempts) == (1, 1 + MAX_ATTEMPTS)
        assert retried.error.code == "NO_PAPER"
        assert not retried.HasField("completed_at")
    assert await _retry(api, statuses=[FAILED, CANCELLED]) == (1, 0, False)
    assert await _statuses(api) == {"PENDING": 4}


async def test_failed_jobs_are_retried_by_the_code_of_their_error(api: JobsApi, database: Database) -> None:
    for code in ("TIMEOUT", "NO_PAPER", "NO_INK"):
        await api.create()
        await api.create(org_id="other")
        await _fail_all(database, code)

    assert await _retry(api, error_codes=["TIMEOUT", "NO_INK", "NO_SUCH"]) == (2, 0, False)
    assert await _statuses(api) == {"FAILED": 1, "PENDING": 2}
    assert await _statuses(api, "other") == {"FAILED": 3}
    assert await _retry(api, "-", error_codes=["TIMEOUT", "NO_PAPER"]) == (3, 0, False)
    assert await _cancel(api, error_codes=["NO_INK"]) == (1, 0, False)


async def test_the_oldest_come_first_and_what_is_left_is_told(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_job_changes, "_BATCH", 2)
    monkeypatch.setattr(bulk_job_changes, "_MOST_JOBS", 5)
    jobs = [await api.create() for _ in range(7)]

    async def pending() -> list[str]:
        return [job.job_id for job in jobs if (await api.get(job.job_id)).status == PENDING]

    assert await _cancel(api, validate_only=True) == (5, 0, True)
    assert await _cancel(api) == (5, 0, True)
    assert await pending() == ids(jobs[5:])
    assert await _cancel(api) == (2, 0, False)
    assert await _retry(api, statuses=[CANCELLED]) == (5, 0, True)
    assert await pending() == ids(jobs[:5])
    assert await _retry(api, statuses=[CANCELLED]) == (2, 0, False)


async def test_thousands_are_changed_in_one_call(api: JobsApi, database: Database) -> None:
    requests = [jobs_service_pb2.CreateJobRequest(type=ANY_TYPE)] * 2500
    await api.jobs.BatchCreateJobs(jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=requests))

    assert await _cancel(api) == (2500, 0, False)
    assert await _retry(api, statuses=[CANCELLED]) == (2500, 0, False)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM queue WHERE state = 'ready'") == 2500


async def test_a_job_whose_unique_key_is_taken_stays_failed(api: JobsApi, database: Database) -> None:
    unique = {"key": "daily"}
    first = await api.create(unique=unique)
    await _fail_all(database)
    second = await api.create(unique=unique)
    free = await api.create(unique={"key": "other"})
    request = jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=free.job_id)
    await api.jobs.CancelJob(request)

    assert await _retry(api, statuses=[FAILED, CANCELLED]) == (1, 1, False)

    assert (await api.get(first.job_id)).status == FAILED
    assert (await api.get(second.job_id)).status == PENDING
    assert (await api.get(free.job_id)).status == PENDING


async def test_of_jobs_with_one_unique_key_one_is_retried(api: JobsApi, database: Database) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(await api.create(unique={"key": "daily"}))
        await _fail_all(database)

    assert await _retry(api) == (1, 2, False)

    assert (await api.get(jobs[0].job_id)).status == PENDING


async def test_workers_are_told_of_what_was_retried(api: JobsApi, database: Database) -> None:
    await api.create()
    await _cancel(api)
    hints: asyncio.Queue[str] = asyncio.Queue()
    listening = await database.direct_connection()
    try:
        await listening.add_listener(CHANNEL_READY, lambda *hint: hints.put_nowait(hint[-1]))
        await _retry(api, statuses=[CANCELLED])
        async with asyncio.timeout(10):
            assert await hints.get() == ANY_TYPE
    finally:
        await listening.close()


async def test_calls_on_the_same_jobs_at_once_change_each_of_them_once(
    api: JobsApi, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_job_changes, "_BATCH", 10)
    for _ in range(60):
        await api.create()

    cancelled = await asyncio.gather(*(_cancel(api) for _ in range(4)))
    assert sum(count for count, _, _ in cancelled) == 60
    retried = await asyncio.gather(*(_retry(api, statuses=[CANCELLED]) for _ in range(4)))
    assert sum(count for count, _, _ in retried) == 60
    assert sum(conflicts for _, conflicts, _ in retried) == 0
    assert await _statuses(api) == {"PENDING": 60}


async def test_a_schedule_s_jobs_are_cancelled(api: JobsApi) -> None:
    schedule = "schedule_" + new_id().hex
    parse_id("schedule", schedule)
    await api.create(schedule_id=schedule, created_by="ann")
    await api.create()

    assert await _cancel(api, schedule_id=schedule) == (1, 0, False)
    assert await _cancel(api, "-", schedule_id=schedule) == (0, 0, False)

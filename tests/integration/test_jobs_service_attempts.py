"""The attempts of a job, listed and counted."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import grpc
import pytest

from millrace.jobs.v1 import job_attempt_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_lifecycle import (
    JobFailure,
    cancelled_jobs,
    complete_jobs,
    fail_jobs,
    hand_back_jobs,
)
from support.jobs_api import JobsApi, claim, refusal, refused_fields, serving, start_worker

NO_JOB = "job_" + "0" * 32
Outcome = job_attempt_pb2.AttemptOutcome


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _list(
    api: JobsApi, job_id: str, page_size: int = 0, page_token: str = ""
) -> jobs_service_pb2.ListJobAttemptsResponse:
    request = jobs_service_pb2.ListJobAttemptsRequest(
        org_id="acme", job_id=job_id, page_size=page_size, page_token=page_token
    )
    return await api.jobs.ListJobAttempts(request)


async def _counts(api: JobsApi, job_id: str) -> job_attempt_pb2.AttemptCounts:
    request = jobs_service_pb2.GetJobRequest(org_id="acme", job_id=job_id)
    return (await api.jobs.GetJob(request)).attempt_counts


async def _fail_once(database: Database, worker_id: UUID, code: str) -> None:
    claimed = await claim(database, worker_id)
    failure = JobFailure(claimed.lease, timedelta(0), code, "no", retryable=True)
    async with database.transaction() as connection:
        await fail_jobs(connection, [failure])


async def test_the_attempts_of_a_job_are_listed_the_latest_first(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create(max_attempts=5)
    assert (await _list(api, created.job_id)).attempts == []
    await _fail_once(database, worker_id, "NO_PAPER")
    handed_back = await claim(database, worker_id)
    async with database.transaction() as connection:
        await hand_back_jobs(connection, [handed_back.lease])
    running = await claim(database, worker_id)

    latest, second, first = (await _list(api, created.job_id)).attempts

    assert (first.attempt, first.outcome) == (1, Outcome.ATTEMPT_OUTCOME_FAILED)
    assert (first.error.code, first.error.message) == ("NO_PAPER", "no")
    assert first.HasField("started_at")
    assert first.HasField("ended_at")
    assert (second.attempt, second.outcome) == (2, Outcome.ATTEMPT_OUTCOME_HANDED_BACK)
    assert (latest.attempt, latest.outcome) == (2, Outcome.ATTEMPT_OUTCOME_RUNNING)
    assert not latest.HasField("ended_at")
    assert {attempt.worker_id for attempt in (latest, second, first)} == {format_id("worker", worker_id)}
    assert latest.worker_name == "test"
    assert await _counts(api, created.job_id) == job_attempt_pb2.AttemptCounts(failed=1, handed_back=1)

    async with database.transaction() as connection:
        await complete_jobs(connection, [(running.lease, None)])
    completed = (await _list(api, created.job_id)).attempts[0]
    assert completed.outcome == Outcome.ATTEMPT_OUTCOME_COMPLETED
    assert completed.HasField("ended_at")


async def test_the_attempts_that_completed_or_were_cancelled_are_counted_as_well(
    api: JobsApi, database: Database
) -> None:
    worker_id = await start_worker(database)
    good = await api.create()
    await _fail_once(database, worker_id, "NO_PAPER")
    claimed = await claim(database, worker_id)
    async with database.transaction() as connection:
        await complete_jobs(connection, [(claimed.lease, "{}")])
    stopped = await api.create()
    claimed = await claim(database, worker_id)
    await api.jobs.CancelJob(jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=stopped.job_id))
    async with database.transaction() as connection:
        await cancelled_jobs(connection, [claimed.lease])

    assert await _counts(api, good.job_id) == job_attempt_pb2.AttemptCounts(failed=1, completed=1)
    assert await _counts(api, stopped.job_id) == job_attempt_pb2.AttemptCounts(cancelled=1)


async def test_attempts_come_in_pages(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create(max_attempts=9)
    for number in range(5):
        await _fail_once(database, worker_id, f"CODE_{number}")
    await claim(database, worker_id)

    numbers, token = [], ""
    while True:
        page = await _list(api, created.job_id, 2, token)
        numbers += [attempt.attempt for attempt in page.attempts]
        token = page.next_page_token
        if not token:
            break
        assert len(page.attempts) == 2
    assert numbers == [6, 5, 4, 3, 2, 1]


async def test_a_page_token_is_good_only_for_its_own_job(api: JobsApi, database: Database) -> None:
    worker_id = await start_worker(database)
    created = await api.create()
    for _ in range(2):
        await _fail_once(database, worker_id, "NO_PAPER")
    token = (await _list(api, created.job_id, 1)).next_page_token
    other = await api.create()

    assert await refused_fields(_list(api, other.job_id, 1, token)) == {
        "page_token": "is not a token of a previous page with the same filters"
    }


async def test_attempts_of_a_job_that_is_not_there_are_not_found(api: JobsApi) -> None:
    theirs = await api.create(org_id="other")

    for job_id in (NO_JOB, theirs.job_id):
        assert (await refusal(_list(api, job_id))).code() is grpc.StatusCode.NOT_FOUND

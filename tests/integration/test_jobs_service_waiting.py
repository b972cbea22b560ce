"""What GetJob says of why a job does not run."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from millrace.jobs.v1 import job_options_pb2, job_pb2, jobs_service_pb2, limits_pb2, waiting_reason_pb2
from millrace_database.database import Database
from millrace_database.job_lifecycle import JobFailure, claim_jobs, complete_jobs, fail_jobs
from millrace_queue import SweepProgress, sweep_gates
from millrace_runtime.struct_json import datetime_to_timestamp, timestamp_to_datetime
from support.jobs_api import ANY_TYPE, TYPE, JobsApi, serving, start_worker

Cause = waiting_reason_pb2.WaitingCause


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _reason(api: JobsApi, job: job_pb2.Job) -> waiting_reason_pb2.WaitingReason:
    request = jobs_service_pb2.GetJobRequest(org_id=job.org_id, job_id=job.job_id)
    response = await api.jobs.GetJob(request)
    assert response.HasField("waiting_reason")
    assert response.waiting_reason.message.endswith(".")
    return response.waiting_reason


async def _cause(api: JobsApi, job: job_pb2.Job) -> str:
    return Cause.Name((await _reason(api, job)).cause).removeprefix("WAITING_CAUSE_")


async def _claim(database: Database, limit: int = 1) -> list[Any]:
    worker_id = await start_worker(database)
    async with database.transaction() as connection:
        return await claim_jobs(connection, worker_id, {ANY_TYPE: limit, TYPE: limit}, limit)


async def _sweep(database: Database) -> None:
    progress = SweepProgress()
    async with database.connection() as connection:
        while (await sweep_gates(connection, progress)).more:
            pass


async def _limit_type(api: JobsApi, **limits: Any) -> None:
    await api.jobs.UpdateJobTypeLimits(
        jobs_service_pb2.UpdateJobTypeLimitsRequest(type=ANY_TYPE, limits=limits_pb2.JobTypeLimits(**limits))
    )


async def _limit_organisation(api: JobsApi, **limits: Any) -> None:
    await api.jobs.UpdateOrganisationLimits(
        jobs_service_pb2.UpdateOrganisationLimitsRequest(
            org_id="acme", limits=limits_pb2.OrganisationLimits(**limits)
        )
    )


async def test_only_a_pending_job_has_a_reason(api: JobsApi, database: Database) -> None:
    created = await api.create()
    assert await _cause(api, created) == "NO_WORKER"
    (claimed,) = await _claim(database)
    request = jobs_service_pb2.GetJobRequest(org_id="acme", job_id=created.job_id)

    assert not (await api.jobs.GetJob(request)).HasField("waiting_reason")
    async with database.transaction() as connection:
        await complete_jobs(connection, [(claimed.lease, None)])
    assert not (await api.jobs.GetJob(request)).HasField("waiting_reason")


async def test_a_job_waits_for_its_time(api: JobsApi, database: Database) -> None:
    run_at = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    reason = await _reason(api, await api.create(run_at=datetime_to_timestamp(run_at)))

    assert reason.cause == Cause.WAITING_CAUSE_SCHEDULED
    assert reason.until == datetime_to_timestamp(run_at)
    assert reason.message == "It is not started before 2040-01-02 03:04:05 UTC."
    assert reason.jobs_before == 0


async def test_a_job_waits_for_its_next_attempt(api: JobsApi, database: Database) -> None:
    created = await api.create()
    (claimed,) = await _claim(database)
    async with database.transaction() as connection:
        failure = JobFailure(claimed.lease, timedelta(hours=1), "NO_PAPER", "no", retryable=True)
        await fail_jobs(connection, [failure])

    reason = await _reason(api, created)
    assert reason.cause == Cause.WAITING_CAUSE_SCHEDULED
    run_at = (await api.get(created.job_id)).run_at
    assert reason.until == run_at
    assert reason.message == (
        f"It is not started before {timestamp_to_datetime(run_at):%Y-%m-%d %H:%M:%S} UTC."
        " Its latest attempt ended with NO_PAPER: no."
    )


async def test_a_job_waits_while_its_type_or_organisation_is_paused(api: JobsApi, database: Database) -> None:
    await start_worker(database)
    created = await api.create()
    organisation = jobs_service_pb2.PauseOrganisationRequest(org_id="acme")

    await api.jobs.PauseOrganisation(organisation)
    later = await api.create()
    await _sweep(database)
    assert await _cause(api, created) == "ORGANISATION_PAUSED"
    reason = await _reason(api, later)
    assert (reason.jobs_before, reason.message) == (
        1,
        "Its organisation is paused by an operator. 1 job comes before it.",
    )
    await api.jobs.PauseJobType(jobs_service_pb2.PauseJobTypeRequest(type=ANY_TYPE))
    assert await _cause(api, created) == "TYPE_PAUSED"
    await api.jobs.ResumeJobType(jobs_service_pb2.ResumeJobTypeRequest(type=ANY_TYPE))
    await api.jobs.ResumeOrganisation(jobs_service_pb2.ResumeOrganisationRequest(org_id="acme"))
    await _sweep(database)
    assert await _cause(api, created) == "IN_LINE"


async def test_a_job_waits_behind_those_served_before_it(api: JobsApi, database: Database) -> None:
    await start_worker(database)
    first = await api.create()
    others = [await api.create(org_id=org_id) for org_id in ("acme", "acme", "other")]
    await api.create(type=TYPE, input={"file_id": "1"})

    assert (await _reason(api, first)).message == "It is the next of its type."
    places = [(await _reason(api, job)).jobs_before for job in others]
    # The other organisation has its turn before the second job of the first one.
    assert places == [2, 3, 1]
    urgent = await api.create(priority=5)
    assert (await _reason(api, urgent)).jobs_before == 0
    assert (await _reason(api, first)).jobs_before == 1
    assert (await _reason(api, first)).message == "1 job of its type comes before it."
    low = await api.create(priority=-5)
    reason = await _reason(api, low)
    assert (reason.cause, reason.jobs_before) == (Cause.WAITING_CAUSE_IN_LINE, 5)
    assert reason.message == "5 jobs of its type come before it."


async def test_no_more_than_ten_thousand_jobs_before_it_are_counted(api: JobsApi, database: Database) -> None:
    await start_worker(database)
    requests = [jobs_service_pb2.CreateJobRequest(type=ANY_TYPE)] * 10_000
    await api.jobs.BatchCreateJobs(jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=requests))
    await api.create()

    reason = await _reason(api, await api.create())
    assert reason.jobs_before == 10_000
    assert reason.message == "10,000 or more jobs of its type come before it."


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"max_running": 1}, "TYPE_LIMIT"),
        ({"max_running": 1, "max_running_per_organisation": 1}, "TYPE_LIMIT"),
        ({"max_running": 2, "max_running_per_organisation": 1}, "ORGANISATION_TYPE_LIMIT"),
    ],
)
async def test_a_job_waits_for_a_limit_of_its_type(
    api: JobsApi, database: Database, limits: dict[str, int], cause: str
) -> None:
    await _limit_type(api, **limits)
    await api.create()
    created = await api.create()
    (claimed,) = await _claim(database, 5)

    assert await _cause(api, created) == cause
    async with database.transaction() as connection:
        await complete_jobs(connection, [(claimed.lease, None)])
    assert await _cause(api, created) == "IN_LINE"


async def test_a_job_waits_for_the_limit_of_its_organisation(api: JobsApi, database: Database) -> None:
    await _limit_organisation(api, max_running=1)
    await api.create(type=TYPE, input={"file_id": "1"})
    created = await api.create()
    await _claim(database, 1)

    assert await _cause(api, created) in ("ORGANISATION_LIMIT", "IN_LINE")
    await _claim(database, 5)
    await _sweep(database)
    assert [await _cause(api, job) for job in await _pending(api)] == ["ORGANISATION_LIMIT"]


async def _pending(api: JobsApi) -> list[job_pb2.Job]:
    request = jobs_service_pb2.ListJobsRequest(org_id="acme", statuses=[job_pb2.JOB_STATUS_PENDING])
    return list((await api.jobs.ListJobs(request)).jobs)


@pytest.mark.parametrize("field", ["rate", "rate_per_organisation", "organisation"])
async def test_a_job_waits_for_a_rate(api: JobsApi, database: Database, field: str) -> None:
    rate = limits_pb2.RateLimit(count=1, period=Duration(seconds=3600))
    if field == "organisation":
        await _limit_organisation(api, rate=rate)
    else:
        await _limit_type(api, **{field: rate})
    await api.create()
    created = await api.create()
    assert len(await _claim(database, 5)) == 1
    await _claim(database, 5)

    reason = await _reason(api, created)
    assert reason.cause == Cause.WAITING_CAUSE_RATE_LIMIT
    started = (await _started(api)).started_at
    opens = timestamp_to_datetime(started) + timedelta(hours=1)
    assert abs(timestamp_to_datetime(reason.until) - opens) < timedelta(seconds=1)


async def _started(api: JobsApi) -> job_pb2.Job:
    request = jobs_service_pb2.ListJobsRequest(org_id="acme", statuses=[job_pb2.JOB_STATUS_PROCESSING])
    (job,) = (await api.jobs.ListJobs(request)).jobs
    return job


async def test_a_job_waits_for_its_concurrency_key(api: JobsApi, database: Database) -> None:
    concurrency = job_options_pb2.Concurrency(key="disk")
    await api.create(concurrency=concurrency)
    created = await api.create(concurrency=concurrency)
    other = await api.create(concurrency=job_options_pb2.Concurrency(key="other"))
    assert len(await _claim(database, 1)) == 1

    assert await _cause(api, created) == "CONCURRENCY_KEY"
    assert await _cause(api, other) == "IN_LINE"


@pytest.mark.parametrize(
    "states", [job_options_pb2.UNIQUE_STATES_RUNNING, job_options_pb2.UNIQUE_STATES_EACH]
)
async def test_a_job_waits_for_its_unique_key(
    api: JobsApi, database: Database, states: job_options_pb2.UniqueStates.ValueType
) -> None:
    unique = job_options_pb2.Uniqueness(key="disk", states=states)
    await api.create(unique=unique)
    assert len(await _claim(database, 1)) == 1
    created = await api.create(unique=unique)
    await _claim(database, 1)

    reason = await _reason(api, created)
    assert reason.cause == Cause.WAITING_CAUSE_CONCURRENCY_KEY
    assert reason.message == "Others with its unique key run or come before it."


async def test_those_that_come_before_it_at_its_key_are_counted(api: JobsApi, database: Database) -> None:
    jobs = [await api.create(concurrency=job_options_pb2.Concurrency(key="disk")) for _ in range(4)]
    assert len(await _claim(database, 5)) == 1

    reasons = [await _reason(api, job) for job in jobs[1:]]
    assert [reason.jobs_before for reason in reasons] == [0, 1, 2]
    said = "Others with its concurrency key run or come before it."
    assert [reason.message for reason in reasons] == [
        said,
        f"{said} 1 job comes before it.",
        f"{said} 2 jobs come before it.",
    ]


async def test_a_job_waits_while_a_failed_one_blocks_its_key(api: JobsApi, database: Database) -> None:
    concurrency = job_options_pb2.Concurrency(key="disk", order=job_options_pb2.KEY_ORDER_BLOCK_ON_FAILURE)
    failed = await api.create(concurrency=concurrency)
    second = await api.create(concurrency=concurrency)
    third = await api.create(concurrency=concurrency)
    (claimed,) = await _claim(database, 5)
    assert await _cause(api, second) == "CONCURRENCY_KEY"
    async with database.transaction() as connection:
        await fail_jobs(connection, [JobFailure(claimed.lease, None, "NO_PAPER", "no", retryable=False)])

    for job in (second, third):
        reason = await _reason(api, job)
        assert reason.cause == Cause.WAITING_CAUSE_KEY_BLOCKED
        assert reason.blocking_job_id == failed.job_id
        assert failed.job_id in reason.message

    unblock = jobs_service_pb2.UnblockConcurrencyKeyRequest(org_id="acme", type=ANY_TYPE, key="disk")
    assert (await api.jobs.UnblockConcurrencyKey(unblock)).job_id == failed.job_id
    assert (await api.jobs.UnblockConcurrencyKey(unblock)).job_id == ""
    await _sweep(database)
    assert await _cause(api, second) == "IN_LINE"
    assert await _cause(api, third) == "CONCURRENCY_KEY"
    assert len(await _claim(database, 5)) == 1

"""The SDK's calls about many jobs, job types, organisations and the queue."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from millrace.jobs.v1 import job_pb2, limits_pb2, queue_health_pb2
from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client import (
    CancelledJobs,
    JobFilter,
    JobStatus,
    JobTypeLimits,
    NotFoundError,
    OldestTransaction,
    OrganisationLimits,
    OrganisationSettings,
    RateLimit,
    RetriedJobs,
    UnavailableError,
)
from support.scripted_jobs import ScriptedJobs, client_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_filter_is_sent_as_it_was_given() -> None:
    jobs = ScriptedJobs(messages.CancelJobsResponse(cancelled=2, cancelling=1, more=True))
    async with client_of(jobs) as client:
        done = await client.jobs.cancel_many(
            JobFilter(
                statuses=[JobStatus.PENDING, "PROCESSING"],
                types=["mail:send"],
                created_by="ada",
                created_after=datetime(2026, 1, 1, tzinfo=UTC),
                created_before=datetime(2026, 2, 1, tzinfo=UTC),
                schedule_id="schedule_1",
                metadata={"campaign": 7},
                error_codes=["TIMEOUT"],
            ),
            dry_run=True,
        )
    assert done == CancelledJobs(2, 1, more=True)
    assert MessageToDict(jobs.requests[0]) == {
        "orgId": "acme",
        "filter": {
            "statuses": ["JOB_STATUS_PENDING", "JOB_STATUS_PROCESSING"],
            "types": ["mail:send"],
            "createdBy": "ada",
            "createdAfter": "2026-01-01T00:00:00Z",
            "createdBefore": "2026-02-01T00:00:00Z",
            "scheduleId": "schedule_1",
            "metadata": {"campaign": 7},
            "errorCodes": ["TIMEOUT"],
        },
        "validateOnly": True,
    }


async def test_an_empty_filter_which_would_be_all_jobs_is_refused() -> None:
    jobs = ScriptedJobs()
    async with client_of(jobs) as client:
        with pytest.raises(ValueError, match="all jobs"):
            await client.jobs.cancel_many(JobFilter(types=[]))
        with pytest.raises(ValueError, match="all jobs"):
            await client.jobs.retry_many(JobFilter())
    assert jobs.requests == []


async def test_cancelling_many_is_repeated_while_the_service_is_away_and_retrying_many_is_not() -> None:
    jobs = ScriptedJobs(
        UNAVAILABLE,
        messages.CancelJobsResponse(cancelled=1),
        UNAVAILABLE,
        messages.RetryJobsResponse(retried=3, conflicts=1, more=True),
    )
    async with client_of(jobs) as client:
        assert (await client.jobs.cancel_many(JobFilter(types=["a"]))).cancelled == 1
        with pytest.raises(UnavailableError):
            await client.jobs.retry_many(JobFilter(types=["a"]))
        assert await client.jobs.retry_many(JobFilter(types=["a"])) == RetriedJobs(3, 1, more=True)


async def test_a_key_is_unblocked() -> None:
    jobs = ScriptedJobs(
        messages.UnblockConcurrencyKeyResponse(job_id="job_1"), messages.UnblockConcurrencyKeyResponse()
    )
    async with client_of(jobs) as client:
        assert await client.jobs.unblock_key("mail:send", "user-7") == "job_1"
        assert await client.jobs.unblock_key("mail:send", "user-7") == ""
    request = jobs.requests[0]
    assert (request.org_id, request.type, request.key) == ("acme", "mail:send", "user-7")


async def test_a_job_type_is_paused_resumed_and_limited() -> None:
    job_type = job_pb2.JobType(type="mail:send", paused=True)
    job_type.limits.rate_per_organisation.count = 5
    job_type.limits.max_running = 0
    jobs = ScriptedJobs(
        messages.PauseJobTypeResponse(job_type=job_type),
        messages.ResumeJobTypeResponse(job_type=job_pb2.JobType(type="mail:send")),
        messages.UpdateJobTypeLimitsResponse(job_type=job_type),
    )
    limits = JobTypeLimits(max_running=0, rate=RateLimit(100, timedelta(minutes=1), smooth=True))
    async with client_of(jobs) as client:
        paused = await client.job_types.pause("mail:send")
        resumed = await client.job_types.resume("mail:send")
        await client.job_types.set_limits("mail:send", limits)
    assert paused.paused
    assert paused.limits == JobTypeLimits(0, None, None, RateLimit(5, timedelta()))
    assert (resumed.paused, resumed.limits) == (False, JobTypeLimits())
    assert {request.type for request in jobs.requests} == {"mail:send"}
    assert MessageToDict(jobs.requests[2].limits) == {
        "maxRunning": 0,
        "rate": {"count": 100, "period": "60s", "smooth": True},
    }


async def test_a_job_type_is_shown() -> None:
    job_type = job_pb2.JobType(type="mail:send", active_workers=2)
    job_type.limits.max_running = 3
    jobs = ScriptedJobs(messages.GetJobTypeResponse(job_type=job_type))
    async with client_of(jobs) as client:
        shown = await client.job_types.get("mail:send")
    assert (shown.type, shown.active_workers, shown.limits) == ("mail:send", 2, JobTypeLimits(3))
    assert jobs.requests == [messages.GetJobTypeRequest(type="mail:send")]


async def test_an_organisation_is_shown_paused_resumed_and_limited() -> None:
    limited = limits_pb2.Organisation(org_id="globex", limits=limits_pb2.OrganisationLimits(weight=3))
    jobs = ScriptedJobs(
        messages.GetOrganisationResponse(organisation=limited),
        messages.PauseOrganisationResponse(
            organisation=limits_pb2.Organisation(org_id="globex", paused=True)
        ),
        messages.ResumeOrganisationResponse(organisation=limited),
        messages.UpdateOrganisationLimitsResponse(organisation=limited),
    )
    async with client_of(jobs) as client:
        shown = await client.organisations.get("globex")
        paused = await client.organisations.pause("globex")
        resumed = await client.organisations.resume("globex")
        await client.organisations.set_limits("globex", OrganisationLimits(3, 10, RateLimit(5)))
    assert shown == resumed == OrganisationSettings("globex", paused=False, limits=OrganisationLimits(3))
    assert paused == OrganisationSettings("globex", paused=True, limits=OrganisationLimits())
    assert {request.org_id for request in jobs.requests} == {"globex"}
    assert MessageToDict(jobs.requests[3].limits) == {
        "weight": 3,
        "maxRunning": 10,
        "rate": {"count": 5, "period": "1s"},
    }


async def test_the_health_of_the_queue_is_read() -> None:
    depth = queue_health_pb2.QueueDepth(type="a", org_id="acme", ready=2, oldest_wait=Duration(seconds=90))
    oldest = queue_health_pb2.OldestTransaction(pid=7, owner="dump", state="active", transactions_behind=9)
    jobs = ScriptedJobs(
        messages.GetQueueHealthResponse(
            depths=[depth],
            tables=[queue_health_pb2.TableHealth(table="queue", dead_rows=5)],
            oldest_transaction=oldest,
        ),
        messages.GetQueueHealthResponse(),
    )
    async with client_of(jobs) as client:
        health = await client.queue_health(job_type="a", org_id="acme")
        nothing = await client.queue_health()
    assert [(depth.ready, depth.oldest_wait) for depth in health.depths] == [(2, timedelta(seconds=90))]
    assert [(table.table, table.dead_rows) for table in health.tables] == [("queue", 5)]
    assert health.oldest_transaction == OldestTransaction(7, "dump", "active", None, 9)
    assert (nothing.depths, nothing.tables, nothing.oldest_transaction) == ((), (), None)
    assert [(request.type, request.org_id) for request in jobs.requests] == [("a", "acme"), ("", "")]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.jobs.unblock_key("a", "k"),
        lambda client: client.job_types.get("a"),
        lambda client: client.job_types.pause("a"),
        lambda client: client.job_types.resume("a"),
        lambda client: client.job_types.set_limits("a", JobTypeLimits()),
        lambda client: client.organisations.get("acme"),
        lambda client: client.organisations.pause("acme"),
        lambda client: client.organisations.resume("acme"),
        lambda client: client.organisations.set_limits("acme", OrganisationLimits()),
        lambda client: client.queue_health(),
    ],
)
async def test_what_may_be_repeated_is_repeated_while_the_service_is_away(call: Any) -> None:
    jobs = ScriptedJobs(UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
    async with client_of(jobs) as client:
        with pytest.raises(NotFoundError):
            await call(client)
    assert len(jobs.requests) == 2

"""What the SDK sends of what a job asks for beyond the ordinary, and what it reads of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from millrace.jobs.v1 import job_attempt_pb2, job_options_pb2, job_pb2, waiting_reason_pb2
from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client import (
    AlreadyExistsError,
    AttemptCounts,
    AttemptOutcome,
    Backoff,
    Concurrency,
    InvalidArgumentError,
    JobError,
    KeyOrder,
    NewJob,
    RetryPolicy,
    Unique,
    UniqueConflict,
    UniqueScope,
    UniqueStates,
    WaitingCause,
)
from support.scripted_jobs import ScriptedJobs, client_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DEADLINE = datetime(2027, 1, 31, 9, 30, tzinfo=UTC)


def job(**fields: Any) -> job_pb2.Job:
    return job_pb2.Job(job_id="job_1", org_id="acme", status=job_pb2.JOB_STATUS_PENDING, **fields)


def page(attempt: job_attempt_pb2.JobAttempt, next_page_token: str) -> messages.ListJobAttemptsResponse:
    return messages.ListJobAttemptsResponse(attempts=[attempt], next_page_token=next_page_token)


def as_sent(request: messages.CreateJobRequest) -> dict[str, Any]:
    sent = MessageToDict(request)
    return {name: value for name, value in sent.items() if name not in ("requestId", "inputJson", "orgId")}


async def test_every_option_of_a_job_is_sent() -> None:
    options: dict[str, Any] = {
        "delay": timedelta(minutes=5),
        "deadline": DEADLINE,
        "attempt_timeout": timedelta(seconds=1.5),
        "retry_policy": RetryPolicy(Backoff.LINEAR, timedelta(), timedelta(hours=1), 3, 0),
        "unique": Unique("user-7", UniqueScope.TYPE, UniqueStates.WAITING, UniqueConflict.REPLACE),
        "concurrency": Concurrency("user-7", 1, KeyOrder.SKIP_FAILED),
        "dead_letter_type": "mail:failed",
    }
    expected = {
        "type": "mail:send",
        "delay": "300s",
        "deadline": "2027-01-31T09:30:00Z",
        "timeout": "1.500s",
        "retryPolicy": {
            "backoff": "BACKOFF_LINEAR",
            "initialDelay": "0s",
            "maxDelay": "3600s",
            "factor": 3,
            "jitter": 0,
        },
        "unique": {
            "key": "user-7",
            "scope": "UNIQUE_SCOPE_TYPE",
            "states": "UNIQUE_STATES_WAITING",
            "onConflict": "UNIQUE_CONFLICT_REPLACE",
        },
        "concurrency": {"key": "user-7", "limit": 1, "order": "KEY_ORDER_SKIP_FAILED"},
        "deadLetterType": "mail:failed",
    }
    jobs = ScriptedJobs(messages.CreateJobResponse(job=job()), messages.BatchCreateJobsResponse())
    async with client_of(jobs) as client:
        await client.jobs.create("mail:send", **options)
        await client.jobs.create_many([NewJob("mail:send", **options)])
    single, batch = jobs.requests
    assert as_sent(single) == expected
    assert as_sent(batch.requests[0]) == expected


async def test_what_is_not_asked_for_is_not_sent() -> None:
    jobs = ScriptedJobs(messages.CreateJobResponse(job=job()), messages.CreateJobResponse(job=job()))
    async with client_of(jobs) as client:
        await client.jobs.create("mail:send")
        await client.jobs.create(
            "mail:send", retry_policy=RetryPolicy(), unique=Unique("k", window=timedelta(minutes=1))
        )
    plain, thrifty = map(as_sent, jobs.requests)
    assert plain == {"type": "mail:send"}
    assert thrifty["retryPolicy"] == {}
    assert "states" not in thrifty["unique"]
    assert thrifty["unique"]["window"] == "60s"


async def test_members_of_enums_may_be_given_as_text_and_unknown_ones_are_refused() -> None:
    jobs = ScriptedJobs(messages.CreateJobResponse(job=job()))
    async with client_of(jobs) as client:
        await client.jobs.create("mail:send", unique=Unique("k", states="EACH"))
        for wrong in (Unique("k", states="SOMETIMES"), Unique("k", scope=UniqueScope.UNKNOWN)):
            with pytest.raises(ValueError, match=r"SOMETIMES|UNKNOWN"):
                await client.jobs.create("mail:send", unique=wrong)
    [request] = jobs.requests
    assert request.unique.states == job_options_pb2.UNIQUE_STATES_EACH


async def test_a_job_says_what_it_was_created_with() -> None:
    answered = job(
        retry_policy=job_options_pb2.RetryPolicy(jitter=0.0),
        unique=job_options_pb2.Uniqueness(key="k", states=99),  # type: ignore[arg-type]  # of a later contract
        concurrency=job_options_pb2.Concurrency(key="k"),
        parent_job_id="job_0",
        worker_id="worker_1",
    )
    jobs = ScriptedJobs(messages.CreateJobResponse(job=answered))
    async with client_of(jobs) as client:
        read = await client.jobs.create("mail:send")
    assert read.retry_policy == RetryPolicy(jitter=0.0)
    assert read.unique == Unique("k", states=UniqueStates.UNKNOWN)
    assert read.concurrency == Concurrency("k", 1)
    assert (read.parent_job_id, read.worker_id, read.deadline, read.timeout) == (
        "job_0",
        "worker_1",
        None,
        None,
    )


async def test_validating_creates_nothing_and_raises_what_creating_would() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="input.to", description="is required")
    invalid = Status(code=code_pb2.INVALID_ARGUMENT, message="the request is not valid")
    invalid.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    jobs = ScriptedJobs(messages.CreateJobResponse(job=job_pb2.Job()), invalid)
    async with client_of(jobs) as client:
        await client.jobs.validate(NewJob("mail:send", {"to": "ada"}))
        with pytest.raises(InvalidArgumentError, match=r"input\.to: is required"):
            await client.jobs.validate(NewJob("mail:send"))
    assert [request.validate_only for request in jobs.requests] == [True, True]
    assert [request.org_id for request in jobs.requests] == ["acme", "acme"]


async def test_a_key_that_is_taken_names_the_job_that_has_it() -> None:
    taken = Status(code=code_pb2.ALREADY_EXISTS, message="this job has the unique key")
    taken.details.add().Pack(error_details_pb2.ResourceInfo(resource_type="job", resource_name="job_7"))
    async with client_of(ScriptedJobs(taken)) as client:
        with pytest.raises(AlreadyExistsError) as raised:
            await client.jobs.create("mail:send", unique=Unique("k"))
    assert raised.value.job_id == "job_7"
    assert str(raised.value) == "ALREADY_EXISTS: this job has the unique key (job job_7)"


async def test_getting_a_job_says_why_it_waits_and_how_its_attempts_ended() -> None:
    until = datetime(2026, 12, 1, tzinfo=UTC)
    reason = waiting_reason_pb2.WaitingReason(
        cause=waiting_reason_pb2.WAITING_CAUSE_RATE_LIMIT, message="a rate", jobs_before=3
    )
    reason.until.FromDatetime(until)
    detailed = messages.GetJobResponse(
        job=job(),
        attempt_counts=job_attempt_pb2.AttemptCounts(failed=1, worker_lost=2, completed=1, cancelled=4),
        waiting_reason=reason,
    )
    jobs = ScriptedJobs(detailed, messages.GetJobResponse(job=job()))
    async with client_of(jobs) as client:
        waiting = await client.jobs.get("job_1")
        bare = await client.jobs.get("job_1")
    assert waiting.waiting_reason is not None
    assert (waiting.waiting_reason.cause, waiting.waiting_reason.until) == (WaitingCause.RATE_LIMIT, until)
    assert waiting.attempt_counts == AttemptCounts(1, 0, 2, 0, 0, 0, completed=1, cancelled=4)
    assert (bare.waiting_reason, bare.attempt_counts) == (None, None)
    assert bare == waiting


async def test_attempts_are_read_page_after_page() -> None:
    failed = job_attempt_pb2.JobAttempt(
        attempt=2,
        outcome=job_attempt_pb2.ATTEMPT_OUTCOME_TIMED_OUT,
        worker_name="host",
        error=job_pb2.JobError(code="TIMEOUT", message="too long", retryable=True),
    )
    running = job_attempt_pb2.JobAttempt(attempt=3, outcome=job_attempt_pb2.ATTEMPT_OUTCOME_RUNNING)
    jobs = ScriptedJobs(
        UNAVAILABLE,
        page(running, "second"),
        page(failed, ""),
    )
    async with client_of(jobs) as client:
        latest, first = [attempt async for attempt in client.jobs.attempts("job_1", page_size=1)]
    assert (latest.outcome, latest.ended_at, latest.error) == (AttemptOutcome.RUNNING, None, None)
    assert (first.attempt, first.outcome, first.worker_name) == (2, AttemptOutcome.TIMED_OUT, "host")
    assert first.error == JobError("TIMEOUT", "too long", retryable=True)
    assert [request.page_token for request in jobs.requests] == ["", "", "second"]
    assert {(request.job_id, request.page_size) for request in jobs.requests} == {("job_1", 1)}

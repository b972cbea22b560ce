"""What the SDK sends to the Subscriptions service, and what it reads of its answers."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from millrace.jobs.v1 import jobs_service_pb2
from millrace.jobs.v1 import subscriptions_service_pb2 as messages
from millrace_client import AbortedError, SubscriptionState, UnavailableError
from support import scripted_jobs
from support.scripted_subscriptions import ScriptedSubscriptions, client_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
URL = "https://example.com/hook"
SECRET = "whsec_" + "c2VjcmV0" * 4
STORED = {
    "subscriptionId": "subscription_1",
    "orgId": "acme",
    "url": URL,
    "eventTypes": ["job.failed", "job.later"],
    "jobTypes": ["a:b"],
    "description": "what fails",
    "notifyEmails": ["ada@example.com"],
    "state": "SUBSCRIPTION_STATE_DISABLED",
    "disabledReason": "it kept failing",
    "disabledAt": "2027-01-31T09:30:00Z",
    "failingSince": "2027-01-30T09:30:00Z",
    "failedAttempts": 12,
    "lastError": "it answered 500",
    "lastFailureAt": "2027-01-31T09:29:00Z",
    "lastSuccessAt": "2027-01-29T09:30:00Z",
    "createdBy": "ada",
    "createdAt": "2027-01-01T00:00:00Z",
    "updatedAt": "2027-01-02T00:00:00Z",
    "version": 2**40,
}


def response(kind: Any, **fields: Any) -> Any:
    return ParseDict({"subscription": STORED, **fields}, kind())


async def test_every_option_is_sent_and_every_field_is_read() -> None:
    service = ScriptedSubscriptions(response(messages.CreateSubscriptionResponse))
    async with client_of(service) as client:
        subscription = await client.subscriptions.create(
            URL,
            ["job.failed"],
            job_types=["a:b"],
            description="what fails",
            notify_emails=["ada@example.com"],
            secret=SECRET,
            created_by="ada",
            request_id="r1",
        )
    assert MessageToDict(service.requests[0]) == {
        "orgId": "acme",
        "url": URL,
        "eventTypes": ["job.failed"],
        "jobTypes": ["a:b"],
        "description": "what fails",
        "notifyEmails": ["ada@example.com"],
        "secret": SECRET,
        "createdBy": "ada",
        "requestId": "r1",
    }
    assert (subscription.subscription_id, subscription.org_id, subscription.url) == (
        "subscription_1",
        "acme",
        URL,
    )
    assert subscription.event_types == ("job.failed", "job.later")
    assert (subscription.job_types, subscription.notify_emails) == (("a:b",), ("ada@example.com",))
    assert subscription.state is SubscriptionState.DISABLED
    assert (subscription.disabled_reason, subscription.last_error) == ("it kept failing", "it answered 500")
    assert subscription.disabled_at == datetime(2027, 1, 31, 9, 30, tzinfo=UTC)
    assert subscription.failing_since == datetime(2027, 1, 30, 9, 30, tzinfo=UTC)
    assert subscription.last_success_at == datetime(2027, 1, 29, 9, 30, tzinfo=UTC)
    assert (subscription.failed_attempts, subscription.version) == (12, 2**40)
    assert subscription.secret is None


async def test_a_generated_secret_is_told_and_is_in_no_text() -> None:
    service = ScriptedSubscriptions(
        response(messages.CreateSubscriptionResponse, secret=SECRET),
        response(messages.RotateSubscriptionSecretResponse, secret=SECRET),
        response(messages.GetSubscriptionResponse),
    )
    async with client_of(service) as client:
        created = await client.subscriptions.create(URL, ["job.failed"], request_id="r")
        rotated = await client.subscriptions.rotate_secret("subscription_1")
        read = await client.subscriptions.get("subscription_1")
    assert (created.secret, rotated.secret, read.secret) == (SECRET, SECRET, None)
    assert SECRET not in repr(created)
    assert created == read
    assert service.requests[0].secret == ""
    assert MessageToDict(service.requests[1]) == {"orgId": "acme", "subscriptionId": "subscription_1"}


async def test_no_secret_is_lost_with_an_answer() -> None:
    service = ScriptedSubscriptions(
        UNAVAILABLE,
        response(messages.CreateSubscriptionResponse),
        response(messages.CreateSubscriptionResponse),
    )
    async with client_of(service) as client:
        created = await client.subscriptions.create(URL, ["job.failed"])
        another = await client.subscriptions.create(URL, ["job.failed"])
    first, repeated, second = service.requests
    assert first == repeated
    assert (created.secret, another.secret) == (first.secret, second.secret)
    assert created.secret != another.secret
    assert len(first.request_id) == 32
    assert first.request_id != second.request_id


async def test_what_is_given_is_changed() -> None:
    answer = response(messages.UpdateSubscriptionResponse)
    service = ScriptedSubscriptions(answer, grpc.StatusCode.ABORTED)
    async with client_of(service) as client:
        await client.subscriptions.update(
            "subscription_1", version=4, url=URL, event_types=("job.failed",), job_types=[], description=""
        )
        with pytest.raises(AbortedError):
            await client.subscriptions.update("subscription_1", version=4, description="late")
    request = service.requests[0]
    assert list(request.update_mask.paths) == ["url", "event_types", "job_types", "description"]
    assert MessageToDict(request.subscription) == {
        "orgId": "acme",
        "subscriptionId": "subscription_1",
        "version": "4",
        "url": URL,
        "eventTypes": ["job.failed"],
    }


async def test_what_cannot_be_sent() -> None:
    async with client_of(ScriptedSubscriptions()) as client:
        with pytest.raises(TypeError, match="event_types of a subscription are a list"):
            await client.subscriptions.create(URL, "job.failed")
        with pytest.raises(TypeError, match="job_types of a subscription are a list"):
            await client.subscriptions.update("subscription_1", job_types="a:b")
        with pytest.raises(TypeError, match='no "secret"'):
            await client.subscriptions.update("subscription_1", secret=SECRET)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="PAUSED"):
            client.subscriptions.list(states=["asleep"])


async def test_pages_are_fetched_as_they_are_needed() -> None:
    first = messages.ListSubscriptionsResponse(next_page_token="t")  # noqa: S106 - no password
    first.subscriptions.add(subscription_id="1")
    second = messages.ListSubscriptionsResponse()
    second.subscriptions.add(subscription_id="2")
    service = ScriptedSubscriptions(first, second)
    async with client_of(service) as client:
        listed = client.subscriptions.list(states=["paused", SubscriptionState.DISABLED], page_size=1)
        seen = [subscription.subscription_id async for subscription in listed]
    assert seen == ["1", "2"]
    asked = {
        "orgId": "acme",
        "pageSize": 1,
        "states": ["SUBSCRIPTION_STATE_PAUSED", "SUBSCRIPTION_STATE_DISABLED"],
    }
    assert MessageToDict(service.requests[1]) == {**asked, "pageToken": "t"}


async def test_calls_are_repeated_only_where_that_does_no_harm() -> None:
    answers = (
        response(messages.CreateSubscriptionResponse),
        response(messages.GetSubscriptionResponse),
        response(messages.PauseSubscriptionResponse),
        response(messages.ResumeSubscriptionResponse),
        messages.ListSubscriptionsResponse(),
    )
    script = [step for answer in answers for step in (UNAVAILABLE, answer)]
    service = ScriptedSubscriptions(*script, *[UNAVAILABLE] * 4)
    async with client_of(service) as client:
        subscriptions = client.subscriptions
        await subscriptions.create(URL, ["job.failed"])
        await subscriptions.get("1")
        await subscriptions.pause("1")
        await subscriptions.resume("1")
        assert [one async for one in subscriptions.list()] == []
        assert service.requests[0].request_id == service.requests[1].request_id
        for call in (
            subscriptions.update("1", description="x"),
            subscriptions.delete("1"),
            subscriptions.rotate_secret("1"),
            subscriptions.test("1"),
        ):
            with pytest.raises(UnavailableError):
                await call
    assert service.script == []


async def test_jobs_made_for_another_are_asked_for() -> None:
    jobs = scripted_jobs.ScriptedJobs(jobs_service_pb2.ListJobsResponse())
    async with scripted_jobs.client_of(jobs) as client:
        assert [job async for job in client.jobs.list(parent_job_id="job_1")] == []
    assert jobs.requests[0].parent_job_id == "job_1"

"""`millrace subscriptions`: what is sent, and what people and programs read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from millrace.jobs.v1 import jobs_service_pb2, subscription_pb2
from millrace.jobs.v1 import subscriptions_service_pb2 as messages
from support import scripted_jobs
from support.command_line import CommandLine
from support.scripted_subscriptions import ScriptedSubscriptions, serving

URL = "https://example.com/hook"
SECRET = "whsec_" + "c2VjcmV0" * 4
ONE = {
    "subscriptionId": "subscription_1",
    "orgId": "acme",
    "url": URL,
    "eventTypes": ["job.failed", "job.cancelled"],
    "state": "SUBSCRIPTION_STATE_ENABLED",
    "failingSince": "2027-03-26T08:30:00Z",
    "createdAt": "2027-03-25T08:30:00Z",
    "updatedAt": "2027-03-25T08:30:00Z",
    "version": 5,
}


@asynccontextmanager
async def millrace(service: ScriptedSubscriptions) -> AsyncIterator[CommandLine]:
    async with serving(service) as address:
        yield CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme", "TZ": "UTC"})


def response(kind: Any, **fields: Any) -> Any:
    return ParseDict({"subscription": ONE, **fields}, kind())


async def test_all_that_a_subscription_may_ask_for_is_sent(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    service = ScriptedSubscriptions(response(messages.CreateSubscriptionResponse))
    async with millrace(service) as command:
        shown = await command.succeed(
            "subscriptions", "create", URL, "--event", "job.failed", "--event", "job.cancelled", "--type", "a:b",
            "--type", "a:c", "--description", "what fails", "--notify", "a@b.c", "--notify", "d@e.f", "--secret",
            f"@{tmp_path}/secret", "--created-by", "ada", "--request-id", "r1",
        )  # fmt: skip
    assert MessageToDict(service.requests[0]) == {
        "orgId": "acme",
        "url": URL,
        "eventTypes": ["job.failed", "job.cancelled"],
        "jobTypes": ["a:b", "a:c"],
        "description": "what fails",
        "notifyEmails": ["a@b.c", "d@e.f"],
        "secret": SECRET,
        "createdBy": "ada",
        "requestId": "r1",
    }
    assert ["subscriptionId", "subscription_1"] in map(str.split, shown.stdout.splitlines())
    assert SECRET not in shown.stdout


async def test_a_generated_secret_is_shown() -> None:
    created = response(messages.CreateSubscriptionResponse, secret=SECRET)
    rotated = response(messages.RotateSubscriptionSecretResponse, secret=SECRET)
    service = ScriptedSubscriptions(created, created, rotated)
    arguments = ("subscriptions", "create", URL, "--event", "job.failed")
    async with millrace(service) as command:
        for_people = (await command.succeed(*arguments)).stdout
        form = (await command.succeed(*arguments, "--json")).line
        again = (await command.succeed("subscriptions", "rotate-secret", "subscription_1", "--json")).line
    assert ["secret", SECRET] in map(str.split, for_people.splitlines())
    assert {name: form[name] for name in ONE} == ONE
    assert (form["secret"], again["secret"]) == (SECRET, SECRET)
    assert MessageToDict(service.requests[2]) == {"orgId": "acme", "subscriptionId": "subscription_1"}


async def test_a_subscription_without_events_is_not_sent() -> None:
    service = ScriptedSubscriptions()
    async with millrace(service) as command:
        refused = await command.run("subscriptions", "create", URL)
    assert refused.code == 2
    assert "--event" in refused.stderr
    assert service.requests == []


async def test_what_is_given_is_changed_and_the_rest_stays() -> None:
    changed = response(messages.UpdateSubscriptionResponse)
    service = ScriptedSubscriptions(changed, changed, grpc.StatusCode.ABORTED)
    update = ("subscriptions", "update", "subscription_1")
    async with millrace(service) as command:
        outcome = await command.succeed(
            *update, "--if-version", "4", "--url", URL, "--event", "job.failed", "--clear", "types", "--clear",
            "notify", "--json",
        )  # fmt: skip
        assert outcome.line["version"] == 5
        await command.succeed(*update, "--type", "a:b", "--notify", "a@b.c", "--clear", "description")
        refused = await command.run(*update, "--if-version", "4", "--description", "late")
        nothing = await command.run(*update)
        both = await command.run(*update, "--type", "a:b", "--clear", "types")
    assert (refused.code, refused.stderr) == (
        64 + grpc.StatusCode.ABORTED.value[0],
        "error: ABORTED: as scripted\n",
    )
    assert (nothing.code, both.code) == (2, 2)
    first, second, _ = service.requests
    assert MessageToDict(first.subscription) == {
        "orgId": "acme",
        "subscriptionId": "subscription_1",
        "version": "4",
        "url": URL,
        "eventTypes": ["job.failed"],
    }
    assert set(first.update_mask.paths) == {"url", "event_types", "job_types", "notify_emails"}
    assert set(second.update_mask.paths) == {"job_types", "notify_emails", "description"}
    assert (list(second.subscription.job_types), second.subscription.description) == (["a:b"], "")


async def test_subscriptions_are_listed_by_state() -> None:
    page = messages.ListSubscriptionsResponse(subscriptions=[ParseDict(ONE, subscription_pb2.Subscription())])
    service = ScriptedSubscriptions(page, page)
    async with millrace(service) as command:
        rows = (
            await command.succeed("subscriptions", "list", "--state", "enabled", "--state", "DISABLED")
        ).stdout.splitlines()
        form = (await command.succeed("subscriptions", "list", "--limit", "2", "--json")).line
    assert rows[1].split() == [
        "subscription_1", URL, "job.failed,", "job.cancelled", "ENABLED", "2027-03-26", "08:30:00",
    ]  # fmt: skip
    assert (form["state"], form["url"]) == ("SUBSCRIPTION_STATE_ENABLED", URL)
    assert list(map(MessageToDict, service.requests)) == [
        {
            "orgId": "acme",
            "pageSize": 51,
            "states": ["SUBSCRIPTION_STATE_ENABLED", "SUBSCRIPTION_STATE_DISABLED"],
        },
        {"orgId": "acme", "pageSize": 3},
    ]


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("show", messages.GetSubscriptionResponse),
        ("get", messages.GetSubscriptionResponse),
        ("pause", messages.PauseSubscriptionResponse),
        ("resume", messages.ResumeSubscriptionResponse),
    ],
)
async def test_what_is_shown_afterwards(verb: str, answer: Any) -> None:
    service = ScriptedSubscriptions(response(answer))
    async with millrace(service) as command:
        shown = await command.succeed("subscriptions", verb, "subscription_1")
    assert ["state", "ENABLED"] in map(str.split, shown.stdout.splitlines())
    assert MessageToDict(service.requests[0]) == {"orgId": "acme", "subscriptionId": "subscription_1"}


async def test_deleting_and_testing() -> None:
    tested = messages.TestSubscriptionResponse(job_id="job_1")
    service = ScriptedSubscriptions(
        messages.DeleteSubscriptionResponse(), tested, tested, grpc.StatusCode.FAILED_PRECONDITION
    )
    async with millrace(service) as command:
        deleted = await command.succeed("subscriptions", "delete", "subscription_1")
        test = ("subscriptions", "test", "subscription_1")
        assert (await command.succeed(*test)).stdout == "job_1\n"
        assert (await command.succeed(*test, "--json")).line == {"jobId": "job_1"}
        assert (await command.run(*test)).code == 73
    assert deleted.stdout == "deleted subscription_1\n"


async def test_jobs_made_for_another_are_listed() -> None:
    jobs = scripted_jobs.ScriptedJobs(jobs_service_pb2.ListJobsResponse())
    async with scripted_jobs.serving(jobs) as address:
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        await command.succeed("jobs", "list", "--parent-job", "job_1")
    assert jobs.requests[0].parent_job_id == "job_1"

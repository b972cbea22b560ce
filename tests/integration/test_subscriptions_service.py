"""What callers of SubscriptionsService see."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from millrace.jobs.v1 import job_pb2, subscription_pb2
from millrace_database.database import Database
from millrace_database.deliveries import EVENT_TYPE
from millrace_queue import CHANNEL_READY
from millrace_runtime.struct_json import struct_to_dict
from support.jobs_api import detail, refusal, refused_fields, status_of
from support.subscriptions_api import (
    COMPLETED,
    OTHER_SECRET,
    SECRET,
    URL,
    SubscriptionsApi,
    fail,
    stored,
    subscribing,
)

ENABLED = subscription_pb2.SUBSCRIPTION_STATE_ENABLED
PAUSED = subscription_pb2.SUBSCRIPTION_STATE_PAUSED
DISABLED = subscription_pb2.SUBSCRIPTION_STATE_DISABLED


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[SubscriptionsApi]:
    async with subscribing(database, tmp_path) as api:
        yield api


async def test_a_subscription_is_created_and_read(api: SubscriptionsApi) -> None:
    made = await api.make(
        event_types=["subscription.disabled", "job.failed"],
        job_types=["reports:generate", "notes:keep"],
        description="what fails",
        notify_emails=["ada@example.com"],
        secret=SECRET,
        created_by="user_7",
    )

    subscription = made.subscription
    assert made.secret == ""
    assert subscription.subscription_id.startswith("subscription_")
    assert (subscription.org_id, subscription.url, subscription.created_by) == ("acme", URL, "user_7")
    assert list(subscription.event_types) == ["subscription.disabled", "job.failed"]
    assert list(subscription.job_types) == ["reports:generate", "notes:keep"]
    assert (subscription.description, list(subscription.notify_emails)) == ("what fails", ["ada@example.com"])
    assert (subscription.state, subscription.version) == (ENABLED, 1)
    assert {field.name for field, _ in subscription.ListFields()}.isdisjoint(
        ("disabled_at", "failing_since", "last_failure_at", "last_success_at")
    )
    assert await api.get(subscription.subscription_id) == subscription


async def test_a_generated_secret_is_returned_once_and_is_the_one_that_signs(
    api: SubscriptionsApi, database: Database
) -> None:
    made, other = await api.make(), await api.make()

    assert len(base64.b64decode(made.secret.removeprefix("whsec_"), validate=True)) == 32
    assert made.secret != other.secret
    row = await stored(database, made.subscription.subscription_id)
    assert row["secret"] == made.secret
    assert made.subscription.created_by == "anonymous"


async def test_a_repeated_creation_returns_the_first_subscription_and_no_secret(
    api: SubscriptionsApi, database: Database
) -> None:
    first = await api.make(request_id="r1")
    repeated = await api.make(request_id="r1", event_types=["job.failed"])

    assert repeated.subscription == first.subscription
    assert (bool(first.secret), repeated.secret) == (True, "")
    assert (await stored(database, first.subscription.subscription_id))["secret"] == first.secret
    assert (await api.create(request_id="r1", org_id="other")).org_id == "other"
    error = await refusal(api.create(request_id="r1", url="https://example.org/"))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    resource = detail(status_of(error), error_details_pb2.ResourceInfo)
    assert resource.resource_name == first.subscription.subscription_id


async def test_an_organisation_has_50_at_most(api: SubscriptionsApi) -> None:
    for number in range(50):
        last = await api.create(request_id=f"r{number}")

    error = await refusal(api.create())

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "the organisation has 50 subscriptions already"
    # Waiting does not help.
    assert "RetryInfo" not in str(status_of(error))
    assert await api.create(request_id="r49") == last
    await api.create(org_id="other")
    await api.delete(last.subscription_id)
    await api.create()


async def test_lists_are_newest_first_and_stable_while_subscriptions_come_and_go(
    api: SubscriptionsApi,
) -> None:
    created = [(await api.create()).subscription_id for _ in range(5)]
    await api.create(org_id="other")

    first = await api.list_(page_size=2)
    await api.create()
    await api.delete(created[3])
    second = await api.list_(page_size=2, page_token=first.next_page_token)
    third = await api.list_(page_size=2, page_token=second.next_page_token)

    pages = (first, second, third)
    seen = [subscription.subscription_id for page in pages for subscription in page.subscriptions]
    assert seen == created[::-1]
    assert third.next_page_token == ""


async def test_lists_by_state(api: SubscriptionsApi, database: Database) -> None:
    one, two, three = [(await api.create()).subscription_id for _ in range(3)]
    await api.pause(two)
    await fail(database, three, state="disabled")

    async def listed(*states: subscription_pb2.SubscriptionState.ValueType) -> list[str]:
        answer = await api.list_(states=states)
        return [subscription.subscription_id for subscription in answer.subscriptions]

    assert await listed(PAUSED) == [two]
    assert await listed(ENABLED, DISABLED, ENABLED) == [three, one]
    assert await listed() == [three, two, one]
    token = (await api.list_(states=[ENABLED, DISABLED], page_size=1)).next_page_token
    assert await refused_fields(api.list_(states=[PAUSED], page_token=token)) == {
        "page_token": "is not a token of a previous page with the same filters"
    }


async def test_what_the_mask_names_is_changed(api: SubscriptionsApi, database: Database) -> None:
    made = await api.make(job_types=["a:b"], notify_emails=["ada@example.com"], description="before")
    subscription = made.subscription

    changed = await api.update(
        subscription.subscription_id,
        "job_types",
        "notify_emails",
        url="https://example.org/",
        event_types=["job.failed"],
    )

    assert (changed.url, list(changed.event_types)) == ("https://example.org/", ["job.failed"])
    assert (list(changed.job_types), list(changed.notify_emails)) == ([], [])
    assert (changed.description, changed.version) == ("before", 2)
    assert await api.get(subscription.subscription_id) == changed
    assert (await stored(database, subscription.subscription_id))["secret"] == made.secret


async def test_a_change_of_a_version_that_is_not_the_current_one_is_refused(api: SubscriptionsApi) -> None:
    subscription = await api.create()
    key = subscription.subscription_id
    await api.update(key, description="first", version=subscription.version)

    error = await refusal(api.update(key, description="second", version=subscription.version))

    assert error.code() is grpc.StatusCode.ABORTED
    assert error.details() == f"{key} has been changed: its version is 2"
    assert (await api.get(key)).description == "first"


async def test_pausing_and_resuming(api: SubscriptionsApi, database: Database) -> None:
    key = (await api.create()).subscription_id

    paused = await api.pause(key)
    assert (paused.state, paused.version) == (PAUSED, 2)
    assert await api.pause(key) == paused
    resumed = await api.resume(key)
    assert (resumed.state, resumed.version) == (ENABLED, 3)
    assert await api.resume(key) == resumed

    await fail(database, key, state="disabled")
    disabled = await api.get(key)
    assert (disabled.state, disabled.disabled_reason) == (DISABLED, "it kept failing")
    assert (disabled.failed_attempts, disabled.last_error) == (12, "it answered 500")
    since = disabled.failing_since.ToDatetime(UTC)
    assert disabled.disabled_at.ToDatetime(UTC) - since == timedelta(days=1)
    forgotten = await api.resume(key)
    assert (forgotten.state, forgotten.disabled_reason, forgotten.failed_attempts) == (ENABLED, "", 0)
    assert not forgotten.HasField("failing_since")
    assert not forgotten.HasField("disabled_at")


async def test_a_secret_is_rotated(api: SubscriptionsApi, database: Database) -> None:
    made = await api.make()
    key = made.subscription.subscription_id

    rotated = await api.rotate(key)

    assert rotated.secret not in ("", made.secret)
    assert rotated.subscription.version == 2
    row = await stored(database, key)
    assert (row["secret"], row["previous_secret"]) == (rotated.secret, made.secret)
    given = await api.rotate(key, OTHER_SECRET)
    assert given.secret == ""
    row = await stored(database, key)
    assert (row["secret"], row["previous_secret"]) == (OTHER_SECRET, rotated.secret)


async def test_a_deleted_subscription_is_gone(api: SubscriptionsApi) -> None:
    key = (await api.create()).subscription_id

    await api.delete(key)

    for call in (api.get(key), api.delete(key), api.pause(key), api.rotate(key)):
        assert (await refusal(call)).code() is grpc.StatusCode.NOT_FOUND
    assert not (await api.list_()).subscriptions


async def test_a_test_event_is_a_job_that_workers_are_told_of(
    api: SubscriptionsApi, database: Database
) -> None:
    key = (await api.create(created_by="user_7")).subscription_id
    told: asyncio.Queue[str] = asyncio.Queue()
    connection = await database.direct_connection()
    try:
        await connection.add_listener(CHANNEL_READY, lambda *said: told.put_nowait(str(said[-1])))
        job_id = await api.test(key)
        async with asyncio.timeout(10):
            while EVENT_TYPE not in await told.get():
                pass
    finally:
        await connection.close()

    job = await api.jobs.get(job_id)
    assert (job.type, job.created_by, job.status) == (EVENT_TYPE, "user_7", job_pb2.JOB_STATUS_PENDING)
    assert struct_to_dict(job.metadata) == {"subscription_id": key, "event": "subscription.test"}
    assert "example.com" not in str(job)
    assert await api.test(key) != job_id


async def test_only_what_is_enabled_is_tested(api: SubscriptionsApi, database: Database) -> None:
    key = (await api.create()).subscription_id
    await api.pause(key)

    error = await refusal(api.test(key))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    failure = detail(status_of(error), error_details_pb2.PreconditionFailure)
    assert (failure.violations[0].type, failure.violations[0].subject) == ("SUBSCRIPTION_PAUSED", key)
    await fail(database, key, state="disabled")
    assert "is disabled" in str((await refusal(api.test(key))).details())
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0


async def test_operators_may_allow_private_addresses(database: Database, tmp_path: Path) -> None:
    async with subscribing(database, tmp_path, webhook_allow_private=True) as api:
        url = "http://127.0.0.1:8080/hook"
        subscription = await api.create(url=url)
        assert subscription.url == url
        changed = await api.update(subscription.subscription_id, url="http://localhost/")
        assert changed.url == "http://localhost/"


async def test_a_secret_is_in_no_answer_no_error_and_no_log(
    api: SubscriptionsApi, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        key = (await api.create(secret=SECRET, request_id="r")).subscription_id
        answers = [
            await api.get(key),
            await api.list_(),
            await api.update(key, description="new"),
            await api.pause(key),
            await api.resume(key),
            await api.rotate(key, OTHER_SECRET),
            (await refusal(api.create(secret=SECRET + "!", url=""))).details(),
            (await refusal(api.create(secret=SECRET, request_id="r", url="https://example.org/"))).details(),
            (await refusal(api.rotate(key, OTHER_SECRET + "!"))).details(),
        ]
    logged = f"{caplog.text} {capsys.readouterr()}"
    assert "SubscriptionsService/CreateSubscription" in logged
    said = f"{answers} {logged}"
    assert key in said
    assert SECRET.removeprefix("whsec_") not in said
    assert OTHER_SECRET.removeprefix("whsec_") not in said
    assert COMPLETED in said

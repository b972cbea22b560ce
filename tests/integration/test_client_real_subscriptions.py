"""The SDK's subscriptions against the real services: what a program that uses them sees."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace_client import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    Millrace,
    NotFoundError,
    SubscriptionState,
)
from millrace_database.database import Database
from support.whole_system import running_whole_system

URL = "https://example.com/hook"


@pytest.fixture
async def client(database: Database, tmp_path: Path) -> AsyncIterator[Millrace]:
    async with (
        running_whole_system(database, tmp_path / "data") as system,
        Millrace(system.jobs, scheduler=system.scheduler, worker=system.worker, org_id="acme") as client,
    ):
        yield client


async def test_a_subscription_from_its_creation_to_its_end(client: Millrace) -> None:
    created = await client.subscriptions.create(
        URL,
        ["job.failed", "job.cancelled"],
        job_types=["toy:add"],
        description="what fails",
        notify_emails=["ada@example.com"],
    )
    assert created.secret is not None
    assert created.state is SubscriptionState.ENABLED
    assert (created.event_types, created.job_types) == (("job.failed", "job.cancelled"), ("toy:add",))
    read = await client.subscriptions.get(created.subscription_id)
    assert (read, read.secret) == (created, None)

    changed = await client.subscriptions.update(
        created.subscription_id, version=created.version, job_types=[], url="https://example.org/"
    )
    assert (changed.url, changed.job_types, changed.description) == (
        "https://example.org/",
        (),
        "what fails",
    )
    with pytest.raises(AbortedError):
        await client.subscriptions.update(created.subscription_id, version=created.version, description="")

    same = await client.subscriptions.rotate_secret(created.subscription_id, created.secret)
    assert (same.version, same.secret) == (changed.version, None)
    rotated = await client.subscriptions.rotate_secret(created.subscription_id)
    assert rotated.secret not in (None, created.secret)
    await client.subscriptions.delete(created.subscription_id)
    with pytest.raises(NotFoundError):
        await client.subscriptions.get(created.subscription_id)


async def test_only_what_is_enabled_is_tested(client: Millrace) -> None:
    subscription_id = (await client.subscriptions.create(URL, ["job.failed"])).subscription_id
    paused = await client.subscriptions.pause(subscription_id)
    assert paused.state is SubscriptionState.PAUSED
    with pytest.raises(FailedPreconditionError):
        await client.subscriptions.test(subscription_id)
    await client.subscriptions.resume(subscription_id)
    job = await client.jobs.get(await client.subscriptions.test(subscription_id))
    assert job.metadata == {"subscription_id": subscription_id, "event": "subscription.test"}
    metadata = {"subscription_id": subscription_id}
    assert [one.job_id async for one in client.jobs.list(metadata=metadata)] == [job.job_id]


async def test_lists_and_other_organisations(client: Millrace) -> None:
    ids = [(await client.subscriptions.create(URL, ["job.failed"])).subscription_id for _ in range(3)]
    other = client.organisation("other")
    foreign = await other.subscriptions.create(URL, ["job.failed"])
    await client.subscriptions.pause(ids[1])

    async def listed(*states: SubscriptionState) -> list[str]:
        found = client.subscriptions.list(states=states, page_size=1)
        return [subscription.subscription_id async for subscription in found]

    assert await listed() == ids[::-1]
    assert await listed(SubscriptionState.PAUSED) == [ids[1]]
    with pytest.raises(NotFoundError):
        await client.subscriptions.get(foreign.subscription_id)


async def test_what_is_refused(client: Millrace) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        await client.subscriptions.create("http://10.0.0.1/", ["job.started"])
    assert [violation.field for violation in raised.value.violations] == ["url", "event_types[0]"]
    first = await client.subscriptions.create(URL, ["job.failed"], request_id="r")
    again = await client.subscriptions.create(URL, ["job.failed"], request_id="r")
    assert (again, again.secret) == (first, None)
    with pytest.raises(AlreadyExistsError) as taken:
        await client.subscriptions.create("https://example.org/", ["job.failed"], request_id="r")
    assert taken.value.resource is not None
    assert taken.value.resource.name == first.subscription_id

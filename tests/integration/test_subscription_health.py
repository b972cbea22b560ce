import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from millrace_database.database import Database
from millrace_database.deliveries import EVENT_TYPE, NOTICE_TYPE
from millrace_database.ids import format_id
from millrace_database.subscriptions_repository import (
    SubscriptionChanges,
    pause_subscription,
    resume_subscription,
    update_subscription,
)
from millrace_worker import JobError
from millrace_worker.delivery_settings import DeliverySettings
from millrace_worker.handlers import deliver_event
from millrace_worker.handlers.webhook_posting import post_signed
from support.deliveries import WebhookServer, webhook_server
from support.event_runs import ended, refused, subscribed
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files
from support.subscriptions import subscription
from support.worker_runs import fetch

_LINKS = DeliverySettings(allow_private=True, download_link="https://files.test/{org_id}/{file_id}")


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    return HandlerRuns(database, local_files(database, tmp_path), delivery=_LINKS)


@pytest.fixture
async def server() -> AsyncIterator[WebhookServer]:
    async with webhook_server() as running:
        yield running


async def test_private_addresses_are_refused_and_count(runs: HandlerRuns, server: WebhookServer) -> None:
    runs.delivery = DeliverySettings()
    subscription_id = await subscribed(runs, server.url.replace("http:", "https:"))
    await ended(runs)
    assert (await refused(runs)).code == "PRIVATE_ADDRESS"
    assert server.received == []
    assert (await subscription(runs.database, subscription_id)).failed_attempts == 1


async def test_failures_are_counted_and_a_success_ends_them(runs: HandlerRuns, server: WebhookServer) -> None:
    subscription_id = await subscribed(runs, server.url)
    await ended(runs)
    server.answers = [(500, {}), (404, {})]
    context = await runs.claimed(EVENT_TYPE)
    seen = []
    for _ in range(2):
        with pytest.raises(JobError):
            await call(context)
        seen.append(await subscription(runs.database, subscription_id))
    assert [one.failed_attempts for one in seen] == [1, 2]
    assert seen[0].failing_since is not None
    assert seen[1].failing_since == seen[0].failing_since
    assert [one.last_error for one in seen] == [
        "WEBHOOK_FAILED: the webhook answered 500",
        "WEBHOOK_REFUSED: the webhook answered 404",
    ]
    assert seen[0].last_failure_at is not None
    assert seen[1].last_failure_at is not None
    assert seen[1].last_failure_at > seen[0].last_failure_at
    await call(context)
    healthy = await subscription(runs.database, subscription_id)
    assert (healthy.failing_since, healthy.failed_attempts, healthy.state) == (None, 0, "enabled")
    assert healthy.last_success_at is not None
    assert healthy.version == seen[0].version == 1


async def test_many_successes_write_the_subscription_once(runs: HandlerRuns, server: WebhookServer) -> None:
    subscription_id = await subscribed(runs, server.url)
    times = set()
    for _ in range(5):
        await ended(runs)
        await call(await runs.claimed(EVENT_TYPE))
        times.add((await subscription(runs.database, subscription_id)).last_success_at)
    assert len(times) == 1
    async with runs.database.connection() as conn:
        await conn.execute("UPDATE job_subscriptions SET last_success_at = last_success_at - interval '11 s'")
    await ended(runs)
    await call(await runs.claimed(EVENT_TYPE))
    assert (await subscription(runs.database, subscription_id)).last_success_at not in times


@pytest.mark.parametrize("answer", [200, 500])
async def test_an_outage_after_the_answer_changes_nothing_about_it(
    runs: HandlerRuns, server: WebhookServer, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    async def away(*_arguments: object) -> None:
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr(deliver_event, "record_success", away)
    monkeypatch.setattr(deliver_event, "record_failure", away)
    await subscribed(runs, server.url)
    await ended(runs)
    server.answers = [(answer, {})]
    if answer == 200:
        assert (await call(await runs.claimed(EVENT_TYPE))).status == 200
    else:
        assert (await refused(runs)).code == "WEBHOOK_FAILED"
    assert len(server.received) == 1


async def test_a_subscription_that_is_locked_holds_up_no_delivery(
    runs: HandlerRuns, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_event, "_NOTING_SECONDS", 0.05)
    await subscribed(runs, server.url)
    await ended(runs)
    async with runs.database.transaction() as conn:
        await conn.execute("SELECT FROM job_subscriptions FOR UPDATE")
        assert (await call(await runs.claimed(EVENT_TYPE))).status == 200


async def test_an_endpoint_that_is_gone_disables_its_subscription(
    runs: HandlerRuns, server: WebhookServer
) -> None:
    subscription_id = await subscribed(runs, server.url, notify_emails=["ann@acme.test"])
    other = await subscribed(runs, server.url, event_types=["subscription.disabled"])
    await ended(runs)
    server.answers = [(410, {})]
    error = await refused(runs)
    assert (error.code, error.retryable) == ("WEBHOOK_REFUSED", False)
    disabled = await subscription(runs.database, subscription_id)
    assert (disabled.state, disabled.disabled_reason) == ("disabled", "The endpoint answered 410 Gone.")
    assert (await subscription(runs.database, other)).state == "enabled"
    assert len(await fetch(runs.database, "SELECT FROM jobs WHERE type = $1", NOTICE_TYPE)) == 1
    assert runs.created == {(EVENT_TYPE, "acme"): 1, (NOTICE_TYPE, "acme"): 1}

    await call(await runs.claimed(EVENT_TYPE))
    payload = orjson.loads(server.received[1][1])
    assert disabled.disabled_at is not None
    assert payload["type"] == "subscription.disabled"
    assert payload["data"] == {
        "org_id": "acme",
        "subscription_id": format_id("subscription", subscription_id),
        "endpoint": server.url.partition("/hooks")[0],
        "description": "",
        "reason": "The endpoint answered 410 Gone.",
        "failing_since": disabled.failing_since and disabled.failing_since.isoformat(),
        "failed_attempts": 1,
        "disabled_at": disabled.disabled_at.isoformat(),
    }


async def test_a_new_url_is_not_disabled_by_the_old_one(
    runs: HandlerRuns, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription_id = await subscribed(runs, server.url)

    async def post_slowly(*arguments: Any) -> Any:
        answer = await post_signed(*arguments)
        async with runs.database.transaction() as conn:
            changes = SubscriptionChanges(url="https://new.example.com/")
            await update_subscription(conn, "acme", subscription_id, changes)
        return answer

    monkeypatch.setattr(deliver_event, "post_signed", post_slowly)
    await ended(runs)
    server.answers = [(410, {})]
    await refused(runs)
    changed = await subscription(runs.database, subscription_id)
    assert (changed.state, changed.failed_attempts) == ("enabled", 0)


@pytest.mark.parametrize("answer", [410, 500])
async def test_one_that_was_resumed_is_not_judged_by_what_was_sent_before(
    runs: HandlerRuns, server: WebhookServer, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """Of many that are sent at once the first disables it, and somebody mends the endpoint before the last has its answer."""
    subscription_id = await subscribed(runs, server.url)

    async def post_slowly(*arguments: Any) -> Any:
        answer = await post_signed(*arguments)
        async with runs.database.transaction() as conn:
            await pause_subscription(conn, "acme", subscription_id)
            await resume_subscription(conn, "acme", subscription_id)
        return answer

    monkeypatch.setattr(deliver_event, "post_signed", post_slowly)
    await ended(runs)
    server.answers = [(answer, {})]
    await refused(runs)
    resumed = await subscription(runs.database, subscription_id)
    assert (resumed.state, resumed.failed_attempts, resumed.failing_since) == ("enabled", 0, None)


async def test_many_at_once_are_counted(runs: HandlerRuns) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        subscription_id = await subscribed(runs, f"http://127.0.0.1:{nobody.getsockname()[1]}/key-in-path")
        contexts = []
        for _ in range(8):
            await ended(runs)
            contexts.append(await runs.claimed(EVENT_TYPE))
        errors = await asyncio.gather(*(call(context) for context in contexts), return_exceptions=True)
    assert [error.code for error in errors if isinstance(error, JobError)] == 8 * ["WEBHOOK_UNREACHABLE"]
    counted = await subscription(runs.database, subscription_id)
    assert counted.failed_attempts == 8
    assert "key-in-path" not in counted.last_error

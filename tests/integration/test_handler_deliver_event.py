import base64
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from millrace_database.database import Database
from millrace_database.deliveries import EVENT_TYPE
from millrace_database.ids import format_id, parse_id
from millrace_database.job_control import retry_job
from millrace_database.job_lifecycle import JobFailure, cancel_job, claim_jobs, fail_jobs
from millrace_database.subscription_events import create_test_event
from millrace_database.subscriptions_repository import (
    SubscriptionChanges,
    delete_subscription,
    pause_subscription,
    rotate_secret,
    update_subscription,
)
from millrace_worker import Backoff, JobError
from millrace_worker.delivery_settings import DeliverySettings
from millrace_worker.handlers.webhook_sending import SECRET_PREFIX
from millrace_worker.registry import load_handlers
from support.deliveries import MADE, SECRET, WebhookServer, expected_signature, webhook_server
from support.event_runs import ended, refused, subscribed
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files
from support.queue_samples import new_worker
from support.subscriptions import event_jobs, let_fail, subscription
from support.worker_runs import fetch, finished, worker

_LINKS = DeliverySettings(allow_private=True, download_link="https://files.test/{org_id}/{file_id}")


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    return HandlerRuns(database, local_files(database, tmp_path), delivery=_LINKS)


@pytest.fixture
async def server() -> AsyncIterator[WebhookServer]:
    async with webhook_server() as running:
        yield running


async def test_the_end_of_a_job_is_posted_and_signed(runs: HandlerRuns, server: WebhookServer) -> None:
    await subscribed(runs, server.url)
    file_id = await runs.upload(b"a;b\n1;2\n", "sales.csv")
    job_id = await ended(runs, {"file_id": file_id, "rows": 1})
    begin = int(time.time())
    context = await runs.claimed(EVENT_TYPE)
    assert (await call(context)).status == 200

    [(headers, body)] = server.received
    payload = orjson.loads(body)
    data = payload.pop("data")
    assert payload == {"type": "job.completed", "timestamp": data["completed_at"]}
    times = [datetime.fromisoformat(data.pop(f"{name}_at")) for name in ("created", "started", "completed")]
    assert times == sorted(times)
    assert datetime.now(UTC) - times[0] < timedelta(minutes=1)
    assert data == {
        "org_id": "acme",
        "job_id": job_id,
        "type": MADE,
        "status": "completed",
        "output": {"file_id": file_id, "rows": 1},
        "error": None,
        "metadata": {"scheduled_time": "2026-03-29T01:00:00Z"},
        "created_by": "ann",
        "attempt": 1,
        "schedule_id": None,
        "file": {
            "file_id": file_id,
            "name": "sales.csv",
            "content_type": "text/csv",
            "size_bytes": 8,
            "sha256": (await runs.record(file_id)).sha256,
            "link": f"https://files.test/acme/{file_id}",
        },
    }
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == context.job_id
    assert begin <= int(headers["webhook-timestamp"]) <= time.time()
    assert headers["webhook-signature"] == expected_signature(headers, body)


async def test_a_failure_is_posted_with_its_error(runs: HandlerRuns, server: WebhookServer) -> None:
    await subscribed(runs, server.url)
    await ended(runs, error=("DISK_FULL", "No space left"))
    await call(await runs.claimed(EVENT_TYPE))
    payload = orjson.loads(server.received[0][1])
    assert (payload["type"], payload["data"]["status"]) == ("job.failed", "failed")
    assert payload["data"]["error"] == {"code": "DISK_FULL", "message": "No space left", "retryable": True}
    assert (payload["data"]["output"], payload["data"]["file"]) == (None, None)


async def test_a_cancellation_is_posted(runs: HandlerRuns, server: WebhookServer) -> None:
    await subscribed(runs, server.url)
    job_id = await ended(runs, error=("LATER", ""))
    async with runs.database.transaction() as conn:
        await retry_job(conn, "acme", parse_id("job", job_id), 3)
        await cancel_job(conn, "acme", parse_id("job", job_id))
    assert (await refused(runs)).code == "RESULT_GONE"
    await call(await runs.claimed(EVENT_TYPE))
    [(_, body)] = server.received
    payload = orjson.loads(body)
    assert (payload["type"], payload["data"]["job_id"]) == ("job.cancelled", job_id)


async def test_numbers_keep_their_digits(runs: HandlerRuns, server: WebhookServer) -> None:
    await subscribed(runs, server.url)
    await ended(runs)
    async with runs.database.connection() as conn:
        await conn.execute(
            """UPDATE jobs SET output = '{"value": 1e30}', metadata = '{"n": 0.12345678901234567890}'
            WHERE parent_job_id IS NULL"""
        )
    await call(await runs.claimed(EVENT_TYPE))
    [(_, body)] = server.received
    assert f'"output":{{"value": {10**30}}}'.encode() in body
    assert b'"metadata":{"n": 0.12345678901234567890}' in body


async def test_while_the_secret_changes_both_sign(runs: HandlerRuns, server: WebhookServer) -> None:
    subscription_id = await subscribed(
        runs, server.url, secret="whsec_" + base64.b64encode(b"n" * 32).decode()
    )
    async with runs.database.transaction() as conn:
        await rotate_secret(conn, "acme", subscription_id, SECRET)
    await ended(runs)
    context = await runs.claimed(EVENT_TYPE)
    await call(context)
    async with runs.database.connection() as conn:
        await conn.execute("UPDATE job_subscriptions SET previous_secret_until = now()")
    await call(await runs.claimed_again(context))
    (headers, body), (later, _) = server.received
    first, second = headers["webhook-signature"].split(" ")
    assert first == expected_signature(headers, body)
    assert second.startswith("v1,")
    assert second != first
    assert later["webhook-signature"] == expected_signature(later, body)


async def test_each_attempt_has_the_same_id_and_body(runs: HandlerRuns, server: WebhookServer) -> None:
    await subscribed(runs, server.url)
    await ended(runs)
    server.answers = [(503, {"Retry-After": "7"})]
    context = await runs.claimed(EVENT_TYPE)
    with pytest.raises(JobError) as raised:
        await call(context)
    assert (raised.value.code, raised.value.retryable) == ("WEBHOOK_FAILED", True)
    assert raised.value.retry_after == timedelta(seconds=7)
    await call(await runs.claimed_again(context))
    first, second = server.received
    assert (first[0]["webhook-id"], first[1]) == (second[0]["webhook-id"], second[1])


async def test_it_goes_where_the_subscription_says_now(runs: HandlerRuns, server: WebhookServer) -> None:
    subscription_id = await subscribed(runs, "http://127.0.0.1:1/")
    await ended(runs)
    async with runs.database.transaction() as conn:
        await update_subscription(conn, "acme", subscription_id, SubscriptionChanges(url=server.url))
    await call(await runs.claimed(EVENT_TYPE))
    assert len(server.received) == 1


async def _pause(conn: asyncpg.Connection, subscription_id: UUID) -> None:
    await pause_subscription(conn, "acme", subscription_id)


async def _delete(conn: asyncpg.Connection, subscription_id: UUID) -> None:
    await delete_subscription(conn, "acme", subscription_id)


async def _disable(conn: asyncpg.Connection, subscription_id: UUID) -> None:
    await conn.execute(
        "UPDATE job_subscriptions SET state = 'disabled', disabled_at = now() WHERE subscription_id = $1",
        subscription_id,
    )


async def _move_away(conn: asyncpg.Connection, subscription_id: UUID) -> None:
    await conn.execute(
        "UPDATE job_subscriptions SET org_id = 'umbrella' WHERE subscription_id = $1", subscription_id
    )


async def _remove_jobs(conn: asyncpg.Connection, _subscription_id: UUID) -> None:
    await conn.execute("DELETE FROM jobs WHERE parent_job_id IS NULL")


async def _retry(conn: asyncpg.Connection, _subscription_id: UUID) -> None:
    job_id = await conn.fetchval("SELECT job_id FROM jobs WHERE parent_job_id IS NULL")
    await retry_job(conn, "acme", job_id, 3)


async def _end_again(conn: asyncpg.Connection, subscription_id: UUID) -> None:
    await conn.execute(
        "UPDATE jobs SET created_at = created_at - interval '1 s', completed_at = completed_at"
    )
    await _retry(conn, subscription_id)
    [job] = await claim_jobs(conn, await new_worker(conn), {MADE: 1}, 1)
    await fail_jobs(conn, [JobFailure(job.lease, None, "AGAIN", "", retryable=True)])


@pytest.mark.parametrize(
    ("happens", "code"),
    [
        (_pause, "SUBSCRIPTION_PAUSED"),
        (_disable, "SUBSCRIPTION_DISABLED"),
        (_delete, "SUBSCRIPTION_GONE"),
        (_move_away, "SUBSCRIPTION_GONE"),
        (_remove_jobs, "RESULT_GONE"),
        (_retry, "RESULT_GONE"),
        (_end_again, "RESULT_GONE"),
    ],
)
async def test_what_has_changed_meanwhile_sends_nothing(
    runs: HandlerRuns, server: WebhookServer, happens: Any, code: str
) -> None:
    subscription_id = await subscribed(runs, server.url)
    await ended(runs, error=("DISK_FULL", ""))
    async with runs.database.transaction() as conn:
        await happens(conn, subscription_id)
    error = await refused(runs)
    assert (error.code, error.retryable) == (code, False)
    assert server.received == []
    assert await fetch(runs.database, "SELECT FROM job_subscriptions WHERE failed_attempts > 0") == []


async def test_a_test_event_arrives(runs: HandlerRuns, server: WebhookServer) -> None:
    subscription_id = await subscribed(runs, server.url, event_types=["job.failed"])
    async with runs.database.transaction() as conn:
        job_id = await create_test_event(conn, await subscription(runs.database, subscription_id))
    context = await runs.claimed(EVENT_TYPE)
    assert context.job_id == format_id("job", job_id)
    await call(context)
    [(headers, body)] = server.received
    payload = orjson.loads(body)
    assert datetime.now(UTC) - datetime.fromisoformat(payload.pop("timestamp")) < timedelta(minutes=1)
    assert payload == {
        "type": "subscription.test",
        "data": {"org_id": "acme", "subscription_id": format_id("subscription", subscription_id)},
    }
    assert headers["webhook-signature"] == expected_signature(headers, body)


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(Backoff, "delay", lambda _self, _attempt: timedelta())


@pytest.mark.usefixtures("no_waits")
async def test_a_worker_tries_again_and_the_secret_is_nowhere(
    database: Database,
    runs: HandlerRuns,
    server: WebhookServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secret = SECRET.removeprefix(SECRET_PREFIX)
    server.answers = [(500, {}), (503, {"Retry-After": "0"})]
    subscription_id = await subscribed(runs, server.url)
    unusable = await subscribed(runs, server.url, secret=f"whsec_!{secret}")
    async with database.transaction() as conn:
        await let_fail(conn, unusable, ago=timedelta(days=2), attempts=5)
    await ended(runs)
    async with worker(
        database,
        load_handlers(["millrace_worker.handlers"]),
        tmp_path,
        webhook_allow_private=True,
        log_level="DEBUG",
    ):
        async with database.connection() as conn:
            rows = await event_jobs(conn)
        jobs = {
            orjson.loads(row["metadata"])["subscription_id"]: await finished(database, row["job_id"])
            for row in rows
        }
    delivered = jobs[format_id("subscription", subscription_id)]
    failed = jobs[format_id("subscription", unusable)]
    assert (delivered.status, delivered.attempt) == ("completed", 3)
    assert (failed.status, failed.error_code) == ("failed", "DELIVERY_UNUSABLE")
    assert (await subscription(database, unusable)).failed_attempts == 6
    texts = await fetch(
        database, "SELECT jobs::text FROM jobs UNION ALL SELECT job_attempts::text FROM job_attempts"
    )
    output = capfd.readouterr()
    assert not [text for text in [*(row[0] for row in texts), output.out, output.err] if secret in text]


def test_an_endpoint_that_is_away_for_a_night_misses_nothing() -> None:
    handler = load_handlers(["millrace_worker.handlers"]).get(EVENT_TYPE)
    assert handler is not None
    waits = [handler.backoff.delay(attempt) for attempt in range(1, handler.attempts)]
    # A job may be kept for a single day.
    assert timedelta(hours=19) < sum(waits, timedelta()) < timedelta(hours=23)

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog.testing

from millrace_database.database import Database
from millrace_database.deliveries import EVENT_TYPE, NOTICE_TYPE
from millrace_database.ids import format_id, new_id
from millrace_database.job_flow import JobCounts
from millrace_database.subscription_health import FEWEST_FAILURES, disable_failing, record_success
from millrace_database.subscriptions_repository import (
    SubscriptionChanges,
    delete_subscription,
    pause_subscription,
    resume_subscription,
    update_subscription,
)
from millrace_queue import Lease
from millrace_worker import JobError, Resources, SystemContext
from millrace_worker.context import StopSignal
from millrace_worker.delivery_settings import DeliverySettings, MailServer
from millrace_worker.system_jobs import subscriptions_monitor
from support.deliveries import SECRET
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files
from support.mail import Mailbox, mail_server
from support.queue_samples import disagreements
from support.subscriptions import add_subscription, let_fail, subscription
from support.worker_runs import fetch

_DAY = timedelta(hours=24)


async def _monitor(database: Database, folder: Path, **delivery: Any) -> JobCounts:
    """Runs the monitor once; returns how many jobs it says that it has created."""
    created: JobCounts = Counter()
    context = SystemContext(
        run_id=format_id("system", new_id()),
        type="subscriptions:monitor",
        scheduled_time=datetime.now(UTC),
        attempt=1,
        lease=Lease(new_id(), 1),
        resources=Resources(
            database,
            local_files(database, folder),
            DeliverySettings(**delivery),
            jobs_created=created.update,
        ),
        stop=StopSignal(),
    )
    await subscriptions_monitor.monitor_subscriptions(context)
    return created


async def _failing(
    database: Database, *, ago: timedelta = _DAY, attempts: int = FEWEST_FAILURES, **changes: Any
) -> UUID:
    async with database.transaction() as conn:
        subscription_id = await add_subscription(conn, **changes)
        await let_fail(conn, subscription_id, ago=ago, attempts=attempts)
    return subscription_id


async def _set_last_failure(database: Database, *, ago: timedelta) -> None:
    async with database.connection() as conn:
        await conn.execute("UPDATE job_subscriptions SET last_failure_at = now() - $1::interval", ago)


async def _told(database: Database, type_: str) -> list[tuple[str, str]]:
    """To which subscription, or of which, jobs of a type tell of which other one that it was disabled."""
    async with database.connection() as conn:
        assert await disagreements(conn) == []
    rows = await fetch(database, "SELECT input FROM jobs WHERE type = $1", type_)
    inputs = [json.loads(row["input"]) for row in rows]
    assert {input_["event"] for input_ in inputs} <= {"subscription.disabled"}
    return [(input_["subscription_id"], input_["data"]["subscription_id"]) for input_ in inputs]


async def test_one_that_has_failed_for_long_is_disabled(database: Database, tmp_path: Path) -> None:
    subscription_id = await _failing(database, description="Orders", notify_emails=["ann@acme.test"])
    before = await subscription(database, subscription_id)
    assert before.failing_since is not None
    with structlog.testing.capture_logs() as lines:
        await _monitor(database, tmp_path)
    disabled = await subscription(database, subscription_id)
    assert disabled.state == "disabled"
    assert disabled.disabled_at is not None
    assert disabled.disabled_reason == (
        f"All 10 attempts since {before.failing_since:%Y-%m-%d %H:%M} UTC have failed. "
        "The last one: WEBHOOK_FAILED: the webhook answered 500"
    )
    assert (disabled.version, disabled.failed_attempts) == (before.version, 10)
    [line] = [line for line in lines if line["event"] == "subscription disabled"]
    assert line["subscription_id"] == format_id("subscription", subscription_id)
    assert (line["org_id"], line["reason"], line["notified"]) == ("acme", disabled.disabled_reason, 1)


@pytest.mark.parametrize(
    ("ago", "attempts"), [(_DAY - timedelta(minutes=1), 1000), (_DAY * 10, FEWEST_FAILURES - 1)]
)
async def test_one_that_has_not_failed_for_long_or_often_stays(
    database: Database, tmp_path: Path, ago: timedelta, attempts: int
) -> None:
    subscription_id = await _failing(database, ago=ago, attempts=attempts)
    await _monitor(database, tmp_path)
    assert (await subscription(database, subscription_id)).state == "enabled"


async def test_one_that_is_sent_nothing_has_not_failed_meanwhile(database: Database, tmp_path: Path) -> None:
    """Whose receiver is down for an hour at night is not disabled a day later, when the next event is about to succeed."""
    subscription_id = await _failing(database, ago=_DAY + timedelta(hours=1), attempts=100)
    await _set_last_failure(database, ago=timedelta(hours=2))
    await _monitor(database, tmp_path)
    assert (await subscription(database, subscription_id)).state == "enabled"
    await _set_last_failure(database, ago=timedelta(minutes=30))
    await _monitor(database, tmp_path)
    assert (await subscription(database, subscription_id)).state == "disabled"


async def test_operators_say_how_long(database: Database, tmp_path: Path) -> None:
    subscription_id = await _failing(database, ago=timedelta(hours=2))
    await _monitor(database, tmp_path, subscription_failing=timedelta(hours=3))
    assert (await subscription(database, subscription_id)).state == "enabled"
    await _monitor(database, tmp_path, subscription_failing=timedelta(hours=1))
    assert (await subscription(database, subscription_id)).state == "disabled"


async def test_one_that_has_recovered_or_is_switched_off_stays(database: Database, tmp_path: Path) -> None:
    recovered, paused, resumed = [await _failing(database) for _ in range(3)]
    async with database.transaction() as conn:
        await record_success(conn, recovered)
        await pause_subscription(conn, "acme", paused)
        await pause_subscription(conn, "acme", resumed)
        await resume_subscription(conn, "acme", resumed)
    await _monitor(database, tmp_path)
    states = [(await subscription(database, one)).state for one in (recovered, paused, resumed)]
    assert states == ["enabled", "paused", "enabled"]


async def test_one_that_has_another_url_gets_its_chances(database: Database, tmp_path: Path) -> None:
    moved, renamed = await _failing(database), await _failing(database)
    same_url = (await subscription(database, renamed)).url
    async with database.transaction() as conn:
        await update_subscription(conn, "acme", moved, SubscriptionChanges(url="https://new.example.com/"))
        await update_subscription(
            conn, "acme", renamed, SubscriptionChanges(url=same_url, description="Orders")
        )
    await _monitor(database, tmp_path)
    fresh = await subscription(database, moved)
    assert (fresh.state, fresh.failing_since, fresh.failed_attempts) == ("enabled", None, 0)
    assert (fresh.last_error, fresh.last_failure_at) == ("", None)
    assert (await subscription(database, renamed)).state == "disabled"


async def test_one_that_recovers_just_now_stays(database: Database, tmp_path: Path) -> None:
    """The monitor does not wait for it, and the next time it is well."""
    recovering, failing = await _failing(database), await _failing(database)
    async with database.transaction() as conn:
        await record_success(conn, recovering)
        await _monitor(database, tmp_path)
    await _monitor(database, tmp_path)
    assert (await subscription(database, recovering)).state == "enabled"
    assert (await subscription(database, failing)).state == "disabled"


async def test_the_others_of_the_organisation_are_told(database: Database, tmp_path: Path) -> None:
    async with database.transaction() as conn:
        listening = await add_subscription(conn, event_types=["subscription.disabled"], job_types=["a:b"])
        await add_subscription(conn, event_types=["job.completed"])
        await add_subscription(conn, org_id="umbrella")
        off = await add_subscription(conn)
        await pause_subscription(conn, "acme", off)
    failing = {await _failing(database) for _ in range(2)}
    quiet = await _failing(database, org_id="quiet", notify_emails=["q@quiet.test"])
    created = await _monitor(database, tmp_path)
    assert created == {(EVENT_TYPE, "acme"): len(failing), (NOTICE_TYPE, "quiet"): 1}

    def shown(subscription_id: UUID) -> str:
        return format_id("subscription", subscription_id)

    assert set(await _told(database, EVENT_TYPE)) == {(shown(listening), shown(one)) for one in failing}
    assert await _told(database, NOTICE_TYPE) == [(shown(quiet), shown(quiet))]
    await _monitor(database, tmp_path)
    assert len(await _told(database, EVENT_TYPE)) == len(failing)


async def test_nothing_is_told_when_the_transaction_ends_otherwise(database: Database) -> None:
    subscription_id = await _failing(database, notify_emails=["ann@acme.test"])
    async with database.connection() as conn:
        cut_short = conn.transaction()
        await cut_short.start()
        disabled, created = await disable_failing(conn, _DAY, limit=10)
        assert ([one.subscription_id for one in disabled], created) == (
            [subscription_id],
            {(NOTICE_TYPE, "acme"): 1},
        )
        await cut_short.rollback()
    assert (await subscription(database, subscription_id)).state == "enabled"
    assert await fetch(database, "SELECT FROM jobs") == []


async def test_two_at_once_disable_each_one_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions_monitor, "_BATCH", 3)
    failing = [
        await _failing(database, org_id=f"org-{number}", notify_emails=["ann@acme.test"])
        for number in range(10)
    ]
    await asyncio.gather(*(_monitor(database, tmp_path) for _ in range(3)))
    await _monitor(database, tmp_path)
    told = await _told(database, NOTICE_TYPE)
    assert sorted(told) == sorted((format_id("subscription", one),) * 2 for one in failing)


async def test_no_secret_is_told(database: Database, tmp_path: Path) -> None:
    url = "https://ann:pass-word@hooks.example.com:8443/key-in-path?key=in-query"
    await _failing(database, url=url, notify_emails=["ann@acme.test"])
    async with database.transaction() as conn:
        await add_subscription(conn)
    with structlog.testing.capture_logs() as lines:
        await _monitor(database, tmp_path)
    rows = await fetch(database, "SELECT input, jobs::text AS row FROM jobs")
    assert len(rows) == 2
    assert {json.loads(row["input"])["data"]["endpoint"] for row in rows} == {
        "https://hooks.example.com:8443"
    }
    hidden = ("pass-word", "key-in-path", "in-query", SECRET.removeprefix("whsec_"), "ann@acme.test")
    texts = [*(row["row"] for row in rows), str(lines)]
    assert not [text for text in texts if any(secret in text for secret in hidden)]


async def test_people_are_written_to(database: Database, tmp_path: Path) -> None:
    subscription_id = await _failing(
        database, description="Orders\r\nBcc: eve@evil.test", notify_emails=["ann@acme.test", "bob@acme.test"]
    )
    await _monitor(database, tmp_path)
    mailbox = Mailbox(refusals={"bob@acme.test": "550 Who is that?"})
    async with mail_server(mailbox) as port:
        server = MailServer("127.0.0.1", port, sender="Millrace <reports@acme.test>", tls="none")
        runs = HandlerRuns(database, local_files(database, tmp_path), delivery=DeliverySettings(server))
        context = await runs.claimed(NOTICE_TYPE)
        output = await call(context)
    assert (output.recipients, output.refused) == (1, ["bob@acme.test"])
    message = mailbox.message()
    assert message["Subject"] == "Disabled: the subscription of https://hooks.example.com"
    assert message["To"] == "ann@acme.test, bob@acme.test"
    assert message["Message-ID"] == f"<{context.job_id}@acme.test>"
    assert message["Bcc"] is None
    body = message.get_body(("plain",))
    assert body is not None
    text = str(body.get_content())
    disabled = await subscription(database, subscription_id)
    for told in (format_id("subscription", subscription_id), "Orders", disabled.disabled_reason):
        assert told in text
    assert "key-in-path" not in text


@pytest.mark.parametrize("case", ["NO_MAIL_SERVER", "NO_RECIPIENTS", "SUBSCRIPTION_GONE"])
async def test_a_notice_that_cannot_be_sent_says_why(database: Database, tmp_path: Path, case: str) -> None:
    subscription_id = await _failing(database, notify_emails=["ann@acme.test"])
    await _monitor(database, tmp_path)
    async with database.transaction() as conn:
        if case == "NO_RECIPIENTS":
            await update_subscription(conn, "acme", subscription_id, SubscriptionChanges(notify_emails=()))
        elif case == "SUBSCRIPTION_GONE":
            await delete_subscription(conn, "acme", subscription_id)
    server = None if case == "NO_MAIL_SERVER" else MailServer("127.0.0.1", 1)
    runs = HandlerRuns(database, local_files(database, tmp_path), delivery=DeliverySettings(server))
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(NOTICE_TYPE))
    assert (raised.value.code, raised.value.retryable) == (case, False)

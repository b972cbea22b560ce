"""Events from the end of a job to the endpoint of a subscription, through the real services."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from millrace_client import Millrace, SubscriptionState
from millrace_database.database import Database
from millrace_database.ids import parse_id
from millrace_jobs.service import definition as jobs_service
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from millrace_scheduler.service import definition as scheduler_service
from millrace_worker import JobContext, JobError, Registry
from millrace_worker.registry import load_handlers
from millrace_worker.service import worker_service
from support.deliveries import SECRET, WebhookServer, expected_signature, webhook_server
from support.subscriptions import let_fail, subscription
from support.system_runs import ended, schedule
from support.worker_runs import eventually, fetched

_BUILT_IN = ("millrace_worker.handlers", "millrace_worker.system_jobs")
_ALL = ["job.completed", "job.failed", "job.cancelled", "subscription.disabled"]


def _toys() -> Registry:
    """Jobs that end as they are told."""
    registry = Registry()

    @registry.job_handler("toy:end")
    async def end(context: JobContext[dict[str, str]]) -> dict[str, int]:
        if context.input.get("how") == "fail":
            raise JobError("OUT_OF_STOCK", "none left")
        if context.input.get("how") == "wait":
            await context.update_progress(1)
            await asyncio.Event().wait()
        return {"rows": 3}

    return registry


@asynccontextmanager
async def _client(database: Database, folder: Path) -> AsyncIterator[Millrace]:
    settings = Settings(
        jobs_port=0,
        scheduler_port=0,
        worker_port=0,
        files_port=0,
        data_dir=folder,
        shutdown_grace_seconds=3,
        webhook_allow_private=True,
    )
    async with running(jobs_service, settings, database) as jobs:
        settings = settings.model_copy(update={"jobs_address": jobs.address})
        async with (
            running(scheduler_service, settings, database) as scheduler,
            running(worker_service(_toys()), settings, database) as worker,
            running(worker_service(load_handlers(_BUILT_IN)), settings, database),
            Millrace(
                jobs.address, scheduler=scheduler.address, worker=worker.address, org_id="acme"
            ) as client,
        ):
            yield client


async def _received(server: WebhookServer, count: int) -> dict[str, dict[str, Any]]:
    """What has arrived, by the id of its job or subscription, once it is as much as that; its signatures are right."""
    await eventually(lambda: len(server.received) >= count)
    assert len(server.received) == count
    found = {}
    for headers, body in server.received:
        assert headers["webhook-signature"] == expected_signature(headers, body)
        payload = orjson.loads(body)
        found[payload["data"].get("job_id", payload["type"])] = payload
    return found


async def test_the_events_of_jobs_arrive(database: Database, tmp_path: Path) -> None:
    async with webhook_server() as server, _client(database, tmp_path) as client:
        made = await client.subscriptions.create(server.url, _ALL, job_types=["toy:end"], secret=SECRET)
        completed = await client.jobs.create("toy:end")
        failed = await client.jobs.create("toy:end", {"how": "fail"})
        stopped = await client.jobs.create("toy:end", {"how": "wait"})
        waiting = await client.jobs.create("toy:end", delay=timedelta(hours=1))
        others = await client.jobs.create("reports:generate", {"rows": [{"a": 1}], "format": "csv"})
        await client.jobs.cancel(waiting.job_id)
        async for job in client.jobs.watch(stopped.job_id):
            if job.progress:
                await client.jobs.cancel(stopped.job_id)
                break
        await client.jobs.wait(others.job_id)
        test = await client.subscriptions.test(made.subscription_id)
        events = await _received(server, 5)

        def told(job_id: str) -> object:
            return events[job_id]["type"]

        assert told(completed.job_id) == "job.completed"
        assert told(failed.job_id) == "job.failed"
        assert told(stopped.job_id) == told(waiting.job_id) == "job.cancelled"
        assert "subscription.test" in events

        delivered = [
            job
            async for job in client.jobs.list(
                types=["deliveries:event"], metadata={"subscription_id": made.subscription_id}
            )
        ]
        assert {job.parent_job_id for job in delivered if job.job_id != test} == events.keys() - {
            "subscription.test"
        }
        assert test in {job.job_id for job in delivered}
        assert {headers["webhook-id"] for headers, _ in server.received} == {job.job_id for job in delivered}
        healthy = await client.subscriptions.get(made.subscription_id)
    assert healthy.last_success_at is not None
    assert healthy.failing_since is None


async def test_the_monitor_disables_what_keeps_failing(database: Database, tmp_path: Path) -> None:
    async with webhook_server() as server, _client(database, tmp_path) as client:
        failing = await client.subscriptions.create(
            server.url, ["job.completed"], notify_emails=["ann@acme.test"]
        )
        await client.subscriptions.create(server.url, ["subscription.disabled"], secret=SECRET)
        async with database.transaction() as conn:
            failing_id = parse_id("subscription", failing.subscription_id)
            await let_fail(conn, failing_id, ago=timedelta(days=2))
        listed = await schedule(database, "subscriptions:monitor", lambda row: row["next_run_at"] is not None)
        assert listed["cron"] == "*/5 * * * *"
        await client.system_schedules.run("subscriptions:monitor")
        assert (await ended(database, "subscriptions:monitor"))["last_outcome"] == "completed"
        disabled = await client.subscriptions.get(failing.subscription_id)
        assert disabled.state is SubscriptionState.DISABLED
        events = await _received(server, 1)
        assert events["subscription.disabled"]["data"]["reason"] == disabled.disabled_reason
        # There is no mail server.
        await fetched(
            database,
            "SELECT FROM jobs WHERE type = 'deliveries:notice' AND error_code = 'NO_MAIL_SERVER'",
            len,
        )
        again = await client.subscriptions.resume(failing.subscription_id)
    assert again.state is SubscriptionState.ENABLED
    assert (await subscription(database, failing_id)).failed_attempts == 0

"""Workers that are killed while they end jobs and post their events: each end has one event, and each event arrives."""

import asyncio
from collections import Counter
from pathlib import Path

import orjson

from millrace_client import JobStatus, Millrace, NewJob
from millrace_database.database import Database
from support.deliveries import SECRET, WebhookServer, webhook_server
from support.polling import eventually
from support.processes import stack
from support.worker_runs import fetch

_JOBS = 200
_KILLED_AFTER = (20, 120)
"""So many events have arrived when the worker is killed."""
_AT_ONCE = 10
"""So many events are posted to a subscription at once."""


async def _have_arrived(server: WebhookServer, count: int) -> None:
    async def arrived() -> bool:
        return len({headers["webhook-id"] for headers, _ in server.received}) >= count

    await eventually(arrived, within=60)


async def test_each_end_has_one_event_and_each_event_arrives(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    settings = {
        "MILLRACE_LEASE_SECONDS": "4",
        "MILLRACE_HEARTBEAT_SECONDS": "1",
        "MILLRACE_WEBHOOK_ALLOW_PRIVATE": "1",
    }
    async with (
        webhook_server() as server,
        stack(database_url, tmp_path, names=("jobs", "worker"), settings=settings) as services,
        Millrace(services.jobs.address, org_id="acme") as client,
    ):
        await client.subscriptions.create(server.url, ["job.completed", "job.failed"], secret=SECRET)
        report = {"rows": [{"a": 1}], "format": "csv"}
        jobs = await client.jobs.create_many([NewJob("reports:generate", report) for _ in range(_JOBS)])
        for count in _KILLED_AFTER:
            await _have_arrived(server, count)
            await services.worker.kill()
            await services.worker.start()
        async with asyncio.timeout(90):
            ended = [await client.jobs.wait(job.job_id) for job in jobs]
            await _have_arrived(server, _JOBS)

    assert {job.status for job in ended} == {JobStatus.COMPLETED}
    events = await fetch(database, "SELECT job_id, parent_job_id FROM jobs WHERE type = 'deliveries:event'")
    assert len({event["parent_job_id"] for event in events}) == len(events) == _JOBS
    bodies = {headers["webhook-id"]: body for headers, body in server.received}
    assert all(bodies[headers["webhook-id"]] == body for headers, body in server.received)
    assert {orjson.loads(body)["data"]["job_id"] for body in bodies.values()} == {job.job_id for job in ended}
    repeated = Counter(headers["webhook-id"] for headers, _ in server.received)
    # Those that were under way when a worker was killed, and that it had not written down.
    assert sum(repeated.values()) - len(repeated) <= 2 * _AT_ONCE * len(_KILLED_AFTER)

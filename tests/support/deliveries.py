"""Schedules that deliver, jobs that have ended for them, and a web server to deliver to."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web

from millrace_database.ids import format_id, new_id
from millrace_database.job_lifecycle import (
    ClaimedJob,
    JobFailure,
    claim_jobs,
    complete_jobs,
    create_jobs,
    fail_jobs,
)
from millrace_database.job_options import JobOptions
from support.queue_samples import new_worker, sample_job

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
SCHEDULED_TIME = "2026-03-29T01:00:00Z"
MADE = "reports:made"


async def add_schedule(
    conn: asyncpg.Connection,
    delivery: Mapping[str, Any] | None,
    *,
    name: str = "Sales of the day",
    org_id: str = "acme",
) -> UUID:
    """A schedule that fires no more."""
    schedule_id = new_id()
    await conn.execute(
        "INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, delivery)"
        " VALUES ($1, $2, $3, $4, '{}', 'UTC', $5::jsonb)",
        schedule_id,
        org_id,
        name,
        MADE,
        None if delivery is None else orjson.dumps(delivery).decode(),
    )
    return schedule_id


async def start_job(
    conn: asyncpg.Connection, schedule_id: UUID | None, *, delivers: bool = True, **changes: Any
) -> ClaimedJob:
    """A job of a schedule that runs."""
    job = sample_job(
        type=MADE,
        schedule_id=schedule_id,
        metadata_json=orjson.dumps({"scheduled_time": SCHEDULED_TIME}).decode(),
        **{"options": JobOptions(delivers=True) if delivers else None, **changes},
    )
    await create_jobs(conn, [job])
    (claimed,) = await claim_jobs(conn, await new_worker(conn), {MADE: 1}, 1)
    return claimed


async def end_job(
    conn: asyncpg.Connection,
    delivery: Mapping[str, Any],
    output: Mapping[str, Any] | None = None,
    *,
    error: tuple[str, str] | None = None,
    **schedule: Any,
) -> str:
    """A job of a new schedule that has completed with an output, or failed for good with an error; its id."""
    job = await start_job(conn, await add_schedule(conn, delivery, **schedule))
    if error:
        await fail_jobs(conn, [JobFailure(job.lease, None, *error, retryable=False)])
    else:
        await complete_jobs(conn, [(job.lease, orjson.dumps(output or {}).decode())])
    return format_id("job", job.claim.id)


def expected_signature(headers: Mapping[str, str], body: bytes) -> str:
    """What webhook-signature has to be, worked out as the specification says."""
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    return "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()


@dataclass
class WebhookServer:
    """Keeps what is posted; answers with the statuses it is given, one after the other, and then with 200."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append((headers, await request.read()))
        status, extra = self.answers.pop(0) if self.answers else (200, {})
        return web.Response(status=status, headers=extra, text="x" * 100_000)


@asynccontextmanager
async def webhook_server() -> AsyncIterator[WebhookServer]:
    """A web server on any free port of this machine."""
    server = WebhookServer()
    application = web.Application(client_max_size=4 * 2**20)
    application.router.add_post("/{rest:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}/hooks/sales?for=acme"
        yield server
    finally:
        await runner.cleanup()

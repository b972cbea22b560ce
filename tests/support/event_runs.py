"""Jobs that have ended for subscriptions, and the deliveries of their events."""

from typing import Any
from uuid import UUID

import orjson
import pytest

from millrace_database.deliveries import EVENT_TYPE
from millrace_database.ids import format_id
from millrace_database.job_lifecycle import JobFailure, complete_jobs, fail_jobs
from millrace_worker import JobError
from support.deliveries import start_job
from support.handler_runs import HandlerRuns, call
from support.subscriptions import add_subscription


async def subscribed(runs: HandlerRuns, url: str, **changes: Any) -> UUID:
    """A subscription of acme to all events of all jobs, unless told otherwise."""
    async with runs.database.transaction() as conn:
        return await add_subscription(conn, url=url, **changes)


async def ended(runs: HandlerRuns, output: Any = None, *, error: tuple[str, str] | None = None) -> str:
    """The id of a job that has completed, or failed for good."""
    async with runs.database.transaction() as conn:
        job = await start_job(conn, None, delivers=False)
    async with runs.database.transaction() as conn:
        if error:
            await fail_jobs(conn, [JobFailure(job.lease, None, *error, retryable=True)])
        else:
            await complete_jobs(conn, [(job.lease, orjson.dumps(output or {}).decode())])
    return format_id("job", job.claim.id)


async def refused(runs: HandlerRuns) -> JobError:
    """How the delivery of the next event fails."""
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(EVENT_TYPE))
    return raised.value

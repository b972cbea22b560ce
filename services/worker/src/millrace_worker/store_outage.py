"""How jobs wait for an object store that is away."""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from millrace_database.job_changes import JobFailure
from millrace_database.spared_attempts import SparedAttempts, read_spared_attempts
from millrace_queue import Claim
from millrace_worker.backoff import Backoff
from millrace_worker.outcome import Failed
from millrace_worker.store_failures import STORE_UNAVAILABLE

OUTAGE_WAITS = Backoff(base=timedelta(seconds=5), cap=timedelta(minutes=5))
"""How long a job waits at least, after attempts in a row that met a store that is away: an outage takes as long as it takes."""

PATIENCE = timedelta(minutes=15)
"""So long after the first such attempt in a row none counts. The first one after that does: a job is not tried for ever."""


async def job_failures(
    connection: asyncpg.Connection, failures: Sequence[tuple[Claim, Failed]]
) -> list[JobFailure]:
    """Return what to write of attempts that failed; of those that are spared it depends on the ones before."""
    spared = [claim.id for claim, failed in failures if failed.is_spared]
    before = await read_spared_attempts(connection, spared, STORE_UNAVAILABLE) if spared else {}
    return [_job_failure(claim, failed, before.get(claim.id)) for claim, failed in failures]


def _job_failure(claim: Claim, failed: Failed, before: SparedAttempts | None) -> JobFailure:
    delay = failed.retry_delay
    if before is not None and delay is not None:
        delay = max(delay, OUTAGE_WAITS.delay(claim.attempt + before.count))
    return JobFailure(
        claim.lease,
        retry_delay=delay,
        code=failed.code,
        message=failed.message,
        retryable=failed.retryable,
        timed_out=failed.timed_out,
        counts=not failed.is_spared or (before is not None and before.since >= PATIENCE),
    )

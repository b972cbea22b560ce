from collections.abc import Mapping
from uuid import UUID

import asyncpg
import orjson
import structlog

import millrace_queue
from millrace_database.ids import format_id
from millrace_database.job_changes import ClaimedJob
from millrace_database.system_schedules_repository import SYSTEM_TENANT, find_runs
from millrace_queue import ClaimGates

_log = structlog.get_logger(__name__)


async def claim_system_runs(
    conn: asyncpg.Connection,
    worker_id: UUID,
    capacity: Mapping[str, int],
    limit: int,
    *,
    gates: ClaimGates | None = None,
) -> list[ClaimedJob]:
    """Claim runs of system schedules for a registered worker, as `job_lifecycle.claim_jobs` claims jobs.

    There is no job; what the run's function gets of it is the time it runs for, as "scheduled_time" of the metadata.
    """
    async with millrace_queue.in_transaction(conn):
        claims = await millrace_queue.claim(conn, worker_id, capacity, limit, gates=gates)
        if not claims:
            return []
        times = await find_runs(conn, [claim.id for claim in claims])
        strays = [claim.lease for claim in claims if claim.id not in times]
        if strays:
            _log.warning(
                "system runs of no schedule were dropped",
                run_ids=[format_id("system", lease.id) for lease in strays],
            )
            await millrace_queue.complete(conn, strays)
    return [
        ClaimedJob(
            claim,
            org_id=SYSTEM_TENANT,
            input_json="{}",
            metadata_json=orjson.dumps({"scheduled_time": times[claim.id]}).decode(),
            created_by="",
        )
        for claim in claims
        if claim.id in times
    ]

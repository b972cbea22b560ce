"""Backfills: the jobs of a schedule's past times that have none yet."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from google.rpc import status_pb2

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database.database import Database
from millrace_database.ids import parse_id
from millrace_database.schedule_runs_repository import RunRecord, fired_at, record_fired_runs
from millrace_database.schedules_repository import ScheduleRecord
from millrace_scheduler.fire_times import Timing, upcoming
from millrace_scheduler.jobs_client import JobsClient, firing_request_id, job_request
from millrace_scheduler.upstream_errors import passed_on_status

MOST_TIMES = 1_000
"""How many times one backfill may have."""

_MOST_BYTES = 3 * 1024 * 1024
# What a request holds beside input and metadata.
_BYTES_BESIDE = 1024
_MICROSECOND = timedelta(microseconds=1)


def times_between(timing: Timing, start: datetime, end: datetime) -> list[datetime]:
    """Return the scheduled times from `start` to `end`, both included; no more than one beyond MOST_TIMES."""
    times: list[datetime] = []
    for fire in upcoming(timing, start - _MICROSECOND, MOST_TIMES + 1):
        if fire.scheduled > end:
            break
        times.append(fire.scheduled)
    return times


async def backfill(
    database: Database,
    jobs: JobsClient,
    schedule: ScheduleRecord,
    times: Sequence[datetime],
    *,
    deadline_seconds: float,
) -> tuple[list[RunRecord], int]:
    """Create the jobs of these times that have none; return all times with their jobs, and how many were created.

    A time that was fired keeps its job, also one that is not kept any more. What was created before an error stays,
    and is found when this is repeated.

    Raises ApiError as the Jobs service refuses a job, AioRpcError when it cannot be reached.
    """
    until = time.monotonic() + deadline_seconds
    async with database.connection() as connection:
        fired = await fired_at(connection, schedule.schedule_id, times)
    created = 0
    for part in _parts(schedule, [at for at in times if at not in fired]):
        requests = [job_request(schedule, at, firing_request_id(schedule.schedule_id, at)) for at in part]
        results = await jobs.create_jobs(
            schedule.org_id, requests, deadline_seconds=max(until - time.monotonic(), 0.0)
        )
        await _record(database, schedule.schedule_id, part, results)
        created += sum(bool(result.job_id) and not result.already_existed for result in results)
        _raise_first(result.error for result in results if result.HasField("error"))
    async with database.connection() as connection:
        fired = await fired_at(connection, schedule.schedule_id, times)
    return [fired[at] for at in times if at in fired], created


async def _record(
    database: Database,
    schedule_id: UUID,
    times: Sequence[datetime],
    results: Sequence[jobs_service_pb2.BatchCreateJobsResult],
) -> None:
    created = {
        at: parse_id("job", result.job_id) for at, result in zip(times, results, strict=True) if result.job_id
    }
    async with database.connection() as connection:
        await record_fired_runs(connection, schedule_id, "backfill", created)


def _parts(schedule: ScheduleRecord, times: Sequence[datetime]) -> Iterator[Sequence[datetime]]:
    """Divide the times so that the jobs of each part fit into a message."""
    size = len(schedule.input_json.encode()) + len(schedule.metadata_json.encode()) + _BYTES_BESIDE
    most = max(_MOST_BYTES // size, 1)
    for first in range(0, len(times), most):
        yield times[first : first + most]


def _raise_first(errors: Iterator[status_pb2.Status]) -> None:
    for error in errors:
        raise passed_on_status(error)

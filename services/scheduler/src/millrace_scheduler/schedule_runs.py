"""What became of a schedule's times, as callers see it, page by page."""

from datetime import datetime
from uuid import UUID

import asyncpg

from millrace.jobs.v1 import job_pb2
from millrace.scheduler.v1 import schedule_run_pb2, scheduler_service_pb2
from millrace_database.ids import format_id
from millrace_database.schedule_runs_repository import RunRecord, list_runs
from millrace_runtime.errors import InvalidArgument
from millrace_runtime.paging import decode_page_token, encode_page_token
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_scheduler.schedule_words import job_status, run_cause, run_outcome

# gRPC clients accept messages of 4 MiB by default. A page ends before it grows larger.
_MAX_PAGE_BYTES = 3 * 1024 * 1024
_MISSED = "no scheduler, or no Jobs service, was there in time"


def run_message(record: RunRecord) -> schedule_run_pb2.ScheduleRun:
    """Return what became of a time as callers see it."""
    return schedule_run_pb2.ScheduleRun(
        scheduled_time=datetime_to_timestamp(record.scheduled_time),
        cause=run_cause(record.cause),
        outcome=run_outcome(record.outcome),
        recorded_at=datetime_to_timestamp(record.recorded_at),
        job_id="" if record.job_id is None else format_id("job", record.job_id),
        job_status=job_status(record.job_status),
        job_error=_error(record),
        reason=_MISSED if record.outcome == "missed" else record.reason,
    )


async def read_runs(
    conn: asyncpg.Connection, org_id: str, schedule_id: UUID, page_size: int, page_token: str
) -> scheduler_service_pb2.ListScheduleRunsResponse:
    """Return the page of a schedule's runs that `page_token` stands for, the latest first.

    It holds fewer runs than asked for when the errors of their jobs are long.

    Raises InvalidArgument on `page_token`.
    """
    bound_to = {"org_id": org_id, "schedule_id": str(schedule_id)}
    records = await list_runs(
        conn, schedule_id, _last(decode_page_token(page_token, bound_to)), page_size + 1
    )
    response = scheduler_service_pb2.ListScheduleRunsResponse()
    size = 0
    for number, record in enumerate(records):
        run = run_message(record)
        size += run.ByteSize()
        if number == page_size or (number and size > _MAX_PAGE_BYTES):
            last = records[number - 1]
            response.next_page_token = encode_page_token(
                [last.scheduled_time.isoformat(), last.cause], bound_to
            )
            break
        response.runs.append(run)
    return response


def _last(keys: list[str | int] | None) -> tuple[datetime, str] | None:
    match keys:
        case None:
            return None
        case [str(time), str(cause)]:
            return datetime.fromisoformat(time), cause
        case _:
            raise InvalidArgument([("page_token", "is not a token of a previous page with the same filters")])


def _error(record: RunRecord) -> job_pb2.JobError | None:
    if record.job_status != "failed" or record.error_code is None:
        return None
    return job_pb2.JobError(
        code=record.error_code,
        message=record.error_message or "",
        retryable=bool(record.error_retryable),
    )

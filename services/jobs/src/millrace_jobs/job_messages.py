from datetime import datetime

from google.protobuf.duration_pb2 import Duration

from millrace.jobs.v1 import job_pb2
from millrace_database.ids import format_id
from millrace_database.job_types_repository import JobTypeRecord
from millrace_database.jobs_repository import JobRecord
from millrace_runtime.struct_json import datetime_to_timestamp, json_to_struct

_STATUSES = {
    "pending": job_pb2.JOB_STATUS_PENDING,
    "processing": job_pb2.JOB_STATUS_PROCESSING,
    "cancelling": job_pb2.JOB_STATUS_CANCELLING,
    "completed": job_pb2.JOB_STATUS_COMPLETED,
    "failed": job_pb2.JOB_STATUS_FAILED,
    "cancelled": job_pb2.JOB_STATUS_CANCELLED,
}
_WORDS = {status: word for word, status in _STATUSES.items()}


def job_message(record: JobRecord) -> job_pb2.Job:
    """Return a job as callers see it."""
    job = job_pb2.Job(
        job_id=format_id("job", record.job_id),
        org_id=record.org_id,
        type=record.type,
        status=_STATUSES[record.status],
        progress=record.progress,
        message=record.message,
        total_items=record.total_items,
        processed_items=record.processed_items,
        input=json_to_struct(record.input_json),
        output=None if record.output_json is None else json_to_struct(record.output_json),
        metadata=json_to_struct(record.metadata_json),
        error=_error(record),
        created_by=record.created_by,
        created_at=datetime_to_timestamp(record.created_at),
        run_at=datetime_to_timestamp(record.run_at),
        attempt=record.attempt,
        max_attempts=record.max_attempts,
        priority=record.priority,
        schedule_id="" if record.schedule_id is None else format_id("schedule", record.schedule_id),
    )
    for field, time in (
        (job.started_at, record.started_at),
        (job.completed_at, record.completed_at),
        (job.estimated_completion, _estimated_completion(record)),
    ):
        if time is not None:
            field.CopyFrom(datetime_to_timestamp(time))
    return job


def job_type_message(record: JobTypeRecord) -> job_pb2.JobType:
    """Return a job type as callers see it."""
    timeout = Duration()
    timeout.FromTimedelta(record.timeout)
    return job_pb2.JobType(
        type=record.type,
        label=record.label,
        description=record.description,
        input_schema=json_to_struct(record.input_schema_json),
        max_attempts=record.max_attempts,
        timeout=timeout,
        concurrency=record.concurrency,
        active_workers=record.active_workers,
    )


def status_word(status: job_pb2.JobStatus.ValueType) -> str | None:
    """Return the word that the database has for a status; None for one that no job can have."""
    return _WORDS.get(status)


def _error(record: JobRecord) -> job_pb2.JobError | None:
    if record.error_code is None:
        return None
    return job_pb2.JobError(
        code=record.error_code,
        message=record.error_message or "",
        retryable=bool(record.error_retryable),
    )


def _estimated_completion(record: JobRecord) -> datetime | None:
    """Return when the attempt is done if it goes on at the pace it had until the record was read."""
    done = _share_done(record)
    if record.status != "processing" or record.started_at is None or not done:
        return None
    try:
        return record.started_at + (record.read_at - record.started_at) / done
    except OverflowError:
        return None


def _share_done(record: JobRecord) -> float:
    """Return the share of the work that is done, 0 to 1: by the items, which are finer than percents, if known."""
    if record.total_items and record.processed_items:
        return min(record.processed_items / record.total_items, 1.0)
    return record.progress / 100

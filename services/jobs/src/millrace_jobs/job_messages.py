from datetime import datetime
from uuid import UUID

from millrace.jobs.v1 import job_pb2
from millrace_database.ids import format_id
from millrace_database.job_options import JobOptions, TypeOptions
from millrace_database.job_type_limits import effective_limits
from millrace_database.job_types_repository import JobTypeRecord
from millrace_database.jobs_repository import JobRecord
from millrace_database.retention import effective_retention
from millrace_jobs.job_option_messages import add_options, retention, retry_policy
from millrace_jobs.limit_messages import type_limits_message
from millrace_runtime.struct_json import datetime_to_timestamp, json_to_struct, timedelta_to_duration

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
        schedule_id=_id("schedule", record.schedule_id),
        parent_job_id=_id("job", record.parent_job_id),
        worker_id=_id("worker", record.worker_id),
    )
    if record.options_json is not None:
        add_options(job, JobOptions.from_json(record.options_json))
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
    options = TypeOptions.from_json(record.options_json)
    overrides = TypeOptions.from_json(record.overrides_json)
    return job_pb2.JobType(
        type=record.type,
        label=record.label,
        description=record.description,
        input_schema=json_to_struct(record.input_schema_json),
        max_attempts=record.max_attempts,
        timeout=timedelta_to_duration(record.timeout),
        concurrency=record.concurrency,
        active_workers=record.active_workers,
        paused=record.paused,
        limits=type_limits_message(effective_limits(options, overrides)),
        retry_policy=None if options.retry is None else retry_policy(options.retry),
        dead_letter_type=options.dead_letter_type or "",
        retention=retention(effective_retention(options, overrides)),
    )


def status_word(status: job_pb2.JobStatus.ValueType) -> str | None:
    """Return the word that the database has for a status; None for one that no job can have."""
    return _WORDS.get(status)


def _id(kind: str, id_: UUID | None) -> str:
    return "" if id_ is None else format_id(kind, id_)


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

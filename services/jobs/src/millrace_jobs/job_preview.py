"""A job as it would be if it were created."""

from datetime import UTC, datetime

from millrace.jobs.v1 import job_pb2
from millrace_database.job_lifecycle import CreatedJob, NewJob
from millrace_jobs.job_messages import job_message
from millrace_jobs.job_writer import WrittenJob

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def job_preview(job: NewJob) -> job_pb2.Job:
    """Return a job that was checked and not created: it has no id and no times but those that were asked for."""
    created = CreatedJob(job.job_id, created_at=_ANY_TIME, run_at=job.run_at or _ANY_TIME)
    preview = job_message(WrittenJob(job, created, None).record())
    preview.ClearField("job_id")
    preview.ClearField("created_at")
    if job.run_at is None:
        preview.ClearField("run_at")
    return preview

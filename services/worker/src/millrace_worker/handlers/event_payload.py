"""What is posted of an event."""

from datetime import datetime
from typing import Any

import orjson

from millrace_database.files_repository import FileRecord
from millrace_database.ids import format_id
from millrace_database.subscription_events import EndedJob
from millrace_worker.handlers.output_file import file_fields


def event_payload(event: str, timestamp: datetime | str | None, data: dict[str, Any]) -> dict[str, Any]:
    """Return an event in the form of Standard Webhooks; the same with each attempt."""
    return {"type": event, "timestamp": timestamp, "data": data}


def job_data(job: EndedJob, file: FileRecord | None, link: str) -> dict[str, Any]:
    """Return what an event tells of the job that has ended; `file` is what its output names."""
    return {
        "org_id": job.org_id,
        "job_id": format_id("job", job.job_id),
        "type": job.type,
        "status": job.status,
        # As they are stored: numbers of any size keep all their digits.
        "output": orjson.Fragment(job.output_json or "{}") if job.status == "completed" else None,
        "error": _error(job),
        "metadata": orjson.Fragment(job.metadata_json),
        "created_by": job.created_by,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "attempt": job.attempt,
        "schedule_id": job.schedule_id and format_id("schedule", job.schedule_id),
        "file": file_fields(file, link),
    }


def _error(job: EndedJob) -> dict[str, Any] | None:
    if job.status != "failed":
        return None
    return {
        "code": job.error_code or "",
        "message": job.error_message or "",
        "retryable": bool(job.error_retryable),
    }

"""Files as callers see them."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from millrace.files.v1 import file_pb2
from millrace_database.ids import format_id
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_storage import FileRecord, FileUsage, OpenUpload, Upload

STATE_WORDS = {
    file_pb2.FILE_STATE_TEMPORARY: "temporary",
    file_pb2.FILE_STATE_PERSISTENT: "persistent",
    file_pb2.FILE_STATE_WITH_JOB: "with_job",
    file_pb2.FILE_STATE_DELETED: "deleted",
}
"""The words that lists of files know the states by."""

_STATES = {word: state for state, word in STATE_WORDS.items()}


def file_message(record: FileRecord) -> file_pb2.File:
    """Return a file as callers see it."""
    return file_pb2.File(
        file_id=format_id("file", record.file_id),
        org_id=record.org_id,
        name=record.name,
        content_type=record.content_type,
        size_bytes=record.size_bytes,
        sha256=record.sha256,
        created_by=record.created_by,
        created_at=datetime_to_timestamp(record.created_at),
        job_id="" if record.job_id is None else format_id("job", record.job_id),
        state=_STATES[record.state if record.deleted_at is None else "deleted"],
        expires_at=_timestamp(record.expires_at),
        deleted_at=_timestamp(record.deleted_at),
    )


def upload_message(upload: OpenUpload) -> file_pb2.Upload:
    """Return an upload as callers see it, with the request to send when it has just begun."""
    request = upload.request if isinstance(upload, Upload) else None
    return file_pb2.Upload(
        upload_id=format_id("upload", upload.upload_id),
        org_id=upload.org_id,
        url=request.url if request else "",
        method=request.method if request else "",
        headers=request.headers if request else None,
        expires_at=datetime_to_timestamp(upload.expires_at),
        name=upload.name,
        content_type=upload.content_type,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256 or "",
        created_by=upload.created_by,
        created_at=datetime_to_timestamp(upload.created_at),
        temporary=upload.temporary,
    )


def usage_message(usage: FileUsage) -> file_pb2.FileUsage:
    """Return what the files of an organisation take up."""
    return file_pb2.FileUsage(
        org_id=usage.org_id,
        total_bytes=usage.total_bytes,
        files=usage.files,
        limits=file_pb2.FileLimits(
            max_total_bytes=usage.limits.max_total_bytes,
            max_files=usage.limits.max_files,
            max_file_bytes=usage.limits.max_file_bytes,
        ),
        own_limits=file_pb2.OwnFileLimits(**{str(name): limit for name, limit in usage.own_limits.items()}),
    )


def _timestamp(time: datetime | None) -> Timestamp | None:
    return None if time is None else datetime_to_timestamp(time)

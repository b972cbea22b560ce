"""A file that jobs read or make."""

from dataclasses import dataclass
from datetime import datetime

from millrace.files.v1 import file_pb2
from millrace_client.values import from_timestamp


@dataclass(frozen=True, slots=True)
class File:
    """A file of an organisation: uploaded by a user, or made by a job."""

    file_id: str
    org_id: str
    name: str
    content_type: str
    """The media type, such as "text/csv"."""
    size_bytes: int
    sha256: str
    """The SHA-256 of the content, in lower-case hexadecimal."""
    created_by: str
    created_at: datetime
    job_id: str
    """The job that made the file; empty for an uploaded one."""


def read_file(message: file_pb2.File) -> File:
    """Turn the contract's message into a File."""
    return File(
        file_id=message.file_id,
        org_id=message.org_id,
        name=message.name,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        job_id=message.job_id,
    )

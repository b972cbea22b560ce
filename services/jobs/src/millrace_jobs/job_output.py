"""What a completed job came to, as a content: the file that its output names, or its output itself."""

import hashlib
from collections.abc import Iterator
from uuid import UUID

import orjson

from millrace.files.v1 import file_pb2
from millrace_database.ids import format_id, parse_id
from millrace_database.jobs_repository import JobRecord
from millrace_jobs.file_ranges import behind_the_end
from millrace_runtime.struct_json import datetime_to_timestamp

_CHUNK_BYTES = 1024 * 1024


def named_file(output_json: str | None) -> UUID | None:
    """Return the file whose id an output names as its `file_id`; None when it names none."""
    output = None if output_json is None else orjson.loads(output_json)
    named = output.get("file_id") if isinstance(output, dict) else None
    if not isinstance(named, str):
        return None
    try:
        return parse_id("file", named)
    except ValueError:
        return None


class OutputDocument:
    """The output of a completed job as JSON, word for word as it is kept."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record
        self._content = (record.output_json or "{}").encode()

    def description(self) -> file_pb2.File:
        """Return the output described as a file; it is none, and has no file_id."""
        record = self._record
        job_id = format_id("job", record.job_id)
        return file_pb2.File(
            org_id=record.org_id,
            name=f"{job_id}.json",
            content_type="application/json",
            size_bytes=len(self._content),
            sha256=hashlib.sha256(self._content).hexdigest(),
            created_by=record.created_by,
            created_at=datetime_to_timestamp(record.completed_at or record.read_at),
            job_id=job_id,
            state=file_pb2.FILE_STATE_WITH_JOB,
        )

    def chunks(self, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`. Raises OutOfRange at once."""
        if start > len(self._content):
            raise behind_the_end(len(self._content))
        part = self._content[start:end]
        return (part[place : place + _CHUNK_BYTES] for place in range(0, len(part), _CHUNK_BYTES))

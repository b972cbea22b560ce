"""The file that the output of a job names, as those see it whom the output is delivered to."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from millrace_database.files_repository import FileRecord
from millrace_database.ids import parse_id
from millrace_worker import JobContext
from millrace_worker.handlers.stored_files import FileId, shown_id

_FILE_ID: TypeAdapter[str] = TypeAdapter(FileId)


async def find_output_file(context: JobContext[Any], named: str | None) -> FileRecord | None:
    """Return the file that an output names as its `file_id`, if it is one of the organisation and not deleted."""
    try:
        file_id = _FILE_ID.validate_python(named)
    except ValidationError:
        return None
    file = await context.resources.files.get(context.org_id, parse_id("file", file_id))
    return None if file is None or file.deleted_at is not None else file


def link_to(context: JobContext[Any], file: FileRecord | None) -> str:
    """Return where people find a file; empty: there is none."""
    return context.resources.delivery.link_to(context.org_id, shown_id(file.file_id)) if file else ""


def file_fields(file: FileRecord | None, link: str) -> dict[str, Any] | None:
    """Return what webhooks tell of a file."""
    if file is None:
        return None
    return {
        "file_id": shown_id(file.file_id),
        "name": file.name,
        "content_type": file.content_type,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "link": link,
    }

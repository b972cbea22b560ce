from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from millrace_database.files_repository import FileRecord, FileState
from millrace_database.ids import format_id, parse_id
from millrace_storage import ContentMissing, FileDeleted, FileMissing, LimitExceeded
from millrace_worker import JobContext, JobError

FileId = Annotated[str, Field(pattern=r"^file_[0-9a-f]{32}$")]


async def find_file(context: JobContext[Any], file_id: str) -> FileRecord:
    """Return a file of the job's organisation. Raises JobError, which names it: FILE_NOT_FOUND and FILE_DELETED."""
    record = await context.resources.files.get(context.org_id, parse_id("file", file_id))
    if record is None:
        raise _not_found(file_id)
    if record.deleted_at is not None:
        raise _deleted(file_id)
    return record


async def open_file(context: JobContext[Any], file_id: str) -> tuple[FileRecord, AsyncGenerator[bytes, None]]:
    """Return a file of the job's organisation and its content.

    Raises JobError, which names the file: FILE_NOT_FOUND, FILE_DELETED, and CONTENT_MISSING, as does the content when it
    is lost meanwhile.
    """
    try:
        record, chunks = await context.resources.files.open(context.org_id, parse_id("file", file_id))
    except FileMissing as error:
        raise _not_found(file_id) from error
    except FileDeleted as error:
        raise _deleted(file_id) from error
    except ContentMissing as error:
        raise _content_missing(file_id, error) from error
    return record, _content(chunks, file_id)


async def _content(chunks: AsyncIterator[bytes], file_id: str) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in chunks:
            yield chunk
    except ContentMissing as error:
        raise _content_missing(file_id, error) from error


async def save_file(
    context: JobContext[Any],
    *,
    name: str,
    content_type: str,
    chunks: AsyncIterator[bytes],
    state: FileState = "with_job",
) -> FileRecord:
    """Store a file that the job made, for its organisation and in the name of its creator, as long as the job is this worker's.

    Raises JobError FILE_LIMIT_EXCEEDED when the organisation's files leave no room for it, and LeaseLost.
    """
    try:
        return await context.resources.files.save(
            org_id=context.org_id,
            name=name,
            content_type=content_type,
            created_by=context.created_by,
            chunks=chunks,
            job_id=parse_id("job", context.job_id),
            lease=context.lease,
            state=state,
        )
    except LimitExceeded as error:
        raise JobError("FILE_LIMIT_EXCEEDED", str(error)) from error


def shown_id(file_id: UUID) -> str:
    """Return a file's id as clients see it."""
    return format_id("file", file_id)


def _not_found(file_id: str) -> JobError:
    return JobError("FILE_NOT_FOUND", f"there is no file {file_id}")


def _deleted(file_id: str) -> JobError:
    return JobError("FILE_DELETED", f"{file_id} is deleted; millrace files undelete brings it back")


def _content_missing(file_id: str, missing: ContentMissing) -> JobError:
    state = "no longer in the object store" if missing.found_bytes is None else "damaged"
    return JobError("CONTENT_MISSING", f"the content of {file_id} is {state}")

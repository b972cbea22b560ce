from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, field_validator

from millrace_database.files_repository import FileRecord
from millrace_worker import JobContext, job_handler
from millrace_worker.handlers.file_names import FileName, file_name
from millrace_worker.handlers.stored_files import FileId, find_file, open_file, save_file, shown_id
from millrace_worker.handlers.zip_streaming import ZipMember, safe_unique_names, zipped

MAX_FILES = 10_000


class ArchiveInput(BaseModel):
    """Which files to put into an archive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file_ids: list[FileId] = Field(
        min_length=1,
        max_length=MAX_FILES,
        json_schema_extra={"uniqueItems": True},
        description="Files of this organisation, each once, in the order they are to have in the archive.",
    )
    file_name: FileName = Field(
        default="archive.zip", description='The name of the archive; ".zip" is added when it is missing.'
    )

    @field_validator("file_ids")
    @classmethod
    def _distinct(cls, file_ids: list[str]) -> list[str]:
        if len(set(file_ids)) < len(file_ids):
            raise ValueError("a file is named twice")
        return file_ids


class ArchiveOutput(BaseModel):
    """The archive that was made, and how many files and bytes it has."""

    file_id: str
    name: str
    files: int
    bytes: int


@job_handler(
    "files:archive",
    concurrency=2,
    timeout=timedelta(hours=4),
    label="Archive files",
    description="Puts files of the organisation together into one zip file.",
)
async def archive_files(context: JobContext[ArchiveInput]) -> ArchiveOutput:
    """Stream the files into a zip file; the items of its progress are bytes of their content."""
    records = [await find_file(context, file_id) for file_id in context.input.file_ids]
    total = sum(record.size_bytes for record in records)

    async def report(done: int) -> None:
        await context.update_processed_items(done, total)
        await context.update_progress(
            min(done * 100 // (total or 1), 99), f"Archiving {len(records):,} files"
        )

    await report(0)
    async with aclosing(zipped(_members(context, records), report)) as chunks:
        archive = await save_file(
            context,
            name=file_name(context.input.file_name, ".zip"),
            content_type="application/zip",
            chunks=chunks,
        )
    await context.update_progress(100, f"{len(records):,} files archived")
    return ArchiveOutput(
        file_id=shown_id(archive.file_id), name=archive.name, files=len(records), bytes=archive.size_bytes
    )


def _members(context: JobContext[ArchiveInput], records: list[FileRecord]) -> list[ZipMember]:
    names = safe_unique_names([record.name for record in records])
    return [
        ZipMember(name, record.created_at, record.size_bytes, partial(_content, context, record))
        for name, record in zip(names, records, strict=True)
    ]


async def _content(context: JobContext[ArchiveInput], record: FileRecord) -> AsyncGenerator[bytes, None]:
    _, content = await open_file(context, shown_id(record.file_id))
    return content

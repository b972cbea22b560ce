from contextlib import aclosing
from datetime import timedelta

from pydantic import BaseModel

from millrace_runtime.text_templates import render_template
from millrace_worker import JobContext, JobError, job_handler
from millrace_worker.handlers.delivered_result import DeliveredResult, DeliveryInput, read_delivery
from millrace_worker.handlers.file_names import without_forbidden
from millrace_worker.handlers.stored_files import open_file, save_file, shown_id

_MAX_PATH_BYTES = 1_000


class StorageOutput(BaseModel):
    """The copy that was made: its id, its path, which is its name, and its size."""

    file_id: str
    path: str
    bytes: int


@job_handler(
    "deliveries:storage",
    concurrency=2,
    timeout=timedelta(hours=1),
    label="Deliver to storage",
    description="Keeps a copy of the file that a schedule's job made under a path of its own.",
)
async def deliver_storage(context: JobContext[DeliveryInput]) -> StorageOutput:
    """Copy the file; its name is the path."""
    delivered, said = await read_delivery(context, "storage")
    if delivered.file is None:
        raise JobError("NO_FILE", "the output of the job names no file of the organisation as its file_id")
    path = _path(said.get("path", ""), delivered)
    source, content = await open_file(context, shown_id(delivered.file.file_id))
    async with aclosing(content) as chunks:
        copy = await save_file(
            context, name=path, content_type=source.content_type, chunks=chunks, state="persistent"
        )
    return StorageOutput(file_id=shown_id(copy.file_id), path=copy.name, bytes=copy.size_bytes)


def _path(template: str, delivered: DeliveredResult) -> str:
    """Return the path that a template stands for. What a variable stands for is part of one name in it."""
    names = {
        name: without_forbidden(value).replace("\\", "_") for name, value in delivered.variables().items()
    }
    path = "/".join(without_forbidden(part) for part in render_template(template, names).split("/"))
    if any(part.strip() in ("", ".", "..") for part in path.split("/")):
        raise JobError("INVALID_PATH", f'the path {path!r} has a part that is empty, "." or ".."')
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise JobError("INVALID_PATH", f"the path is longer than {_MAX_PATH_BYTES:,} bytes")
    return path

"""The rules of an upload: a header first, then nothing but chunks."""

import asyncio
import mimetypes
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeAlias

from millrace.files.v1 import files_service_pb2
from millrace_jobs.file_names import check_file_name
from millrace_jobs.upload_pace import UploadPace
from millrace_runtime.errors import InvalidArgument
from millrace_runtime.identity import Caller
from millrace_runtime.validation import Violations
from millrace_storage import UploadGivenUp
from millrace_storage.object_writing import WRITING_TIME

MAX_CHUNK_BYTES = 1024 * 1024
MAX_CREATOR_LENGTH = 256
UNKNOWN_CONTENT_TYPE = "application/octet-stream"

_MAX_CONTENT_TYPE_LENGTH = 255
_SILENT_SECONDS = WRITING_TIME.total_seconds()
# No space at its end: none would arrive behind a header.
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;([\x20-\x7e]*[\x21-\x7e])?)?")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
# Python's own table, not that of the machine, so that every copy of the service gives the same answer.
_CONTENT_TYPES = mimetypes.MimeTypes()
_ENCODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

_Messages: TypeAlias = AsyncIterator[files_service_pb2.UploadFileRequest]
_Description: TypeAlias = files_service_pb2.UploadFileHeader | files_service_pb2.InitiateUploadRequest


@dataclass(frozen=True, slots=True)
class AnnouncedFile:
    """What a caller says of a file before its content, checked, with what was empty filled in.

    Attributes:
        org_id: the organisation it will belong to.
        name: its name.
        content_type: its media type, guessed from the name when none was given.
        size_bytes: its length, if it was given.
        sha256: the hash of its content, if it was given.
        created_by: whom to record as its creator.
        temporary: whether it goes after some time.

    """

    org_id: str
    name: str
    content_type: str
    size_bytes: int | None
    sha256: str | None
    created_by: str
    temporary: bool


async def read_header(messages: _Messages) -> files_service_pb2.UploadFileHeader:
    """Return the header, which is the first message. Raises InvalidArgument when it is anything else."""
    first = await anext(messages, None)
    if first is None or not first.HasField("header"):
        raise InvalidArgument([("header", "is required as the first message")])
    return first.header


def check_announced(description: _Description, caller: Caller, violations: Violations) -> AnnouncedFile:
    """Return what is announced. `violations` are those of the request's other fields, reported along.

    Raises InvalidArgument with all that is wrong, and PermissionDenied.
    """
    org_id = violations.check_org_id(description.org_id)
    check_file_name("name", description.name, violations)
    if description.content_type:
        check_content_type("content_type", description.content_type, violations)
    if description.size_bytes < 0:
        violations.add("size_bytes", "must not be negative")
    if description.sha256 and not _SHA256.fullmatch(description.sha256):
        violations.add("sha256", "must be 64 hexadecimal digits")
    created_by = violations.check_text("created_by", description.created_by, max_length=MAX_CREATOR_LENGTH)
    violations.raise_if_any()
    caller.require_organisation(org_id)
    return AnnouncedFile(
        org_id=org_id,
        name=description.name,
        content_type=description.content_type or guess_content_type(description.name),
        size_bytes=description.size_bytes if description.HasField("size_bytes") else None,
        sha256=description.sha256.lower() or None,
        created_by=caller.creator(created_by),
        temporary=description.temporary,
    )


async def chunks_of(messages: _Messages, others_wait: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield the content that follows a header.

    Raises InvalidArgument at a message that is no chunk, and UploadGivenUp when no byte comes for 15 minutes, or less than
    64 KiB in 60 seconds while others wait for one of the places that the store has for writers.
    """
    pace = UploadPace(others_wait)
    while True:
        try:
            async with asyncio.timeout(_SILENT_SECONDS), pace.waiting():
                content = await _next_content(messages)
        except TimeoutError:
            raise UploadGivenUp("the upload made no progress for too long") from None
        if not content:
            return
        pace.arrived(len(content))
        yield content


async def _next_content(messages: _Messages) -> bytes:
    """Return the bytes of the next chunk that has any; none at the end."""
    async for message in messages:
        if not message.HasField("chunk"):
            raise InvalidArgument([("chunk", "is required in each message behind the first")])
        if len(message.chunk) > MAX_CHUNK_BYTES:
            raise InvalidArgument(
                [("chunk", f"is {len(message.chunk)} bytes long, more than {MAX_CHUNK_BYTES}")]
            )
        if message.chunk:
            return message.chunk
    return b""


def check_content_type(field: str, text: str, violations: Violations) -> None:
    """Check that a text is a media type, with parameters or without."""
    if len(text) > _MAX_CONTENT_TYPE_LENGTH or not _CONTENT_TYPE.fullmatch(text):
        violations.add(field, 'must be a media type such as "text/csv"')


def guess_content_type(name: str) -> str:
    """Return the media type that the ending of a file's name stands for, `UNKNOWN_CONTENT_TYPE` if for none."""
    content_type, encoding = _CONTENT_TYPES.guess_type(f"/{name}")
    if encoding is not None:
        return _ENCODED.get(encoding, UNKNOWN_CONTENT_TYPE)
    return content_type or UNKNOWN_CONTENT_TYPE

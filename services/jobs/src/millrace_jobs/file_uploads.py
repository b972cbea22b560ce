"""The rules of an upload: a header first, then nothing but chunks."""

import mimetypes
import re
import unicodedata
from collections.abc import AsyncIterator
from typing import TypeAlias

from millrace.files.v1 import files_service_pb2
from millrace_runtime.errors import InvalidArgument
from millrace_runtime.identity import Caller
from millrace_runtime.validation import Violations

MAX_CHUNK_BYTES = 1024 * 1024
UNKNOWN_CONTENT_TYPE = "application/octet-stream"

_MAX_NAME_BYTES = 255
_MAX_CREATOR_LENGTH = 256
_MAX_CONTENT_TYPE_LENGTH = 255
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[\x20-\x7e]*)?")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
# Python's own table, not that of the machine, so that every copy of the service gives the same answer.
_CONTENT_TYPES = mimetypes.MimeTypes()
_ENCODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

_Messages: TypeAlias = AsyncIterator[files_service_pb2.UploadFileRequest]


async def read_header(messages: _Messages) -> files_service_pb2.UploadFileHeader:
    """Return the header, which is the first message. Raises InvalidArgument when it is anything else."""
    first = await anext(messages, None)
    if first is None or not first.HasField("header"):
        raise InvalidArgument([("header", "is required as the first message")])
    return first.header


def check_header(
    header: files_service_pb2.UploadFileHeader, caller: Caller
) -> files_service_pb2.UploadFileHeader:
    """Return `header` with what is empty filled in: the content type, and the creator.

    Raises InvalidArgument with all that is wrong, and PermissionDenied.
    """
    violations = Violations("header.")
    org_id = violations.check_org_id(header.org_id)
    _check_name(header.name, violations)
    if header.content_type and not _is_content_type(header.content_type):
        violations.add("content_type", 'must be a media type such as "text/csv"')
    if header.size_bytes < 0:
        violations.add("size_bytes", "must not be negative")
    if header.sha256 and not _SHA256.fullmatch(header.sha256):
        violations.add("sha256", "must be 64 hexadecimal digits")
    created_by = violations.check_text("created_by", header.created_by, max_length=_MAX_CREATOR_LENGTH)
    violations.raise_if_any()
    caller.require_organisation(org_id)
    checked = files_service_pb2.UploadFileHeader()
    checked.CopyFrom(header)
    checked.content_type = header.content_type or guess_content_type(header.name)
    checked.created_by = caller.creator(created_by)
    return checked


class Chunks:
    """The content that follows a header. Iterating raises InvalidArgument at a message that is no chunk."""

    def __init__(self, messages: _Messages) -> None:
        self._messages = messages
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in self._messages:
            if not message.HasField("chunk"):
                raise InvalidArgument([("chunk", "is required in each message behind the first")])
            if len(message.chunk) > MAX_CHUNK_BYTES:
                raise InvalidArgument(
                    [("chunk", f"is {len(message.chunk)} bytes long, more than {MAX_CHUNK_BYTES}")]
                )
            self.size += len(message.chunk)
            yield message.chunk


def guess_content_type(name: str) -> str:
    """Return the media type that the ending of a file's name stands for, `UNKNOWN_CONTENT_TYPE` if for none."""
    content_type, encoding = _CONTENT_TYPES.guess_type(f"/{name}")
    if encoding is not None:
        return _ENCODED.get(encoding, UNKNOWN_CONTENT_TYPE)
    return content_type or UNKNOWN_CONTENT_TYPE


def _check_name(name: str, violations: Violations) -> None:
    if not violations.require("name", name):
        return
    if len(name.encode()) > _MAX_NAME_BYTES:
        violations.add("name", f"is {len(name.encode())} bytes long, more than {_MAX_NAME_BYTES}")
    if name in (".", ".."):
        violations.add("name", "names a folder")
    if "/" in name or any(unicodedata.category(character) == "Cc" for character in name):
        violations.add("name", 'holds "/" or a control character')


def _is_content_type(text: str) -> bool:
    return len(text) <= _MAX_CONTENT_TYPE_LENGTH and _CONTENT_TYPE.fullmatch(text) is not None

"""Whether an organisation has room for a file, asked before much is done for one that cannot be stored."""

import asyncio
import os
from collections.abc import AsyncIterable
from pathlib import Path

import grpc

from millrace_client.errors import ErrorDetails, Quota, ResourceExhaustedError
from millrace_client.file import FileUsage
from millrace_client.upload import Source

# Reading so much for its hash takes less time than anybody notices.
_ASKED_FROM_BYTES = 64 * 1024 * 1024


async def large_size(source: Source) -> int | None:
    """Return the length of a file on this machine that takes long to read; None of any other content."""
    if isinstance(source, bytes | AsyncIterable):
        return None
    size = await asyncio.to_thread(_size, source)
    return size if size > _ASKED_FROM_BYTES else None


def check_room(usage: FileUsage, size_bytes: int) -> None:
    """Raise the ResourceExhaustedError that the server would answer the upload of a file of this length with."""
    limits = usage.limits
    length, total = limits.max_file_bytes, limits.max_total_bytes
    if length and size_bytes > length:
        raise _exceeded(usage, "max_file_bytes", length, "a file may not be longer than")
    if total and usage.total_bytes + size_bytes > total:
        raise _exceeded(usage, "max_total_bytes", total, "the organisation's files may not take up more than")


def _exceeded(usage: FileUsage, name: str, allowed: int, text: str) -> ResourceExhaustedError:
    quota = Quota(f"files.{name}", f"org:{usage.org_id}", allowed)
    return ResourceExhaustedError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"{text} {allowed:,} bytes",
        ErrorDetails(reason="QUOTA_EXCEEDED", quota=quota),
    )


def _size(path: str | os.PathLike[str]) -> int:
    return Path(path).stat().st_size if Path(path).is_file() else 0

"""Whether what an organisation's files take up is within its limits."""

from collections.abc import Sequence

from millrace_database.file_usage_repository import FileUsage
from millrace_storage.file_content import Cap
from millrace_storage.file_errors import LimitExceeded


def check_usage(usage: FileUsage, *, more_bytes: int = 0, more_files: int = 0) -> None:
    """Raise LimitExceeded when files that take up that much more would be too many or too long together."""
    limits = usage.limits
    if limits.max_files and more_files + usage.files > limits.max_files:
        raise LimitExceeded("files", limits.max_files)
    if limits.max_total_bytes and more_bytes + usage.total_bytes > limits.max_total_bytes:
        raise LimitExceeded("total_bytes", limits.max_total_bytes)


def check_length(usage: FileUsage, size_bytes: int) -> None:
    """Raise LimitExceeded when a file of this length may not be uploaded."""
    limit = usage.limits.max_file_bytes
    if limit and size_bytes > limit:
        raise LimitExceeded("file_bytes", limit)


def caps_of(usage: FileUsage, *, by_caller: bool) -> Sequence[Cap]:
    """Return how long one more file may be; the limit of the length of one is for what callers upload."""
    limits = usage.limits
    caps = []
    if by_caller and limits.max_file_bytes:
        caps.append(Cap("file_bytes", limits.max_file_bytes, limits.max_file_bytes))
    if limits.max_total_bytes:
        left = limits.max_total_bytes - usage.total_bytes
        caps.append(Cap("total_bytes", max(left, 0), limits.max_total_bytes))
    return caps

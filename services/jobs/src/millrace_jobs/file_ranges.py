"""Which part of a content a caller asks for."""

from millrace_runtime.errors import OutOfRange
from millrace_runtime.validation import Violations


def check_range(offset: int, length: int, violations: Violations) -> tuple[int, int | None]:
    """Return the first byte to send and the one behind the last; None: up to the end."""
    if offset < 0:
        violations.add("offset", "must not be negative")
    if length < 0:
        violations.add("length", "must not be negative")
    return offset, offset + length if length > 0 else None


def behind_the_end(size: int) -> OutOfRange:
    """Return the error of an offset behind the end of a content of `size` bytes."""
    return OutOfRange("offset", f"lies behind the end, which is at {size}")

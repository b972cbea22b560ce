"""Ids: UUIDv7 inside, a prefix and 32 hexadecimal digits outside."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils import compat

_HEX_DIGITS = re.compile(r"[0-9a-f]{32}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> UUID:
    """Return a new UUIDv7: ids made later sort behind ids made earlier (to the millisecond)."""
    return compat.uuid7()


def first_id(time: datetime, shift: timedelta = timedelta(0)) -> UUID:
    """Return the lowest id of a time, shifted: its first 48 bits count milliseconds. Times out of range count as the nearest."""
    milliseconds = (time - _EPOCH + shift) // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)


def format_id(prefix: str, id: UUID) -> str:  # noqa: A002 - the pair format_id/parse_id reads best so
    """Return the public form of an id, such as ``job_`` and 32 hexadecimal digits."""
    return f"{prefix}_{id.hex}"


def parse_id(prefix: str, text: str) -> UUID:
    """Return the UUID of a public id.

    Raises ValueError when `text` is anything but `prefix`, ``_`` and 32 lower-case hexadecimal digits.
    """
    start = f"{prefix}_"
    digits = text.removeprefix(start)
    if not text.startswith(start) or not _HEX_DIGITS.fullmatch(digits):
        raise ValueError(f"not an id of the form {start} and 32 hexadecimal digits")
    return UUID(hex=digits)

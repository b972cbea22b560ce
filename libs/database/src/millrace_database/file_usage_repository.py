"""What the files of organisations take up, and what they may."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import asyncpg

from millrace_database import file_statements

LimitName: TypeAlias = Literal["max_total_bytes", "max_files", "max_file_bytes"]

LIMIT_NAMES: tuple[LimitName, ...] = ("max_total_bytes", "max_files", "max_file_bytes")
"""The limits that an organisation may have of its own."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What the files of an organisation may take up; 0: no limit.

    Attributes:
        max_total_bytes: the sum of their lengths.
        max_files: how many they are.
        max_file_bytes: the length of one that is uploaded.

    """

    max_total_bytes: int = 0
    max_files: int = 0
    max_file_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FileUsage:
    """What the files of an organisation take up, deleted ones left out.

    Attributes:
        org_id: the organisation.
        total_bytes: the sum of their lengths.
        files: how many they are.
        limits: those in force.
        own_limits: those of them that were set for the organisation; the others are the server's.

    """

    org_id: str
    total_bytes: int
    files: int
    limits: FileLimits
    own_limits: Mapping[LimitName, int] = field(default_factory=dict)


async def get_usage(conn: asyncpg.Connection, org_id: str, defaults: FileLimits) -> FileUsage:
    """Return what an organisation's files take up; `defaults` are the limits where it has none of its own."""
    row = await conn.fetchrow(file_statements.GET_USAGE, org_id)
    return FileUsage(org_id, 0, 0, defaults) if row is None else _usage(row, defaults)


async def count_in(
    conn: asyncpg.Connection, org_id: str, defaults: FileLimits, *, total_bytes: int = 0, files: int = 0
) -> FileUsage:
    """Add to what an organisation's files take up, and return what it is then.

    Until the caller's transaction ends nobody else changes it: so is it too when nothing is added. To be called last in it.
    """
    row = await conn.fetchrow(file_statements.COUNT_IN, org_id, total_bytes, files)
    return _usage(row, defaults)


async def set_limits(
    conn: asyncpg.Connection,
    org_id: str,
    defaults: FileLimits,
    changes: Mapping[LimitName, int | None],
) -> FileUsage:
    """Set limits of an organisation; None: as `defaults` say, 0: no limit. Those that are not among `changes` stay."""
    row = await conn.fetchrow(
        file_statements.SET_LIMITS, org_id, *(changes.get(name) for name in LIMIT_NAMES), list(changes)
    )
    return _usage(row, defaults)


def _usage(row: asyncpg.Record | None, defaults: FileLimits) -> FileUsage:
    assert row is not None  # noqa: S101 - an upsert returns its row
    own = {name: row[name] for name in LIMIT_NAMES if row[name] is not None}
    return FileUsage(row["org_id"], row["total_bytes"], row["files"], replace(defaults, **own), own)

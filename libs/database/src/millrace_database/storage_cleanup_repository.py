"""What nobody needs any more of the storage, as far as the database knows it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from uuid import UUID

import asyncpg

from millrace_database import storage_cleanup_statements as statements

NO_ID = UUID(int=0)
"""Before the id of every job and file."""


@dataclass(frozen=True, slots=True)
class ExpiredBatch:
    """What a step removed; `last` is where the next step goes on, None: nowhere."""

    count: int
    bytes: int
    last: datetime | None


@dataclass(frozen=True, slots=True)
class JobFilesPage:
    """A page of the files of jobs: how many there were, and how many of them expired because their job is gone."""

    visited: int
    count: int
    bytes: int
    last_job_id: UUID | None
    last_file_id: UUID | None


@dataclass(frozen=True, slots=True)
class Removal:
    """An object that is to go; with `size_bytes` 0 it is not known whether there is one, or a part of one."""

    object_key: str
    provider: str
    bucket: str
    size_bytes: int
    attempts: int
    due_at: datetime


async def give_up_uploads(
    conn: asyncpg.Connection, after: datetime | None, *, presigned_slack: timedelta, limit: int
) -> ExpiredBatch:
    """Have what expired uploads left in a store removed, and the uploads forgotten; presigned ones a little later.

    What a confirmation has moved stays as long as its upload is open.
    """
    [row] = await conn.fetch(statements.GIVE_UP_UPLOADS, presigned_slack, after, limit)
    return ExpiredBatch(row["count"], 0, row["last"])


async def count_expired_uploads(conn: asyncpg.Connection, *, presigned_slack: timedelta) -> int:
    """Return how many uploads `give_up_uploads` would give up."""
    count: int = await conn.fetchval(statements.COUNT_EXPIRED_UPLOADS, presigned_slack)
    return count


async def expire_files_of_gone_jobs(
    conn: asyncpg.Connection, after: tuple[UUID, UUID], *, limit: int, dry_run: bool = False
) -> JobFilesPage:
    """Look at the next files of jobs; those that are kept as long as a job that is gone expire now, or would."""
    statement = statements.COUNT_FILES_OF_GONE_JOBS if dry_run else statements.EXPIRE_FILES_OF_GONE_JOBS
    [row] = await conn.fetch(statement, *after, limit)
    return JobFilesPage(**row)


async def remove_expired_files(
    conn: asyncpg.Connection, after: datetime | None, *, limit: int
) -> ExpiredBatch:
    """Remove expired files, of which only their objects are left then, to be removed, and count them out."""
    [row] = await conn.fetch(statements.REMOVE_EXPIRED_FILES, after, limit)
    return ExpiredBatch(**row)


async def remove_expired_files_of(conn: asyncpg.Connection, org_id: str, *, limit: int) -> int:
    """Do the same with files of one organisation that count as used, and return how many they were.

    Afterwards none of those that others were removing counts any more either. Not for a transaction that has changed
    files or what they take up.
    """
    [row] = await conn.fetch(statements.REMOVE_EXPIRED_FILES_OF, org_id, limit)
    removed: int = row["count"]
    return removed


async def count_expired_files(conn: asyncpg.Connection) -> tuple[int, int]:
    """Return how many files have expired, and how many bytes they have."""
    return await _count_and_bytes(conn, statements.COUNT_EXPIRED_FILES)


@dataclass(frozen=True, slots=True)
class Taking:
    """What is taken of the objects that are to be removed: those that are due at a time, so many at once.

    Those in an `away` provider and bucket whose keys begin so are left out. Each is due again after a pause that doubles with
    every try, unless `removals_done` is called.
    """

    until: datetime
    limit: int
    first_pause: timedelta
    longest_pause: timedelta


async def take_new_removals(
    conn: asyncpg.Connection, taking: Taking, away: Collection[tuple[str, str, str]], after: str
) -> Sequence[Removal]:
    """Return objects that nobody has tried to remove yet, by their keys, from `after` on; "": from the first.

    In a transaction that does nothing else.
    """
    return await _taken(conn, statements.TAKE_NEW_REMOVALS, taking, away, after)


async def take_removals(
    conn: asyncpg.Connection, taking: Taking, away: Collection[tuple[str, str, str]], after: datetime | None
) -> Sequence[Removal]:
    """Return objects to be removed, those that have been due for longest, from `after` on; None: from the first.

    In a transaction that does nothing else.
    """
    return await _taken(conn, statements.TAKE_REMOVALS, taking, away, after)


async def _taken(
    conn: asyncpg.Connection,
    statement: str,
    taking: Taking,
    away: Collection[tuple[str, str, str]],
    after: str | datetime | None,
) -> Sequence[Removal]:
    await conn.execute(statements.SORT_NOTHING)
    rows = await conn.fetch(
        statement,
        taking.until,
        *_columns(away),
        taking.limit,
        taking.first_pause,
        taking.longest_pause,
        after,
    )
    return sorted((Removal(**row) for row in rows), key=attrgetter("object_key"))


def _columns(away: Collection[tuple[str, str, str]]) -> tuple[list[str], list[str], list[str]]:
    return (
        [provider for provider, _, _ in away],
        [bucket for _, bucket, _ in away],
        [prefix for _, _, prefix in away],
    )


async def removals_done(conn: asyncpg.Connection, provider: str, bucket: str, keys: Sequence[str]) -> None:
    """Forget objects of a store that are gone."""
    await conn.execute(statements.REMOVALS_DONE, provider, bucket, keys)


async def count_removals(conn: asyncpg.Connection) -> tuple[int, int]:
    """Return how many objects are to be removed now, and how many bytes they have as far as that is known."""
    return await _count_and_bytes(conn, statements.COUNT_REMOVALS)


@dataclass(frozen=True, slots=True)
class DoomedObjects:
    """How many objects of a store a clean-up finds to be removed, in places that are left out or in others."""

    provider: str
    bucket: str
    is_left_out: bool
    count: int
    bytes: int


async def count_doomed_objects(
    conn: asyncpg.Connection, away: Collection[tuple[str, str, str]], *, presigned_slack: timedelta
) -> Sequence[DoomedObjects]:
    """Return what would be to be removed now if the expired files and uploads had been, those of `away` places apart."""
    rows = await conn.fetch(statements.COUNT_DOOMED_OBJECTS, presigned_slack, *_columns(away))
    return [DoomedObjects(**row) for row in rows]


async def count_waiting_removals(conn: asyncpg.Connection) -> tuple[int, int]:
    """Return the same of those that are not due yet."""
    return await _count_and_bytes(conn, statements.COUNT_WAITING_REMOVALS)


async def unknown_objects(conn: asyncpg.Connection, keys: Sequence[str]) -> set[str]:
    """Return those of the keys that no file, upload or removal has, in whichever store."""
    known = {row["object_key"] for row in await conn.fetch(statements.KNOWN_OBJECTS, keys)}
    return set(keys) - known


async def abandoned_writes(conn: asyncpg.Connection, keys: Sequence[str]) -> set[str]:
    """Return those of the keys that are neither of an upload nor of a removal that is due, which undoes writes, too."""
    claimed = {row["object_key"] for row in await conn.fetch(statements.CLAIMED_WRITES, keys)}
    return set(keys) - claimed


async def _count_and_bytes(conn: asyncpg.Connection, statement: str) -> tuple[int, int]:
    [row] = await conn.fetch(statement)
    return row["count"], row["bytes"]

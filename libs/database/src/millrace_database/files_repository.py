"""The descriptions of files; their content is in an object store."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from millrace_database import file_statements
from millrace_database.file_list_statement import FileFilters, list_statement

FileState = Literal["temporary", "persistent", "with_job"]
"""For how long a file is kept: for some time, until somebody deletes it, or as long as the job that made it."""


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """Where an object is: the kind of store, the bucket there (empty: a store without), and its key."""

    provider: str
    bucket: str
    object_key: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file.

    Attributes:
        file_id: its id.
        org_id: the organisation it belongs to.
        name: its name, for people.
        content_type: its media type.
        size_bytes: its length.
        sha256: the hash of its content, in lower-case hexadecimal.
        provider: the kind of object store that holds the content.
        object_key: where in that store it is.
        created_by: who uploaded it, or asked for the job that made it.
        created_at: when, by the database's clock.
        job_id: the job that made it.
        bucket: the bucket that the content is in; empty in a store without.
        state: for how long it is kept, or, of a deleted one, was and will be if it is undeleted.
        expires_at: from then on it is gone; None: no time is set.
        deleted_at: when it was deleted; None: it is not.

    """

    file_id: UUID
    org_id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    provider: str
    object_key: str
    created_by: str
    created_at: datetime
    job_id: UUID | None
    bucket: str = ""
    state: FileState = "persistent"
    expires_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def place(self) -> ObjectPlace:
        """Where its content is."""
        return ObjectPlace(self.provider, self.bucket, self.object_key)


async def get_file(conn: asyncpg.Connection, org_id: str, file_id: UUID) -> FileRecord | None:
    """Return a file of an organisation that has not expired, also a deleted one, or None when there is none."""
    return _record(await conn.fetchrow(file_statements.GET_FILE, file_id, org_id))


async def list_files(
    session: AsyncConnection, org_id: str, filters: FileFilters, after: UUID | None, limit: int
) -> list[FileRecord]:
    """Return an organisation's files by descending id, newest first.

    `after` is the last id of the page before; None: from the newest. The order is stable while files come and go.
    """
    rows = await session.execute(list_statement(org_id, filters, after, limit))
    return [FileRecord(**row) for row in rows.mappings()]


async def persist_file(conn: asyncpg.Connection, org_id: str, file_id: UUID) -> FileRecord | None:
    """Keep a file until it is deleted. Returns None when there is none, or it is deleted."""
    return _record(await conn.fetchrow(file_statements.PERSIST_FILE, file_id, org_id))


async def delete_file(
    conn: asyncpg.Connection, org_id: str, file_id: UUID, kept: timedelta
) -> FileRecord | None:
    """Delete a file so that it can be undeleted for some time. Returns None when there is none, or it is deleted."""
    return _record(await conn.fetchrow(file_statements.DELETE_FILE, file_id, org_id, kept))


async def undelete_file(
    conn: asyncpg.Connection, org_id: str, file_id: UUID, kept: timedelta
) -> FileRecord | None:
    """Make a deleted file what it was, a temporary one for `kept` from now on; None when there is none, or it is not deleted.

    The caller counts it in.
    """
    return _record(await conn.fetchrow(file_statements.UNDELETE_FILE, file_id, org_id, kept))


async def remove_file(conn: asyncpg.Connection, org_id: str, file_id: UUID) -> ObjectPlace | None:
    """Delete a file for good, a deleted one too, and have its object removed.

    Returns where the object is, or None when there is no such file.
    """
    row = await conn.fetchrow(file_statements.REMOVE_FILE, file_id, org_id)
    return None if row is None else ObjectPlace(**row)


async def is_file(conn: asyncpg.Connection, place: ObjectPlace) -> bool:
    """Tell whether an object is the content of a file."""
    found: bool = await conn.fetchval(file_statements.IS_FILE, place.object_key)
    return found


async def add_removal(conn: asyncpg.Connection, place: ObjectPlace) -> None:
    """Have an object removed that is of no file."""
    await conn.execute(file_statements.ADD_REMOVAL, place.object_key, place.provider, place.bucket)


async def drop_removal(conn: asyncpg.Connection, place: ObjectPlace) -> None:
    """Say that an object has been removed."""
    await conn.execute(file_statements.DROP_REMOVAL, place.object_key, place.provider, place.bucket)


def _record(row: asyncpg.Record | None) -> FileRecord | None:
    return None if row is None else FileRecord(**row)

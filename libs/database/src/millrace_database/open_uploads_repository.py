"""Uploads that go straight to the store and can still be confirmed."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from millrace_database import file_statements


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload that can still be confirmed.

    Attributes:
        upload_id: its id.
        org_id: the organisation of the file.
        name: the name of the file.
        content_type: its media type as given.
        size_bytes: its length as announced.
        sha256: its hash as announced; None: it was not.
        created_by: who uploads it.
        temporary: whether the file is to be kept for some time only.
        created_at: when it was begun.
        expires_at: from then on it can not be confirmed any more.

    """

    upload_id: UUID
    org_id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str | None
    created_by: str
    temporary: bool
    created_at: datetime
    expires_at: datetime


async def list_open(
    conn: asyncpg.Connection, org_id: str, created_by: str | None, after: UUID | None, limit: int
) -> list[OpenUpload]:
    """Return an organisation's open uploads by descending id, newest first: all, or those of one creator.

    `after` is the last id of the page before; None: from the newest. The order is stable while uploads come and go.
    """
    if created_by is None:
        rows = await conn.fetch(file_statements.LIST_OPEN, [org_id], after, limit)
    else:
        rows = await conn.fetch(file_statements.LIST_OPEN_OF_CREATOR, [org_id], after, limit, [created_by])
    return [OpenUpload(**row) for row in rows]

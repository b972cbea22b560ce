"""The descriptions of files; their content is in an object store."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

_INSERT = """
INSERT INTO files (file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, created_by, job_id)
VALUES (
    $1::uuid, $2::text, $3::text, $4::text, $5::bigint, $6::text, $7::text, $8::text, $9::text, $10::uuid
)
RETURNING file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, created_by, created_at, job_id
"""

_GET = """
SELECT file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, created_by, created_at, job_id
FROM files
WHERE file_id = $1::uuid AND org_id = $2::text
"""

_DELETE = "DELETE FROM files WHERE file_id = $1::uuid AND org_id = $2::text"

# The first page too has a bound, so that one plan, with the bound as an index condition, is right for all pages.
_LIST = """
SELECT file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, created_by, created_at, job_id
FROM files
WHERE org_id = $1::text AND file_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY file_id DESC
LIMIT $3::integer
"""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose content has been stored.

    Attributes:
        file_id: its id, made by the caller.
        org_id: the organisation it belongs to.
        name: its name, for people.
        content_type: its media type.
        size_bytes: its length.
        sha256: the hash of its content, in lower-case hexadecimal.
        provider: the kind of object store that holds the content.
        object_key: where in that store it is.
        created_by: who uploaded it, or asked for the job that made it.
        job_id: the job that made it.

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
    job_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file: what `NewFile` says of it, and when it was created by the database's clock."""

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


async def insert_file(conn: asyncpg.Connection, file: NewFile) -> FileRecord:
    """Record a file whose object is complete in the store."""
    [row] = await conn.fetch(
        _INSERT,
        file.file_id,
        file.org_id,
        file.name,
        file.content_type,
        file.size_bytes,
        file.sha256,
        file.provider,
        file.object_key,
        file.created_by,
        file.job_id,
    )
    return FileRecord(**row)


async def get_file(conn: asyncpg.Connection, org_id: str, file_id: UUID) -> FileRecord | None:
    """Return a file of an organisation, or None when there is no such file."""
    row = await conn.fetchrow(_GET, file_id, org_id)
    return None if row is None else FileRecord(**row)


async def delete_file(conn: asyncpg.Connection, org_id: str, file_id: UUID) -> None:
    """Delete the description of a file, if there is one; its content is not touched."""
    await conn.execute(_DELETE, file_id, org_id)


async def list_files(
    conn: asyncpg.Connection, org_id: str, after: UUID | None, limit: int
) -> list[FileRecord]:
    """Return an organisation's files by descending id, newest first.

    `after` is the last id of the page before; None: from the newest.
    """
    return [FileRecord(**row) for row in await conn.fetch(_LIST, org_id, after, limit)]

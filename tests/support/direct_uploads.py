"""Uploads that go straight to the store, without the HTTP request in between."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from millrace_database.database import Database
from millrace_storage import FileStore, Upload
from support.object_stores import put

CONTENT = b"id,name\n1,CDG\n"


async def initiate(files: FileStore, content: bytes = CONTENT, **fields: Any) -> Upload:
    """Begin the upload of a file of "acme" that is as long as `content`."""
    given: dict[str, Any] = {
        "org_id": "acme",
        "name": "a.csv",
        "content_type": "text/csv",
        "size_bytes": len(content),
        "sha256": None,
        "created_by": "ada",
        "temporary": False,
        "expires_in": timedelta(hours=1),
        **fields,
    }
    return await files.initiate_upload(**given)


async def staging_key(database: Database, upload_id: UUID) -> str:
    """Where the content of an upload is sent."""
    async with database.connection() as connection:
        key: str = await connection.fetchval(
            "SELECT object_key FROM file_uploads WHERE upload_id = $1", upload_id
        )
    return key


async def send(files: FileStore, database: Database, upload: Upload, content: bytes = CONTENT) -> str:
    """Send content as the request of an upload would, and return its key."""
    key = await staging_key(database, upload.upload_id)
    await put(files.stores.default, key, content)
    return key

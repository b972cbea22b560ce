"""Files with their objects, uploads, removals, and whether all of them belong together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_storage.file_errors import StoreNotConfigured
from millrace_storage.local_incoming import new_incoming_path
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.local_tree import LocalTree
from millrace_storage.object_store import ObjectStore
from millrace_storage.object_stores import ObjectStores
from millrace_storage.s3_object_store import S3ObjectStore
from millrace_storage.storage_cleanup import CleanupTimes
from support.object_stores import put
from support.s3_server import S3Server, new_bucket

OWNER_KEY = "millrace-owner"
AT_ONCE = CleanupTimes(timedelta(0), timedelta(0), timedelta(0))
"""Nothing is left alone because it is young."""
AGO = timedelta(hours=-2)

_ADD_FILE = """
INSERT INTO files (
    file_id, org_id, name, content_type, size_bytes, sha256, provider, bucket, object_key, job_id, state, expires_at, deleted_at
)
VALUES (
    $1, $2, 'a.txt', 'text/plain', $3, '', $4, $5, $6, $7, $8, now() + $9::interval, CASE WHEN $10 THEN now() END
)
"""
_COUNT_IN = """
INSERT INTO file_usage (org_id, total_bytes, files) VALUES ($1, $2, 1)
ON CONFLICT (org_id) DO UPDATE
SET total_bytes = file_usage.total_bytes + EXCLUDED.total_bytes, files = file_usage.files + EXCLUDED.files
"""
_ADD_UPLOAD = """
INSERT INTO file_uploads (upload_id, org_id, kind, name, content_type, provider, bucket, object_key, expires_at)
VALUES ($1, 'acme', $2, 'a.txt', 'text/plain', $3, $4, $5, now() + $6::interval)
"""
_ADD_REMOVAL = """
INSERT INTO file_removals (object_key, provider, bucket, size_bytes, due_at) VALUES ($1, $2, $3, $4, now() + $5::interval)
"""
_USAGE_DIFFERS = """
SELECT coalesce(counted.org_id, usage.org_id) AS org_id, counted.bytes, usage.total_bytes, counted.files, usage.files AS counted_files
FROM (
    SELECT org_id, sum(size_bytes) AS bytes, count(*) AS files FROM files WHERE deleted_at IS NULL GROUP BY org_id
) AS counted FULL JOIN file_usage AS usage ON usage.org_id = counted.org_id
WHERE (coalesce(counted.bytes, 0), coalesce(counted.files, 0))
    IS DISTINCT FROM (coalesce(usage.total_bytes, 0), coalesce(usage.files, 0))
"""


class StoresOf(ObjectStores):
    """Stores that were opened elsewhere; the first one is for new objects."""

    def __init__(self, *stores: ObjectStore, prefix: str = "") -> None:
        self.default, self.prefix = stores[0], prefix
        self._stores = stores

    def of(self, provider: str, bucket: str) -> ObjectStore:
        for store in self._stores:
            if (store.provider, store.bucket) == (provider, bucket):
                return store
        raise StoreNotConfigured(provider, bucket)

    def all(self) -> Sequence[ObjectStore]:
        return self._stores

    def prefix_in(self, store: ObjectStore) -> str:
        return self.prefix if store.bucket else ""

    async def close(self) -> None:
        pass


@dataclass
class StoredFiles:
    """Puts rows and objects, as releases of Millrace do, and as crashes leave them."""

    database: Database
    store: ObjectStore
    prefix: str = ""

    @property
    def stores(self) -> StoresOf:
        return StoresOf(self.store, prefix=self.prefix)

    def key(self, org: str = "acme") -> str:
        id_ = uuid4().hex
        return f"{self.prefix}org-{org}/{id_[-2:]}/{id_}"

    def staging_key(self) -> str:
        id_ = uuid4().hex
        return f"{self.prefix}incoming/{id_[-2:]}/{id_}"

    async def object(self, key: str | None = None, content: bytes = b"x") -> str:
        """An object without a row."""
        key = key or self.key()
        await put(self.store, key, content)
        return key

    async def file(
        self,
        state: str = "persistent",
        expires_in: timedelta | None = None,
        *,
        org: str = "acme",
        deleted: bool = False,
        job_id: UUID | None = None,
        content: bytes = b"content",
    ) -> tuple[UUID, str]:
        """A file with its object and its usage; returns its id and the object's key."""
        file_id, key = new_id(), await self.object(self.key(org), content)
        async with self.database.transaction() as conn:
            await self.row(
                conn,
                file_id,
                key,
                state,
                expires_in,
                org=org,
                deleted=deleted,
                job_id=job_id,
                size=len(content),
            )
        return file_id, key

    async def row(
        self,
        conn: asyncpg.Connection,
        file_id: UUID,
        key: str,
        state: str,
        expires_in: timedelta | None,
        *,
        org: str,
        deleted: bool,
        job_id: UUID | None,
        size: int,
    ) -> None:
        await conn.execute(
            _ADD_FILE,
            file_id,
            org,
            size,
            self.store.provider,
            self.store.bucket,
            key,
            job_id,
            state,
            expires_in,
            deleted,
        )
        if not deleted:
            await conn.execute(_COUNT_IN, org, size)

    async def upload(self, kind: str, expires_in: timedelta, key: str | None = None) -> str:
        """The row of an upload."""
        key = key or (self.staging_key() if kind == "presigned" else self.key())
        async with self.database.connection() as conn:
            await conn.execute(
                _ADD_UPLOAD, uuid4(), kind, self.store.provider, self.store.bucket, key, expires_in
            )
        return key

    async def removal(
        self, key: str | None = None, *, size: int = 1, due_in: timedelta = AGO, provider: str | None = None
    ) -> str:
        """The row of an object that is to go."""
        key = key or self.key()
        async with self.database.connection() as conn:
            await conn.execute(
                _ADD_REMOVAL, key, provider or self.store.provider, self.store.bucket, size, due_in
            )
        return key

    async def unfinished_write(self, key: str | None = None) -> str:
        """What a writer has begun that was killed."""
        key = key or self.key()
        if isinstance(self.store, LocalObjectStore):
            tree, path = LocalTree(self.store.root, lasting=".incoming"), new_incoming_path(key)
            tree.create(path)
            tree.append(path, b"begun")
        else:
            assert isinstance(self.store, S3ObjectStore)
            client = self.store._client
            await client.create_multipart_upload(Bucket=self.store.bucket, Key=key)
        return key

    async def job(self) -> UUID:
        """The record of a job."""
        job_id = new_id()
        async with self.database.connection() as conn:
            await conn.execute(
                "INSERT INTO jobs (job_id, org_id, type, status, max_attempts, completed_at) "
                "VALUES ($1, 'acme', 'a', 'completed', 4, now())",
                job_id,
            )
        return job_id

    async def keys(self) -> set[str]:
        """The keys of all objects but the one that tells whose they are."""
        return {stored.key async for stored in self.store.list()} - {self.prefix + OWNER_KEY}

    async def unfinished(self) -> set[str]:
        return {write.key async for write in self.store.list_unfinished()}

    async def rows(self, table: str) -> set[str]:
        """The keys of the objects that the rows of a table stand for."""
        async with self.database.connection() as conn:
            return {row["object_key"] for row in await conn.fetch(f"SELECT object_key FROM {table}")}  # noqa: S608

    async def strangers(self) -> set[str]:
        """The keys of objects that are neither of a file nor of an upload."""
        known = await self.rows("files") | await self.rows("file_uploads")
        return await self.keys() - known

    async def assert_consistent(self) -> None:
        """Each file has its object, whole; each object has a row; what is counted is what there is."""
        async with self.database.connection() as conn:
            rows = await conn.fetch("SELECT object_key, size_bytes FROM files")
            assert await conn.fetch(_USAGE_DIFFERS) == []
        files = {row["object_key"]: row["size_bytes"] for row in rows}
        sizes = {stored.key: stored.size_bytes async for stored in self.store.list()}
        assert {key: sizes.get(key) for key in files} == files
        assert await self.strangers() == set()


@asynccontextmanager
async def stored_files(
    kind: str, database: Database, folder: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StoredFiles]:
    """Gives an empty store of a kind, with keys as they are in such a store."""
    if kind == "local":
        yield StoredFiles(database, LocalObjectStore(folder / "files"))
        return
    async with new_bucket(server, monkeypatch) as bucket:
        yield StoredFiles(database, bucket.store(), "millrace/")

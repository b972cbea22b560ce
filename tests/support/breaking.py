"""A database and an object store that end the program at a certain call, before or after it is done."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from millrace_database.database import Database
from millrace_storage.object_store import (
    ObjectStore,
    PresignedRequest,
    StoredObject,
    UnfinishedWrite,
    WriteState,
)


class Killed(BaseException):
    """Nobody handles it."""


class Breaker:
    """Counts the moments before and after calls, and ends the program at one of them; 0: at none."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.passed = 0

    def pass_by(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.end()

    def end(self) -> None:
        raise Killed


class BreakingDatabase(Database):
    """Ends the program when a connection is taken, or given back once what was done with it is committed."""

    def __init__(self, database: Database, breaker: Breaker) -> None:
        self._database = database
        self._breaker = breaker
        self.url = database.url

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        self._breaker.pass_by()
        async with self._database.connection() as connection:
            yield connection
        self._breaker.pass_by()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        self._breaker.pass_by()
        async with self._database.transaction() as connection:
            yield connection
        self._breaker.pass_by()


class BreakingStore(ObjectStore):
    """Ends the program before or after a call that changes something."""

    def __init__(self, store: ObjectStore, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker
        self.provider, self.bucket = store.provider, store.bucket
        self.max_presigned_bytes = store.max_presigned_bytes

    async def put(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        expected_bytes: int | None = None,
        state: WriteState | None = None,
    ) -> StoredObject:
        self._breaker.pass_by()
        stored = await self._store.put(key, chunks, expected_bytes=expected_bytes, state=state)
        self._breaker.pass_by()
        return stored

    async def create(self, key: str, content: bytes) -> bool:
        self._breaker.pass_by()
        created = await self._store.create(key, content)
        self._breaker.pass_by()
        return created

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        return await self._store.get(key, start=start, end=end)

    async def head(self, key: str) -> StoredObject | None:
        return await self._store.head(key)

    async def move(self, source: str, target: str) -> StoredObject:
        self._breaker.pass_by()
        stored = await self._store.move(source, target)
        self._breaker.pass_by()
        return stored

    async def delete(self, key: str) -> None:
        self._breaker.pass_by()
        await self._store.delete(key)
        self._breaker.pass_by()

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        self._breaker.pass_by()
        failed: dict[str, str] = {}
        for key in keys:
            failed |= await self._store.delete_many([key])
            self._breaker.pass_by()
        return failed

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        async for stored in self._store.list(prefix):
            yield stored

    async def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:
        async for write in self._store.list_unfinished(prefix):
            yield write

    async def abort_unfinished(self, write: UnfinishedWrite) -> None:
        self._breaker.pass_by()
        await self._store.abort_unfinished(write)
        self._breaker.pass_by()

    async def presign_put(
        self, key: str, *, size_bytes: int, content_type: str, expires_in: timedelta
    ) -> PresignedRequest:
        return await self._store.presign_put(
            key, size_bytes=size_bytes, content_type=content_type, expires_in=expires_in
        )

    async def presign_get(
        self,
        key: str,
        *,
        file_name: str,
        content_type: str,
        expires_in: timedelta,
        size_bytes: int | None = None,
    ) -> PresignedRequest:
        return await self._store.presign_get(
            key,
            file_name=file_name,
            content_type=content_type,
            expires_in=expires_in,
            size_bytes=size_bytes,
        )

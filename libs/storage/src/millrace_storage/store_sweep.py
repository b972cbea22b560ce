"""The search of a whole store for what no row of the database knows."""

import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TypeVar

from millrace_database import Database
from millrace_database import storage_cleanup_repository as repository
from millrace_storage.cleanup_report import Amount, CleanupReport
from millrace_storage.file_keys import FOLDERS, prefix_of
from millrace_storage.object_removal import tell_failed
from millrace_storage.object_store import ObjectStore

_Item = TypeVar("_Item")

# What releases before this one have begun to write does not tell of which object.
_OLDER_WRITE = re.compile(r"[0-9a-f]{32}", re.ASCII)


class StoreSweep:
    """Goes through a store that belongs to this database, a batch after the other, and removes what is older than a time.

    A writer puts a row before it writes, and the row moves to another table in one transaction. So what was listed first
    and has no row afterwards is nobody's.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        prefix: str,
        report: CleanupReport,
        *,
        older_than: datetime,
        batch: int,
    ) -> None:
        """Take what all keys begin with, and where to say what was done; if that is dry, nothing is removed."""
        self._database = database
        self._store = store
        self._prefix = prefix
        self._report = report
        self._older_than = older_than
        self._batch = batch

    async def undo_writes(self) -> None:
        """Undo what writers have begun, and not gone on with as uploads; what a removal undoes is left to it."""
        async for batch in _batches(self._store.list_unfinished(self._prefix), self._batch):
            writes = [
                write for write in batch if write.begun_at <= self._older_than and self._is_write(write.key)
            ]
            async with self._database.connection() as connection:
                abandoned = await repository.abandoned_writes(connection, [write.key for write in writes])
            for write in writes:
                if write.key in abandoned:
                    if not self._report.dry_run:
                        await self._store.abort_unfinished(write)
                    self._report.writes += Amount(1)

    async def remove_objects(self) -> None:
        """Remove objects that have no row."""
        for folder in FOLDERS:
            async for batch in _batches(self._store.list(self._prefix + folder), self._batch):
                sizes = {
                    stored.key: stored.size_bytes
                    for stored in batch
                    if stored.written_at <= self._older_than and self._is_ours(stored.key)
                }
                async with self._database.connection() as connection:
                    unknown = await repository.unknown_objects(connection, list(sizes))
                await self._remove({key: sizes[key] for key in unknown})

    async def _remove(self, sizes: dict[str, int]) -> None:
        failed = {} if self._report.dry_run or not sizes else await self._store.delete_many(list(sizes))
        self._report.objects += _amount([size for key, size in sizes.items() if key not in failed])
        if failed:
            self._report.failed += _amount([size for key, size in sizes.items() if key in failed])
            tell_failed(self._store, failed)

    def _is_ours(self, key: str) -> bool:
        # Whatever else is in the bucket is not ours.
        return prefix_of(key) == self._prefix

    def _is_write(self, key: str) -> bool:
        # A store without buckets is nobody else's.
        return self._is_ours(key) or (not self._store.bucket and bool(_OLDER_WRITE.fullmatch(key)))


async def _batches(items: AsyncIterator[_Item], size: int) -> AsyncIterator[Sequence[_Item]]:
    batch = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _amount(sizes: Sequence[int]) -> Amount:
    return Amount(len(sizes), sum(sizes))

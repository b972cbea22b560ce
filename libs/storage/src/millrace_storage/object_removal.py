"""The removal of objects that nobody knows any more but the table that lists them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from millrace_database import Database
from millrace_database import storage_cleanup_repository as repository
from millrace_database.storage_cleanup_repository import Removal
from millrace_storage.cleanup_report import Amount, CleanupReport
from millrace_storage.file_errors import StoreNotConfigured
from millrace_storage.object_store import ObjectStore, StoreRefusedError, StoreUnavailableError
from millrace_storage.object_stores import ObjectStores

STORE_ERRORS = (StoreUnavailableError, StoreRefusedError, StoreNotConfigured)
"""What may be the matter with a whole store."""

# Requests on their way.
_AT_A_TIME = 16

_logger = logging.getLogger(__name__)


class ObjectRemoval:
    """Removes the objects that are due. Several may be at it at once: each takes others."""

    def __init__(
        self,
        database: Database,
        stores: ObjectStores,
        report: CleanupReport,
        *,
        away: Collection[tuple[str, str]],
        batch: int,
        first_pause: timedelta,
        longest_pause: timedelta,
    ) -> None:
        """Take where to say what was done, which stores are left alone, and for how long an object that could not be removed is."""
        self._database = database
        self._stores = stores
        self._report = report
        self._batch = batch
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._away = set(away)

    async def run(self) -> Collection[tuple[str, str]]:
        """Try each object that is due now once; those of a store that is away are left for later.

        Returns the providers and buckets of the stores that are left alone, and of those that did not do what they were asked.
        """
        async with self._database.connection() as connection:
            until: datetime = await connection.fetchval("SELECT now()")
        after = None
        while removals := await self._take(after, until):
            for (provider, bucket), of_store in _by_store(removals).items():
                try:
                    await self._remove(self._stores.of(provider, bucket), of_store)
                except STORE_ERRORS as error:
                    self._away.add((provider, bucket))
                    self._report.problems.append(describe_problem(provider, bucket, error))
            if len(removals) < self._batch:
                break
            after = max(removal.due_at for removal in removals)
        return self._away

    async def _take(self, after: datetime | None, until: datetime) -> Sequence[Removal]:
        async with self._database.connection() as connection:
            return await repository.take_removals(
                connection,
                after,
                until,
                away=self._away,
                limit=self._batch,
                first_pause=self._first_pause,
                longest_pause=self._longest_pause,
            )

    async def _remove(self, store: ObjectStore, removals: Sequence[Removal]) -> None:
        await _undo_writes_of(store, [removal.object_key for removal in removals if not removal.size_bytes])
        failed = await store.delete_many([removal.object_key for removal in removals])
        done = [removal for removal in removals if removal.object_key not in failed]
        async with self._database.connection() as connection:
            keys = [removal.object_key for removal in done]
            await repository.removals_done(connection, store.provider, store.bucket, keys)
        self._report.removals += _amount(done)
        if failed:
            self._report.failed += _amount([removal for removal in removals if removal.object_key in failed])
            tell_failed(store, failed)


async def _undo_writes_of(store: ObjectStore, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), _AT_A_TIME):
        some = keys[start : start + _AT_A_TIME]
        ended = await asyncio.gather(*(_undo_writes(store, key) for key in some), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error


async def _undo_writes(store: ObjectStore, key: str) -> None:
    """Remove what an upload that was given up has begun to write; some stores find it only by its whole key."""
    async for write in store.list_unfinished(key):
        if write.key == key:
            await store.abort_unfinished(write)


def describe_problem(provider: str, bucket: str, error: Exception) -> str:
    """Return a sentence, without its full stop, about a store that did not do what it was asked."""
    if isinstance(error, StoreNotConfigured):
        return str(error)
    did = "refused the request" if isinstance(error, StoreRefusedError) else "is away"
    return f"the object store {store_name(provider, bucket)} {did}: {error}"


def store_name(provider: str, bucket: str) -> str:
    """Return how a store is named to people."""
    return f"{provider} ({bucket})" if bucket else provider


def tell_failed(store: ObjectStore, failed: Mapping[str, str]) -> None:
    """Say in the log that objects could not be removed, and of one of them why."""
    key, reason = next(iter(failed.items()))
    _logger.warning(
        "objects could not be removed; they are tried again",
        extra={
            "store": store_name(store.provider, store.bucket),
            "count": len(failed),
            "object_key": key,
            "error": reason,
        },
    )


def _by_store(removals: Sequence[Removal]) -> Mapping[tuple[str, str], Sequence[Removal]]:
    by_store = defaultdict(list)
    for removal in removals:
        by_store[removal.provider, removal.bucket].append(removal)
    return by_store


def _amount(removals: Sequence[Removal]) -> Amount:
    return Amount(len(removals), sum(removal.size_bytes for removal in removals))

"""The removal of objects that nobody knows any more but the table that lists them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from millrace_database import Database
from millrace_database import storage_cleanup_repository as repository
from millrace_database.storage_cleanup_repository import Removal, Taking
from millrace_storage.cleanup_report import Amount, CleanupReport
from millrace_storage.file_keys import prefix_of
from millrace_storage.object_store import ObjectStore
from millrace_storage.object_stores import ObjectStores
from millrace_storage.store_owner import Owner, Place, StoreOwners
from millrace_storage.store_problems import STORE_ERRORS, describe_problem, store_name

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
        owners: StoreOwners,
        *,
        away: Collection[Place],
        batch: int,
        first_pause: timedelta,
        longest_pause: timedelta,
    ) -> None:
        """Take where to say what was done, which places are left alone, and for how long an object that could not be removed is."""
        self._database = database
        self._stores = stores
        self._report = report
        self._owners = owners
        self._batch = batch
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._away = set(away)

    async def run(self) -> Collection[Place]:
        """Try each object that is due now once; those that are another database's, or in a store that is away, are left for later.

        Returns the places that are left alone, and those whose stores did not do what they were asked.
        """
        async with self._database.connection() as connection:
            until: datetime = await connection.fetchval("SELECT now()")
        taking = Taking(until, self._batch, self._first_pause, self._longest_pause)
        await self._remove_new(taking)
        await self._remove_tried(taking)
        return self._away

    async def _remove_new(self, taking: Taking) -> None:
        after = ""
        while True:
            async with self._database.transaction() as connection:
                removals = await repository.take_new_removals(connection, taking, self._left_out(), after)
            await self._remove_all(removals)
            if len(removals) < taking.limit:
                return
            after = removals[-1].object_key

    async def _remove_tried(self, taking: Taking) -> None:
        after: datetime | None = None
        while True:
            async with self._database.transaction() as connection:
                removals = await repository.take_removals(connection, taking, self._left_out(), after)
            await self._remove_all(removals)
            if len(removals) < taking.limit:
                return
            after = max(removal.due_at for removal in removals)

    def _left_out(self) -> Collection[tuple[str, str, str]]:
        return [(place.provider, place.bucket, place.prefix) for place in self._away]

    async def _remove_all(self, removals: Sequence[Removal]) -> None:
        for place, of_place in _by_place(removals).items():
            if not await self._remove(place, of_place):
                self._away.add(place)

    async def _remove(self, place: Place, removals: Sequence[Removal]) -> bool:
        try:
            store = self._stores.of(place.provider, place.bucket)
            if await self._owners.of(store, place.prefix) in (Owner.OTHER, Owner.UNKNOWN):
                return False
            await self._remove_from(store, removals)
        except STORE_ERRORS as error:
            self._report.problems.append(describe_problem(place.provider, place.bucket, error))
            return False
        return True

    async def _remove_from(self, store: ObjectStore, removals: Sequence[Removal]) -> None:
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


def _by_place(removals: Sequence[Removal]) -> Mapping[Place, Sequence[Removal]]:
    by_place = defaultdict(list)
    for removal in removals:
        place = Place(removal.provider, removal.bucket, prefix_of(removal.object_key) or "")
        by_place[place].append(removal)
    return by_place


def _amount(removals: Sequence[Removal]) -> Amount:
    return Amount(len(removals), sum(removal.size_bytes for removal in removals))

"""The removal of what nobody needs any more: expired files and uploads, and what a crash left in a store."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from millrace_database import Database
from millrace_database import storage_cleanup_repository as repository
from millrace_database.database_identity import read_database_identity
from millrace_database.storage_cleanup_repository import NO_ID, DoomedObjects
from millrace_storage.cleanup_report import Amount, CleanupReport
from millrace_storage.file_errors import StoreNotConfigured
from millrace_storage.object_removal import ObjectRemoval
from millrace_storage.object_store import ObjectStore
from millrace_storage.object_stores import ObjectStores
from millrace_storage.store_owner import Owner, Place, StoreOwners
from millrace_storage.store_problems import STORE_ERRORS, describe_problem, store_name
from millrace_storage.store_sweep import StoreSweep

_BATCH = 1_000
_HOUR = timedelta(hours=1)
_NO_IDENTITY = "this database's role may not call pg_control_system(), so nobody knows whether its objects are this database's"


@dataclass(frozen=True, slots=True)
class CleanupTimes:
    """How long a clean-up leaves things alone."""

    unknown: timedelta = _HOUR
    """An object or unfinished write without a row, from when it was written or begun, by the store's clock."""

    presigned: timedelta = _HOUR
    """A presigned upload, from when its request is not taken any more: one that was begun before may go on."""

    first_pause: timedelta = timedelta(minutes=5)
    """An object that could not be removed, after the first try; twice as long after the next, and so on."""

    longest_pause: timedelta = timedelta(days=1)
    """The same at most."""


_TIMES = CleanupTimes()


async def clean_up_storage(
    database: Database, stores: ObjectStores, *, dry_run: bool = False, times: CleanupTimes = _TIMES
) -> CleanupReport:
    """Remove what nobody needs any more, in batches; with `dry_run` only count it.

    It may be stopped at any point, and several may be at it at once. A store that does not do what it is asked is among
    the report's problems, and does not keep the others from being cleaned. Errors of the database are raised.
    """
    started_at = time.monotonic()
    report = CleanupReport(dry_run=dry_run)
    await _StorageCleanup(database, stores, report, times).run()
    report.seconds = round(time.monotonic() - started_at, 3)
    return report


class _StorageCleanup:
    def __init__(
        self, database: Database, stores: ObjectStores, report: CleanupReport, times: CleanupTimes
    ) -> None:
        self._database = database
        self._stores = stores
        self._report = report
        self._times = times

    async def run(self) -> None:
        async with self._database.connection() as connection:
            identity = await read_database_identity(connection)
        owners = StoreOwners(identity, self._report)
        away: Collection[Place] = await self._places_of_others(owners)
        # Each step finds what the ones before it have left to it.
        await self._expire_files_of_gone_jobs()
        if self._report.dry_run:
            await self._count(away)
        else:
            await self._give_up_uploads()
            await self._remove_files()
            away = await ObjectRemoval(
                self._database,
                self._stores,
                self._report,
                owners,
                away=away,
                batch=_BATCH,
                first_pause=self._times.first_pause,
                longest_pause=self._times.longest_pause,
            ).run()
        await self._count_waiting()
        if identity is None:
            self._say_that_stores_are_not_searched()
        else:
            await self._sweep_stores(owners, away)

    async def _places_of_others(self, owners: StoreOwners) -> set[Place]:
        """Return the places that objects are not to be removed from: those of another database, and those that do not say whose they are."""
        others = set()
        for store in self._stores.all():
            prefix = self._stores.prefix_in(store)
            claim = self._is_for_this(store) and not self._report.dry_run
            if await owners.of(store, prefix, claim=claim) in (Owner.OTHER, Owner.UNKNOWN):
                others.add(Place(store.provider, store.bucket, prefix))
        return others

    def _is_for_this(self, store: ObjectStore) -> bool:
        """Tell whether a store is there for this database, before it says so: one that has nothing but older objects may not be."""
        return store is self._stores.default or not store.bucket

    async def _expire_files_of_gone_jobs(self) -> None:
        after = (NO_ID, NO_ID)
        while True:
            async with self._database.connection() as connection:
                page = await repository.expire_files_of_gone_jobs(
                    connection, after, limit=_BATCH, dry_run=self._report.dry_run
                )
            self._report.files_of_gone_jobs += Amount(page.count, page.bytes)
            if page.visited < _BATCH or page.last_job_id is None or page.last_file_id is None:
                return
            after = (page.last_job_id, page.last_file_id)

    async def _count(self, away: Collection[Place]) -> None:
        """Count what the steps that follow would find if the ones before them had been done."""
        slack = self._times.presigned
        async with self._database.connection() as connection:
            uploads = await repository.count_expired_uploads(connection, presigned_slack=slack)
            files = Amount(*await repository.count_expired_files(connection))
            doomed = await repository.count_doomed_objects(
                connection,
                [(place.provider, place.bucket, place.prefix) for place in away],
                presigned_slack=slack,
            )
        self._report.uploads = Amount(uploads)
        self._report.files = files + self._report.files_of_gone_jobs
        self._report.removals = self._report.files_of_gone_jobs
        for objects in doomed:
            self._count_objects(objects)

    def _count_objects(self, objects: DoomedObjects) -> None:
        amount = Amount(objects.count, objects.bytes)
        try:
            self._stores.of(objects.provider, objects.bucket)
        except StoreNotConfigured as error:
            self._report.problems.append(describe_problem(objects.provider, objects.bucket, error))
            self._report.waiting += amount
            return
        if objects.is_left_out:
            self._report.waiting += amount
        else:
            self._report.removals += amount

    async def _count_waiting(self) -> None:
        async with self._database.connection() as connection:
            self._report.waiting += Amount(*await repository.count_waiting_removals(connection))
            if not self._report.dry_run:
                # Due and still there: those of places that are left alone.
                self._report.waiting += Amount(*await repository.count_removals(connection))

    async def _give_up_uploads(self) -> None:
        after: datetime | None = None
        while True:
            async with self._database.connection() as connection:
                batch = await repository.give_up_uploads(
                    connection, after, presigned_slack=self._times.presigned, limit=_BATCH
                )
            self._report.uploads += Amount(batch.count)
            if batch.count < _BATCH:
                return
            after = batch.last

    async def _remove_files(self) -> None:
        after: datetime | None = None
        while True:
            async with self._database.connection() as connection:
                batch = await repository.remove_expired_files(connection, after, limit=_BATCH)
            self._report.files += Amount(batch.count, batch.bytes)
            if batch.count < _BATCH:
                return
            after = batch.last

    def _say_that_stores_are_not_searched(self) -> None:
        for store in self._stores.all():
            name = store_name(store.provider, store.bucket)
            self._report.left_alone.append(
                f"objects without a row stay in the object store {name}: {_NO_IDENTITY}"
            )

    async def _sweep_stores(self, owners: StoreOwners, away: Collection[Place]) -> None:
        async with self._database.connection() as connection:
            older_than = await connection.fetchval("SELECT now() - $1::interval", self._times.unknown)
        for store in self._stores.all():
            prefix = self._stores.prefix_in(store)
            if Place(store.provider, store.bucket, prefix) in away:
                continue
            # A dry run does not make it this database's, as others do.
            will_be = self._report.dry_run and self._is_for_this(store)
            if await owners.of(store, prefix) is not Owner.THIS and not will_be:
                continue
            sweep = StoreSweep(
                self._database, store, prefix, self._report, older_than=older_than, batch=_BATCH
            )
            try:
                await sweep.undo_writes()
                await sweep.remove_objects()
            except STORE_ERRORS as error:
                self._report.problems.append(describe_problem(store.provider, store.bucket, error))

"""The maintenance of the database, once a day: what may wait so long, counts that may be wrong, and what grows too large.

Each step works in small batches with pauses, and may be ended between any two of them: the next run begins anew. Several
runs at the same time do no harm.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import file_usage_recount, leftovers, retention
from millrace_database.batches import Batches
from millrace_database.bloat import Sizes, measure_sizes
from millrace_database.bloat_hints import DEFAULT_THRESHOLDS, Hint, Thresholds, hints_of
from millrace_database.database import Database
from millrace_database.job_options import RetentionRule
from millrace_database.maintained_tables import MAINTAINED_TABLES
from millrace_database.maintenance_report import MaintenanceReport, StepReport
from millrace_database.queue_health import oldest_transaction
from millrace_database.schedule_runs_repository import remove_deleted_schedules, remove_old_runs

_FIRST_ID = UUID(int=0)

_Step = Callable[[StepReport], Awaitable[None]]
_Count = Callable[[asyncpg.Connection], Awaitable[int]]
_Remove = Callable[..., Awaitable[int]]

_PLAIN_LEFTOVERS: tuple[tuple[str, _Count, _Remove], ...] = (
    ("schedule_runs", leftovers.count_old_runs, remove_old_runs),
    ("deleted_schedules", leftovers.count_deleted_schedules, remove_deleted_schedules),
    ("system_runs", leftovers.count_abandoned_runs, leftovers.remove_abandoned_runs),
    ("subscription_secrets", leftovers.count_old_secrets, leftovers.forget_old_secrets),
)


async def maintain(
    database: Database,
    default: RetentionRule,
    *,
    dry_run: bool = False,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> MaintenanceReport:
    """Do what is to be done once a day, and report it. A step that fails does not stop the others.

    Args:
        database: where it works.
        default: how long finished jobs are kept whose type says nothing else; what is None is kept for ever.
        dry_run: measures and counts, and changes nothing.
        thresholds: from where on there are hints.

    """
    return await _Maintenance(database, default, dry_run=dry_run, thresholds=thresholds).run()


class _Maintenance:
    def __init__(
        self, database: Database, default: RetentionRule, *, dry_run: bool, thresholds: Thresholds
    ) -> None:
        self._batches = Batches(database, share_of_time=retention.SHARE_OF_TIME)
        self._default = default
        self._dry_run = dry_run
        self._thresholds = thresholds
        self._sizes: Sizes | None = None
        self._hints: list[Hint] = []

    async def run(self) -> MaintenanceReport:
        started_at = time.monotonic()
        steps: list[tuple[str, _Step]] = [
            ("jobs", self._remove_jobs),
            ("job_attempts", self._remove_attempts),
            *((name, self._plain(count, remove)) for name, count, remove in _PLAIN_LEFTOVERS),
            ("imports", self._remove_imports),
            ("lost_workers", self._forget_workers),
            ("file_usage", self._recount),
            ("sizes", self._measure),
        ]
        reports = [await _run(name, step) for name, step in steps]
        return MaintenanceReport(
            self._dry_run, reports, self._sizes, self._hints, seconds=time.monotonic() - started_at
        )

    async def _remove_jobs(self, report: StepReport) -> None:
        rules = await self._batches.once(lambda conn: retention.read_retention(conn, self._default))
        after, more = _FIRST_ID, True

        async def batch(conn: asyncpg.Connection, limit: int) -> tuple[retention.Expired, bool]:
            expired = await retention.remove_expired(conn, rules, after, limit=limit, dry_run=self._dry_run)
            return expired, expired.visited == limit

        while more:
            expired, more = await self._batches.run(batch)
            report.count(visited=expired.visited, removed=expired.found)
            after = expired.last

    async def _remove_attempts(self, report: StepReport) -> None:
        after, more = leftovers.FIRST_ATTEMPT, True

        async def batch(conn: asyncpg.Connection, limit: int) -> tuple[leftovers.AttemptsWalk, bool]:
            walk = await leftovers.walk_attempts(conn, after, limit=limit, dry_run=self._dry_run)
            return walk, walk.visited == limit

        while more:
            walk, more = await self._batches.run(batch)
            report.count(visited=walk.visited, removed=walk.found)
            after = walk.last

    def _plain(self, count: _Count, remove: _Remove) -> _Step:
        async def step(report: StepReport) -> None:
            if self._dry_run:
                report.count(removed=await self._batches.once(count))
                return

            async def batch(conn: asyncpg.Connection, limit: int) -> tuple[int, bool]:
                removed = await remove(conn, limit=limit)
                return removed, removed == limit

            more = True
            while more:
                removed, more = await self._batches.run(batch)
                report.count(removed=removed)

        return step

    async def _remove_imports(self, report: StepReport) -> None:
        if self._dry_run:
            report.count(removed=await self._batches.once(retention.count_abandoned_imports))
            return

        async def batch(conn: asyncpg.Connection, limit: int) -> tuple[int | None, bool]:
            rows = await retention.remove_abandoned_import(conn, limit=limit)
            return rows, rows is not None and rows < limit

        report.count(removed=0, rows=0)
        rows: int | None = 0
        while rows is not None:
            rows, is_gone = await self._batches.run(batch)
            report.count(removed=is_gone, rows=rows or 0)

    async def _forget_workers(self, report: StepReport) -> None:
        forget = millrace_queue.forget_lost_workers
        count = millrace_queue.count_forgettable_workers
        report.count(removed=await self._batches.once(count if self._dry_run else forget))

    async def _recount(self, report: StepReport) -> None:
        report.count(organisations=0, differed=0)
        uncounted: list[str] = []
        after = ""

        async def batch(conn: asyncpg.Connection, limit: int) -> Sequence[str]:
            return await file_usage_recount.next_organisations(conn, after, limit=limit)

        while organisations := await self._batches.run(batch):
            for org_id in organisations:
                try:
                    report.count(organisations=1, differed=await self._recount_one(org_id))
                except TimeoutError:
                    uncounted.append(org_id)
            after = organisations[-1]
        if uncounted:
            raise TimeoutError(
                f"the files of {len(uncounted)} organisations could not be counted in time, such as {uncounted[0]}"
            )

    async def _recount_one(self, org_id: str) -> bool:
        if not await self._batches.once(lambda conn: file_usage_recount.usage_differs(conn, org_id)):
            return False
        if self._dry_run:
            return True
        return await self._batches.once(lambda conn: file_usage_recount.recount_usage(conn, org_id))

    async def _measure(self, report: StepReport) -> None:
        sizes = await self._batches.once(lambda conn: measure_sizes(conn, MAINTAINED_TABLES))
        oldest = await self._batches.once(oldest_transaction)
        self._sizes = sizes
        self._hints = hints_of(sizes, oldest, self._thresholds)
        report.count(tables=len(sizes.tables), indexes=len(sizes.indexes), hints=len(self._hints))


async def _run(name: str, step: _Step) -> StepReport:
    report = StepReport(name)
    started_at = time.monotonic()
    try:
        await step(report)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other steps are not concerned, and the report tells it
        report.error = error
    report.seconds = time.monotonic() - started_at
    return report

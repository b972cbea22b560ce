"""Firing of system schedules: their runs are started when their time has come, each by one of all schedulers."""

import asyncio
from contextlib import suppress
from datetime import datetime

import structlog

from millrace_database import system_schedules_repository as repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.system_schedules_repository import NotStarted, SystemScheduleRecord
from millrace_scheduler.cron import CronError, CronExpression
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Cron, next_run
from millrace_scheduler.stale_system_schedules import StaleSystemSchedules

_FULL_PASS_SECONDS = 60.0
_OUTAGE_SECONDS = 1.0
# Sleeping is a little inexact; waking early would cost a query.
_MARGIN_SECONDS = 0.002
# What is due and was not fired because the row was changed in between is looked for again after so long.
_LEAST_PAUSE_SECONDS = 0.1
# A due schedule whose times this release does not understand is left to others for so long.
_UNREADABLE_PAUSE_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class SystemFiring:
    """The loop that fires due system schedules.

    A run is an entry of the queue that comes in with the change of the schedule's next time, in one transaction, if
    the schedule is still at the time that is due. So any number of schedulers may run, and each may die at any point.
    """

    def __init__(self, database: Database) -> None:
        """Take where the schedules are."""
        self._database = database
        self._stale = StaleSystemSchedules()
        self._changed = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._draining = False

    def wake(self) -> None:
        """Look for schedules now: a worker lists some."""
        self._changed.set()

    async def run(self) -> None:
        """Fire until drained or cancelled. Sleeps until the next schedule is due, at most a minute."""
        while not self._draining:
            self._changed.clear()
            pause = await self._pass()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def drain(self) -> None:
        """Finish the firing in hand and begin no others."""
        self._draining = True
        self.wake()
        async with self._at_work:
            pass

    async def _pass(self) -> float:
        """Fire what is due and return for how many seconds there is nothing to do."""
        try:
            async with self._at_work:
                return 0.0 if self._draining else await self._see_to_all()
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._stale.interrupted()
            _log.warning("system schedules wait for the database", error=str(error))
            return _OUTAGE_SECONDS

    async def _see_to_all(self) -> float:
        async with self._database.connection() as connection:
            await self._stale.remove(connection)
            lost = await repository.end_lost_runs(connection)
            unplanned = await repository.unplanned_system_schedules(connection)
            due = await repository.due_system_schedules(connection)
        for type_, run_id in lost.items():
            _log.error(
                "system run failed: its workers were lost", type=type_, run_id=format_id("system", run_id)
            )
        for schedule in unplanned:
            await self._plan(schedule)
        left = [schedule.type for schedule in due if not await self._fire_or_leave(schedule)]
        async with self._database.connection() as connection:
            seconds = await repository.seconds_until_due(connection, left)
        most = _UNREADABLE_PAUSE_SECONDS if left else _FULL_PASS_SECONDS
        if seconds is None:
            return most
        return min(max(seconds + _MARGIN_SECONDS, _LEAST_PAUSE_SECONDS), most)

    async def _plan(self, schedule: SystemScheduleRecord) -> None:
        try:
            # Times since it was published are missed ones, which are made up for.
            next_run_at = _next_run(schedule, schedule.published_at)
        except (CronError, LookupError, OverflowError) as error:
            await self._record_fault(schedule, str(error))
            return
        async with self._database.connection() as connection:
            await repository.plan_system_schedule(connection, schedule, next_run_at)

    async def _record_fault(self, schedule: SystemScheduleRecord, said: str) -> None:
        async with self._database.connection() as connection:
            is_new = await repository.record_fault(connection, schedule, said)
        if is_new:
            _log.error("system schedule cannot be used", type=schedule.type, error=said)

    async def _fire_or_leave(self, schedule: SystemScheduleRecord) -> bool:
        """Fire a due schedule; False: only a newer release understands its times, and it is left to those."""
        try:
            # Of the times missed until now, only the one that is due is made up for.
            next_run_at = _next_run(schedule, schedule.read_at)
        except (CronError, LookupError, OverflowError) as error:
            _log.error("system schedule cannot be used", type=schedule.type, error=str(error))
            return False
        await self._fire(schedule, next_run_at)
        return True

    async def _fire(self, schedule: SystemScheduleRecord, next_run_at: datetime) -> None:
        async with self._database.transaction() as connection:
            started = await repository.fire_system_schedule(connection, schedule, next_run_at)
        match started:
            case NotStarted.BUSY:
                _log.warning(
                    "system schedule skips a time: its last run is not over",
                    type=schedule.type,
                    scheduled_time=str(schedule.next_run_at),
                )
            case NotStarted():
                pass
            case run_id:
                async with self._database.connection() as connection:
                    await repository.hint_at_run(connection, schedule.type)
                _log.info(
                    "system schedule fired",
                    type=schedule.type,
                    run_id=format_id("system", run_id),
                    scheduled_time=str(schedule.next_run_at),
                )


def _next_run(schedule: SystemScheduleRecord, after: datetime) -> datetime:
    """Return the first time after `after` that a schedule names.

    Raises CronError, LookupError or OverflowError when its expression or time zone is wrong, or names no time.
    """
    recurrence = Cron(CronExpression.parse(schedule.cron))
    found = next_run(
        recurrence, load_zone(schedule.time_zone), after, start_at=None, end_at=None, anchor=after
    )
    if found is None:
        raise OverflowError("it names no time")
    return found

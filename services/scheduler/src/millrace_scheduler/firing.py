"""Firing: the jobs of schedules whose time has come are created, each once, whatever else happens."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import structlog

from millrace_database import firing_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.firing_repository import Outcome, Recorded, Reserved
from millrace_database.ids import format_id
from millrace_scheduler.failed_runs import FailedRunsWatch
from millrace_scheduler.firing_attempt import FiringAttempt, names
from millrace_scheduler.jobs_client import JobsClient, rfc3339
from millrace_scheduler.outcome_recorder import OutcomeRecorder

# A firing that was not recorded, because its scheduler died or the Jobs service was away, is tried again when the
# reservation is over. It outlasts the call, so that two schedulers seldom make the same one.
_RESERVATION = timedelta(seconds=15)
_MAX_IN_FLIGHT = 256
_FULL_PASS_SECONDS = 60.0
_OUTAGE_SECONDS = 1.0
# When something is due and cannot be had, because another holds its row.
_CONTENTION_SECONDS = 0.1
# Sleeping is a little inexact; waking early would cost a query.
_MARGIN_SECONDS = 0.002
_FIRST_RETRY = timedelta(seconds=1)

_log = structlog.get_logger(__name__)


class Firing:
    """The loop that fires due schedules.

    A due schedule is reserved for a while, its job is created under a request id made of the schedule and the
    scheduled time, and then the schedule is moved on if it is still at that time. So any number of schedulers may
    run, and each may die at any point: a job that exists is found instead of created again.

    Each firing goes its own way, so that one that hangs holds up nothing but its place among those in flight.
    """

    def __init__(
        self, database: Database, jobs: JobsClient, *, first_retry: timedelta = _FIRST_RETRY
    ) -> None:
        """Take what to fire and through whom; a refused job is tried again after `first_retry`, then after twice that…"""
        self._database = database
        self._attempt = FiringAttempt(jobs, first_retry=first_retry)
        self._recorder = OutcomeRecorder(database)
        self._failed_runs = FailedRunsWatch(database)
        self._in_flight: dict[UUID, asyncio.Task[None]] = {}
        #: How many each organisation has in flight.
        self._places: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._reserving = asyncio.Lock()
        self._draining = False

    def wake(self) -> None:
        """Look for due schedules now: one was created or resumed."""
        self._changed.set()

    async def run(self) -> None:
        """Fire until drained or cancelled. Sleeps until the next schedule is due, at most a minute."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._failed_runs.run())
            while not self._draining:
                self._changed.clear()
                pause = await self._pass(tasks)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
            watching.cancel()

    async def drain(self) -> None:
        """Finish the firings in hand and begin no others."""
        self._draining = True
        self.wake()
        async with self._reserving:
            pass
        if self._in_flight:
            await asyncio.wait(self._in_flight.values())

    async def _pass(self, tasks: asyncio.TaskGroup) -> float:
        """Begin to fire what is due, as far as there are places; return for how many seconds there is nothing to do."""
        free = _MAX_IN_FLIGHT - len(self._in_flight)
        if not free:
            return _FULL_PASS_SECONDS
        try:
            async with self._reserving:
                begun = 0 if self._draining else await self._begin(tasks, free)
            return 0.0 if begun == free else await self._seconds_to_sleep(begun)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("schedules wait for the database", error=str(error))
            return _OUTAGE_SECONDS

    async def _begin(self, tasks: asyncio.TaskGroup, free: int) -> int:
        async with self._database.connection() as connection:
            due = await firing_repository.reserve_due(
                connection, lease=_RESERVATION, limit=free, under_way=list(self._places.elements())
            )
            watched = [
                one.schedule.schedule_id
                for one in due
                if one.schedule.pause_after_failed_runs and not one.tried_before
            ]
            paused = await firing_repository.pause_failed(connection, watched) if watched else set()
        for reserved in due:
            schedule_id = reserved.schedule.schedule_id
            if schedule_id in paused:
                _log.warning("schedule is paused: its jobs fail", **names(reserved.schedule))
            else:
                # Recorded a moment ago, or longer under way than its reservation lasted.
                before = self._in_flight.get(schedule_id)
                self._places[reserved.schedule.org_id] += 1
                self._in_flight[schedule_id] = tasks.create_task(self._fire(reserved, before))
        return len(due)

    async def _seconds_to_sleep(self, begun: int) -> float:
        async with self._database.connection() as connection:
            seconds = await firing_repository.seconds_until_due(connection)
        if seconds is None:
            return _FULL_PASS_SECONDS
        if not seconds and not begun:
            return _CONTENTION_SECONDS
        return min(seconds + _MARGIN_SECONDS, _FULL_PASS_SECONDS)

    async def _fire(self, reserved: Reserved, before: asyncio.Task[None] | None) -> None:
        """Fire a schedule once, after the firing of it that is still under way."""
        schedule = reserved.schedule
        try:
            if before is not None:
                await asyncio.wait([before])
            outcome = await self._attempt(reserved)
            if outcome is not None:
                _tell(reserved, outcome, await self._recorder.record(outcome))
        except Exception as error:  # noqa: BLE001 - one firing must not end the others
            if is_unavailable(error):
                _log.warning("firing is left for later", **names(schedule), error=str(error))
            else:
                _log.exception("firing is left for later", **names(schedule))
        finally:
            self._places -= Counter((schedule.org_id,))
            if self._in_flight[schedule.schedule_id] is asyncio.current_task():
                del self._in_flight[schedule.schedule_id]
            # There is a place, and the schedule may be due again.
            self.wake()


def _tell(reserved: Reserved, outcome: Outcome, recorded: Recorded | None) -> None:
    known = {**names(reserved.schedule), "scheduled_time": rfc3339(outcome.scheduled_time)}
    if outcome.missed_count:
        _log.warning("times were missed", **known, count=outcome.missed_count)
    match outcome.outcome:
        case "fired" if outcome.job_id is not None:
            job_id = format_id("job", outcome.job_id)
            _log.info("schedule fired", **known, job_id=job_id, recorded=recorded is not None)
        case "skipped":
            _log.info("time was skipped", **known, reason=outcome.reason)
        case "failed" if recorded is not None:
            failures, paused = recorded.consecutive_failures, recorded.paused
            _log.warning("job was refused", **known, failures=failures, paused=paused, error=outcome.reason)

"""Firing: the jobs of schedules whose time has come are created, each once, whatever else happens."""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta

import grpc
import structlog

from millrace_database import schedules_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_scheduler.jobs_client import JobsClient, rfc3339
from millrace_scheduler.stored_schedules import next_run_of

FAILURES_UNTIL_PAUSE = 5

# A firing that was not recorded, because its scheduler died or the Jobs service was away, is tried again when the
# reservation is over. It outlasts the call, so that two schedulers seldom make the same one.
_RESERVATION = timedelta(seconds=15)
_CALL_SECONDS = 10.0
_BATCH = 32
_FULL_PASS_SECONDS = 60.0
_OUTAGE_SECONDS = 1.0
# When something is due and cannot be had, because another holds its row.
_CONTENTION_SECONDS = 0.1
# Sleeping is a little inexact; waking early would cost a query.
_MARGIN_SECONDS = 0.002
_FIRST_RETRY = timedelta(seconds=1)
_MAX_REASON_LENGTH = 500

# The schedule's own fault. Any other code says that the Jobs service, or the way to it, is in trouble.
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)

_log = structlog.get_logger(__name__)


class Firing:
    """The loop that fires due schedules.

    A due schedule is reserved for a while, its job is created under a request id made of the schedule and the
    scheduled time, and then the schedule is moved on if it is still at that time. So any number of schedulers may
    run, and each may die at any point: a job that exists is found instead of created again.
    """

    def __init__(
        self, database: Database, jobs: JobsClient, *, first_retry: timedelta = _FIRST_RETRY
    ) -> None:
        """Take what to fire and through whom; a refused job is tried again after `first_retry`, then after twice that…"""
        self._database = database
        self._jobs = jobs
        self._first_retry = first_retry
        self._changed = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._draining = False

    def wake(self) -> None:
        """Look for due schedules now: one was created or resumed."""
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
        """Finish the firings in hand and begin no others."""
        self._draining = True
        self.wake()
        async with self._at_work:
            pass

    async def _pass(self) -> float:
        """Fire what is due and return for how many seconds there is nothing to do."""
        try:
            async with self._at_work:
                fired = 0 if self._draining else await self._fire_due()
            return 0.0 if fired == _BATCH else await self._seconds_to_sleep(fired)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("schedules wait for the database", error=str(error))
            return _OUTAGE_SECONDS

    async def _fire_due(self) -> int:
        async with self._database.connection() as connection:
            due = await schedules_repository.reserve_due(connection, lease=_RESERVATION, limit=_BATCH)
        async with asyncio.TaskGroup() as firings:
            for schedule in due:
                firings.create_task(self._fire_or_record(schedule))
        return len(due)

    async def _seconds_to_sleep(self, fired: int) -> float:
        async with self._database.connection() as connection:
            seconds = await schedules_repository.seconds_until_due(connection)
        if seconds is None:
            return _FULL_PASS_SECONDS
        if not seconds and not fired:
            return _CONTENTION_SECONDS
        return min(seconds + _MARGIN_SECONDS, _FULL_PASS_SECONDS)

    async def _fire_or_record(self, schedule: ScheduleRecord) -> None:
        try:
            reason = await self._fire(schedule)
            if reason is not None:
                await self._record_failure(schedule, reason)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("firing is left for later", **_names(schedule), error=str(error))

    async def _fire(self, schedule: ScheduleRecord) -> str | None:
        """Create the job and move the schedule on; return why it was refused, if it was."""
        due_at = _due_at(schedule)
        try:
            # Of the times missed until now, only this one is made up for.
            upcoming = next_run_of(schedule, max(schedule.read_at, due_at))
            job_id = await self._jobs.create_job(
                schedule,
                scheduled_time=due_at,
                request_id=f"schedule:{format_id('schedule', schedule.schedule_id)}:{rfc3339(due_at)}",
                deadline_seconds=_CALL_SECONDS,
                wait_for_ready=True,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                return error.details() or error.code().name
            _log.warning("firing is left for later", **_names(schedule), error=error.code().name)
            return None
        except Exception:  # noqa: BLE001 - a damaged row must not keep the others from firing
            _log.exception("schedule cannot be used", **_names(schedule))
            return "the stored schedule cannot be used"
        async with self._database.connection() as connection:
            moved = await schedules_repository.record_fired(
                connection, schedule.schedule_id, fired_for=due_at, next_run_at=upcoming, job_id=job_id
            )
        _log.info(
            "schedule fired",
            **_names(schedule),
            job_id=format_id("job", job_id),
            scheduled_time=rfc3339(due_at),
            recorded=moved,
        )
        return None

    async def _record_failure(self, schedule: ScheduleRecord, reason: str) -> None:
        async with self._database.connection() as connection:
            outcome = await schedules_repository.record_failure(
                connection,
                schedule.schedule_id,
                failed_for=_due_at(schedule),
                retry_delay=self._first_retry * 2**schedule.consecutive_failures,
                pause_after=FAILURES_UNTIL_PAUSE,
                reason=_pause_reason(reason),
            )
        if outcome is not None:
            _log.warning(
                "job was refused",
                **_names(schedule),
                failures=outcome.consecutive_failures,
                paused=outcome.paused,
                error=reason,
            )


def _due_at(schedule: ScheduleRecord) -> datetime:
    if schedule.next_run_at is None:
        raise ValueError("the schedule has no next time")
    return schedule.next_run_at


def _pause_reason(reason: str) -> str:
    text = f"no job could be created, {FAILURES_UNTIL_PAUSE} times in a row: {reason}".replace("\0", "")
    return text if len(text) <= _MAX_REASON_LENGTH else text[: _MAX_REASON_LENGTH - 1] + "…"


def _names(schedule: ScheduleRecord) -> dict[str, str]:
    return {"org_id": schedule.org_id, "schedule_id": format_id("schedule", schedule.schedule_id)}

"""One firing: what a reserved schedule's time comes to, its job included."""

import asyncio
from datetime import datetime, timedelta
from time import monotonic
from typing import Literal, cast
from uuid import UUID

import grpc
import structlog
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace_database.firing_repository import Outcome, Reserved
from millrace_database.ids import format_id, parse_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_scheduler.catch_up import Decision, decide
from millrace_scheduler.jobs_client import JobsClient, firing_request_id
from millrace_scheduler.outcome_recorder import FAILURES_UNTIL_PAUSE

FIRING_SECONDS = 10.0
"""How long the calls of the Jobs service may take that a firing needs, together."""

_MAX_REASON_LENGTH = 500
# To count the times that were missed for so long may take too long for everything else to wait.
_LONG_AGO = timedelta(hours=1)
_SLOWER = 60

# The schedule's own fault.
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
# It may be the schedule's fault, or may end by itself. Any other code says that the Jobs service, or the way to it, is
# in trouble.
_SLOW_REFUSALS = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL})

_log = structlog.get_logger(__name__)


class FiringAttempt:
    """Decides about reserved schedules and creates their jobs."""

    def __init__(self, jobs: JobsClient, *, first_retry: timedelta) -> None:
        """Take who creates jobs; a refused one is tried again after `first_retry`, then after twice that…"""
        self._jobs = jobs
        self._first_retry = first_retry

    async def __call__(self, reserved: Reserved) -> Outcome | None:
        """Return what became of a schedule's time; None when nothing is known: it is tried again after its reservation."""
        schedule = reserved.schedule
        try:
            decision = await _decision(reserved)
            if not decision.fires:
                return _moved_on(schedule, decision, "missed")
            return await self._fire(schedule, decision)
        except Exception:  # noqa: BLE001 - a damaged row must not keep the others from firing
            _log.exception("schedule cannot be used", **names(schedule))
            return self._failed(schedule, _scheduled_time(schedule), "the stored schedule cannot be used")

    async def _fire(self, schedule: ScheduleRecord, decision: Decision) -> Outcome | None:
        time = decision.current.scheduled
        until = monotonic() + FIRING_SECONDS
        try:
            try:
                job_id = await self._create(schedule, time, until)
                return _moved_on(schedule, decision, "fired", job_id=job_id)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                return await self._existing(schedule, decision, error, until)
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            if error.code() in _REFUSALS:
                return self._failed(schedule, time, reason)
            if error.code() in _SLOW_REFUSALS:
                return self._failed(schedule, time, reason, slower=_SLOWER)
            _log.warning("firing is left for later", **names(schedule), error=error.code().name)
            return None

    async def _create(self, schedule: ScheduleRecord, time: datetime, until: float) -> UUID:
        job_id = await self._jobs.create_job(
            schedule,
            scheduled_time=time,
            request_id=firing_request_id(schedule.schedule_id, time),
            deadline_seconds=_left(until),
            wait_for_ready=True,
            overlap_policy=schedule.overlap_policy,
        )
        # Not before: a job that is refused is no reason to stop another one.
        if schedule.overlap_policy == "cancel_running" and schedule.last_job_id not in (None, job_id):
            await self._jobs.cancel_job(schedule.org_id, schedule.last_job_id, deadline_seconds=_left(until))
        return job_id

    async def _existing(
        self, schedule: ScheduleRecord, decision: Decision, error: grpc.aio.AioRpcError, until: float
    ) -> Outcome:
        """Tell the job of this very time, created before the schedule was changed, from that of another one."""
        time = decision.current.scheduled
        job_id = _resource_name(error)
        if await self._jobs.made_for(schedule, time, job_id, deadline_seconds=_left(until)):
            return _moved_on(schedule, decision, "fired", job_id=parse_id("job", job_id))
        match schedule.overlap_policy:
            case "skip":
                return _moved_on(schedule, decision, "skipped", reason=f"{job_id} is not finished")
            case "buffer_one":
                return _moved_on(schedule, decision, "skipped", reason=f"{job_id} waits already")
            case _:
                raise error

    def _failed(self, schedule: ScheduleRecord, time: datetime, reason: str, *, slower: int = 1) -> Outcome:
        return Outcome(
            schedule_id=schedule.schedule_id,
            due_at=_due_at(schedule),
            scheduled_time=time,
            outcome="failed",
            reason=_shortened(reason),
            pause_reason=_shortened(
                f"no job could be created, {FAILURES_UNTIL_PAUSE} times in a row: {reason}"
            ),
            retry_delay=self._first_retry * slower * 2**schedule.consecutive_failures,
        )


def names(schedule: ScheduleRecord) -> dict[str, str]:
    """Return what a log entry says of which schedule it is about."""
    return {"org_id": schedule.org_id, "schedule_id": format_id("schedule", schedule.schedule_id)}


async def _decision(reserved: Reserved) -> Decision:
    schedule = reserved.schedule
    if schedule.read_at - _due_at(schedule) < _LONG_AGO:
        return decide(schedule, tried_before=reserved.tried_before)
    return await asyncio.to_thread(decide, schedule, tried_before=reserved.tried_before)


def _moved_on(
    schedule: ScheduleRecord,
    decision: Decision,
    outcome: Literal["fired", "skipped", "missed"],
    *,
    job_id: UUID | None = None,
    reason: str = "",
) -> Outcome:
    upcoming = decision.upcoming
    return Outcome(
        schedule_id=schedule.schedule_id,
        due_at=_due_at(schedule),
        scheduled_time=decision.current.scheduled,
        outcome=outcome,
        job_id=job_id,
        reason=reason,
        upcoming_at=upcoming.fires if upcoming else None,
        upcoming_scheduled=upcoming.scheduled if upcoming else None,
        missed_count=decision.missed_count,
        missed_times=decision.missed,
    )


def _left(until: float) -> float:
    return max(until - monotonic(), 0.0)


def _scheduled_time(schedule: ScheduleRecord) -> datetime:
    return schedule.next_scheduled_time or _due_at(schedule)


def _due_at(schedule: ScheduleRecord) -> datetime:
    if schedule.next_run_at is None:
        raise ValueError("the schedule has no next time")
    return schedule.next_run_at


def _resource_name(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(cast("grpc.Call", error))
    info = error_details_pb2.ResourceInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return info.resource_name
    raise error


def _shortened(text: str) -> str:
    text = text.replace("\0", "")
    return text if len(text) <= _MAX_REASON_LENGTH else text[: _MAX_REASON_LENGTH - 1] + "…"

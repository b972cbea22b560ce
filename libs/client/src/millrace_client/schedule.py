"""A schedule: which job to create, and when."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from millrace.scheduler.v1 import schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.delivery import Delivery, read_delivery
from millrace_client.recurrence import Recurrence, read_recurrence
from millrace_client.schedule_policies import CatchUpPolicy, OverlapPolicy, read_catch_up, read_overlap
from millrace_client.schedule_run import ScheduleRun, read_run
from millrace_client.values import from_struct, from_timestamp, length_or_none, time_or_none


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of an organisation. Times are in UTC; None means not set."""

    schedule_id: str
    org_id: str
    name: str
    type: str
    """The type of the jobs it creates."""
    input: dict[str, Any]
    metadata: dict[str, Any]
    recurrence: Recurrence | None
    """When it fires; None for a frequency that this version of the SDK does not know."""
    time_zone: str
    """The IANA time zone of its local times."""
    start_at: datetime | None
    end_at: datetime | None
    paused: bool
    pause_reason: str
    next_run_at: datetime | None
    """When it fires next, jitter included; None while paused and once it has fired for the last time."""
    last_run_at: datetime | None
    """The scheduled time of its latest firing."""
    last_job_id: str
    consecutive_failures: int
    """How many times in a row a job could not be created; at five the schedule pauses itself."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    jitter: timedelta
    """Each firing is late by up to so much, chosen by the schedule and the time."""
    overlap_policy: OverlapPolicy
    catch_up_policy: CatchUpPolicy
    catch_up_window: timedelta | None
    """How far back RUN_ALL goes."""
    max_runs: int
    """It ends after so many firings; 0: never."""
    pause_after_failed_runs: int
    """It pauses itself when so many of its jobs in a row have failed; 0: never."""
    delivery: Delivery | None
    """None: nothing is done with results; also for a way of delivery that this version of the SDK does not know."""
    version: int
    """Grows with each change by a caller, and each pause."""
    fired_count: int
    """How many of its times were fired."""
    missed_count: int
    """How many of its times were not fired because no scheduler ran then."""
    skipped_count: int
    """How many of its times were skipped because of `overlap_policy`."""
    next_run_times: tuple[datetime, ...] | None = field(default=None, compare=False)
    """The next ten times at which it fires, fewer when it ends before, none while it is paused; only `get` tells."""
    last_runs: tuple[ScheduleRun, ...] | None = field(default=None, compare=False)
    """What became of its last ten times, the latest first; only `get` tells."""


def read_schedule(message: schedule_pb2.Schedule) -> Schedule:
    """Turn the contract's message into a Schedule."""
    return Schedule(
        schedule_id=message.schedule_id,
        org_id=message.org_id,
        name=message.name,
        type=message.type,
        input=from_struct(message.input),
        metadata=from_struct(message.metadata),
        recurrence=read_recurrence(message.recurrence),
        time_zone=message.time_zone,
        start_at=time_or_none(message, "start_at"),
        end_at=time_or_none(message, "end_at"),
        paused=message.paused,
        pause_reason=message.pause_reason,
        next_run_at=time_or_none(message, "next_run_at"),
        last_run_at=time_or_none(message, "last_run_at"),
        last_job_id=message.last_job_id,
        consecutive_failures=message.consecutive_failures,
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        updated_at=from_timestamp(message.updated_at),
        jitter=message.jitter.ToTimedelta(),
        overlap_policy=read_overlap(message.overlap_policy),
        catch_up_policy=read_catch_up(message.catch_up_policy),
        catch_up_window=length_or_none(message, "catch_up_window"),
        max_runs=message.max_runs,
        pause_after_failed_runs=message.pause_after_failed_runs,
        delivery=read_delivery(message.delivery),
        version=message.version,
        fired_count=message.fired_count,
        missed_count=message.missed_count,
        skipped_count=message.skipped_count,
    )


def read_details(response: messages.GetScheduleResponse) -> Schedule:
    """Turn the answer about one schedule into a Schedule that says what only such an answer does."""
    return replace(
        read_schedule(response.schedule),
        next_run_times=tuple(map(from_timestamp, response.next_run_times)),
        last_runs=tuple(map(read_run, response.last_runs)),
    )

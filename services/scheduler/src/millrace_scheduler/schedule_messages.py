from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.ids import format_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.struct_json import datetime_to_timestamp, json_to_struct, timedelta_to_duration
from millrace_scheduler.delivery_messages import delivery_to_message
from millrace_scheduler.recurrence_messages import recurrence_from_json
from millrace_scheduler.schedule_words import catch_up_policy, overlap_policy

_log = structlog.get_logger(__name__)


def schedule_message(record: ScheduleRecord) -> schedule_pb2.Schedule:
    """Return a schedule as callers see it.

    Of one that is damaged, or written by a later release, what cannot be read is left out, and logged.
    """
    schedule = schedule_pb2.Schedule(
        schedule_id=format_id("schedule", record.schedule_id),
        org_id=record.org_id,
        name=record.name,
        type=record.type,
        input=json_to_struct(record.input_json),
        metadata=json_to_struct(record.metadata_json),
        time_zone=record.time_zone,
        paused=record.paused,
        pause_reason=record.pause_reason,
        last_job_id="" if record.last_job_id is None else format_id("job", record.last_job_id),
        consecutive_failures=record.consecutive_failures,
        created_by=record.created_by,
        created_at=datetime_to_timestamp(record.created_at),
        updated_at=datetime_to_timestamp(record.updated_at),
        max_runs=record.max_runs,
        pause_after_failed_runs=record.pause_after_failed_runs,
        overlap_policy=overlap_policy(record.overlap_policy),
        catch_up_policy=catch_up_policy(record.catch_up_policy),
        version=record.version,
        fired_count=record.fired_count,
        missed_count=record.missed_count,
        skipped_count=record.skipped_count,
    )
    if record.jitter_seconds:
        schedule.jitter.CopyFrom(timedelta_to_duration(timedelta(seconds=record.jitter_seconds)))
    if record.catch_up_seconds is not None:
        schedule.catch_up_window.CopyFrom(timedelta_to_duration(timedelta(seconds=record.catch_up_seconds)))
    _add_stored_messages(schedule, record)
    for field, time in _optional_times(schedule, record):
        if time is not None:
            field.CopyFrom(datetime_to_timestamp(time))
    return schedule


def _add_stored_messages(schedule: schedule_pb2.Schedule, record: ScheduleRecord) -> None:
    try:
        schedule.recurrence.CopyFrom(recurrence_from_json(record.recurrence_json))
    except ValueError as error:
        _log.warning("stored schedule cannot be read", schedule_id=schedule.schedule_id, error=str(error))
    try:
        if record.delivery_json is not None:
            schedule.delivery.CopyFrom(delivery_to_message(record.delivery_json))
    except ValueError as error:
        _log.warning("stored schedule cannot be read", schedule_id=schedule.schedule_id, error=str(error))


def _optional_times(
    schedule: schedule_pb2.Schedule, record: ScheduleRecord
) -> Iterable[tuple[Timestamp, datetime | None]]:
    yield schedule.start_at, record.start_at
    yield schedule.end_at, record.end_at
    yield schedule.last_run_at, record.last_run_at
    yield schedule.next_run_at, None if record.paused else record.next_run_at

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.ids import format_id
from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.struct_json import datetime_to_timestamp, json_to_struct
from millrace_scheduler.recurrence_messages import recurrence_from_json


def schedule_message(record: ScheduleRecord) -> schedule_pb2.Schedule:
    """Return a schedule as callers see it."""
    schedule = schedule_pb2.Schedule(
        schedule_id=format_id("schedule", record.schedule_id),
        org_id=record.org_id,
        name=record.name,
        type=record.type,
        input=json_to_struct(record.input_json),
        metadata=json_to_struct(record.metadata_json),
        recurrence=recurrence_from_json(record.recurrence_json),
        time_zone=record.time_zone,
        paused=record.paused,
        pause_reason=record.pause_reason,
        last_job_id="" if record.last_job_id is None else format_id("job", record.last_job_id),
        consecutive_failures=record.consecutive_failures,
        created_by=record.created_by,
        created_at=datetime_to_timestamp(record.created_at),
        updated_at=datetime_to_timestamp(record.updated_at),
    )
    for field, time in _optional_times(schedule, record):
        if time is not None:
            field.CopyFrom(datetime_to_timestamp(time))
    return schedule


def _optional_times(
    schedule: schedule_pb2.Schedule, record: ScheduleRecord
) -> Iterable[tuple[Timestamp, datetime | None]]:
    yield schedule.start_at, record.start_at
    yield schedule.end_at, record.end_at
    yield schedule.last_run_at, record.last_run_at
    yield schedule.next_run_at, None if record.paused else record.next_run_at

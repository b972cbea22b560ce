"""Changes of schedules: which fields a request names, and what becomes of a schedule with them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.schedules_repository import ScheduleRecord, ScheduleValues
from millrace_runtime.json_document import JsonDocument
from millrace_runtime.validation import Violations
from millrace_scheduler.fire_times import FireTime, Timing, next_fire, stored_fire
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Recurrence
from millrace_scheduler.schedule_fields import CHANGEABLE, FieldRules, check_fields, check_together
from millrace_scheduler.stored_schedules import stored_recurrence

_TIMING = frozenset({"recurrence", "time_zone", "start_at", "end_at"})
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ScheduleUpdate:
    """A schedule as it was read, and what a request makes of it.

    `input` and `recurrence` are None when they stay.
    """

    before: ScheduleRecord
    paths: frozenset[str]
    values: ScheduleValues
    input: JsonDocument | None
    recurrence: Recurrence | None

    @property
    def changes_jobs(self) -> bool:
        """Whether its jobs may be other ones than before."""
        return bool(self.paths & {"type", "input"})

    @property
    def changes_times(self) -> bool:
        """Whether it must have a time to fire at."""
        return bool(self.paths & _TIMING)

    def input_value(self) -> Mapping[str, Any]:
        """Return the input of its jobs."""
        if self.input is not None:
            return self.input.value
        stored: Mapping[str, Any] = orjson.loads(self.values.input_json)
        return stored

    def next_fire(self) -> FireTime | None:
        """Return when it fires next; None: it has ended.

        A new recurrence, time zone, start or end counts from now on. A new jitter holds for the time that is next.

        Raises ValueError or LookupError when what is stored cannot be read.
        """
        if self.has_run_often_enough:
            return None
        if self.changes_times or (self.before.next_run_at is None and "max_runs" in self.paths):
            return next_fire(
                self._timing(), max(self.before.read_at, self.before.last_run_at or self.before.read_at)
            )
        if self.before.next_run_at is None:
            return None
        if self.values.jitter_seconds == self.before.jitter_seconds:
            return FireTime(
                self.before.next_scheduled_time or self.before.next_run_at, self.before.next_run_at
            )
        return self._with_new_jitter(self.before.next_run_at)

    @property
    def has_run_often_enough(self) -> bool:
        """Whether it has ended by its number of firings."""
        return bool(self.values.max_runs) and self.before.fired_count >= self.values.max_runs

    def _with_new_jitter(self, next_run_at: datetime) -> FireTime | None:
        timing = self._timing()
        before = dataclasses.replace(timing, jitter_seconds=self.before.jitter_seconds)
        scheduled = stored_fire(before, next_run_at, self.before.next_scheduled_time).scheduled
        return next_fire(timing, scheduled - _MICROSECOND)

    def _timing(self) -> Timing:
        return Timing(
            schedule_id=self.before.schedule_id,
            recurrence=self.recurrence or stored_recurrence(self.values.recurrence_json),
            time_zone=load_zone(self.values.time_zone),
            start_at=self.values.start_at,
            end_at=self.values.end_at,
            anchor=self.before.created_at,
            jitter_seconds=self.values.jitter_seconds,
        )


def check_update(
    before: ScheduleRecord,
    message: schedule_pb2.Schedule,
    paths: frozenset[str],
    violations: Violations,
    rules: FieldRules,
) -> ScheduleUpdate:
    """Return what a schedule becomes; all that is wrong with the fields that `paths` names is added to `violations`."""
    values = _values_of(before)
    checked = check_fields(
        message,
        [path for path in CHANGEABLE if path in paths],
        violations,
        rules,
        stored_delivery=before.delivery_json,
    )
    values.update(checked.values)
    check_together(values, paths, violations)
    return ScheduleUpdate(before, paths, ScheduleValues(**values), checked.input, checked.recurrence)


def _values_of(record: ScheduleRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ScheduleValues.__dataclass_fields__}

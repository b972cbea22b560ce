from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.validation import Violations
from millrace_scheduler.fire_times import Timing
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Recurrence
from millrace_scheduler.recurrence_messages import check_recurrence, recurrence_from_json


def timing_of(schedule: ScheduleRecord) -> Timing:
    """Return what decides when a stored schedule fires.

    Raises ValueError or LookupError when this version does not understand its recurrence or time zone.
    """
    return Timing(
        schedule_id=schedule.schedule_id,
        recurrence=stored_recurrence(schedule.recurrence_json),
        time_zone=load_zone(schedule.time_zone),
        start_at=schedule.start_at,
        end_at=schedule.end_at,
        anchor=schedule.created_at,
        jitter_seconds=schedule.jitter_seconds,
    )


def stored_recurrence(text: str) -> Recurrence:
    """Return a recurrence as it is stored. Raises ValueError when this version does not understand it."""
    violations = Violations()
    recurrence = check_recurrence(recurrence_from_json(text), violations)
    if recurrence is None or violations:
        raise ValueError(f"the stored recurrence is not valid: {violations.error().message}")
    return recurrence

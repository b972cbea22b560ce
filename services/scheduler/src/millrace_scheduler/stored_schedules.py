from datetime import datetime

from millrace_database.schedules_repository import ScheduleRecord
from millrace_runtime.validation import Violations
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import next_run
from millrace_scheduler.recurrence_messages import check_recurrence, recurrence_from_json


def next_run_of(schedule: ScheduleRecord, after: datetime) -> datetime | None:
    """Return the first time strictly after `after` at which a stored schedule fires; None when there is none.

    Raises ValueError or LookupError when this version does not understand its recurrence or time zone.
    """
    violations = Violations()
    recurrence = check_recurrence(recurrence_from_json(schedule.recurrence_json), violations)
    if recurrence is None or violations:
        raise ValueError(f"the stored recurrence is not valid: {violations.error().message}")
    return next_run(
        recurrence,
        load_zone(schedule.time_zone),
        after,
        start_at=schedule.start_at,
        end_at=schedule.end_at,
        anchor=schedule.created_at,
    )

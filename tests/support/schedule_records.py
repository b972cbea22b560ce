"""A stored schedule as the database gives it, for what needs no database."""

from datetime import UTC, datetime
from uuid import UUID

from millrace_database.schedules_repository import ScheduleRecord

START = datetime(2026, 3, 28, 22, 0, tzinfo=UTC)
"""When it begins; the clocks of Europe change that night."""

SCHEDULE = ScheduleRecord(
    schedule_id=UUID(int=1),
    org_id="acme",
    name="A schedule",
    type="notes:keep",
    input_json="{}",
    metadata_json="{}",
    recurrence_json="{}",
    time_zone="Europe/Paris",
    start_at=START,
    end_at=None,
    paused=False,
    pause_reason="",
    next_run_at=START,
    last_run_at=None,
    last_job_id=None,
    consecutive_failures=0,
    created_by="ann",
    created_at=START,
    updated_at=START,
    next_scheduled_time=None,
    jitter_seconds=0,
    overlap_policy="allow",
    catch_up_policy="run_once",
    catch_up_seconds=None,
    max_runs=0,
    pause_after_failed_runs=0,
    delivery_json=None,
    version=1,
    fired_count=0,
    missed_count=0,
    skipped_count=0,
    watched_since=START,
    reserved_until=None,
    deleted_at=None,
    read_at=START,
)

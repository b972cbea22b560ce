"""A schedule with all that is known of it, on the screen."""

from datetime import datetime

from millrace_client.command.output import Columns, Output, plain
from millrace_client.command.time_zone import load_zone
from millrace_client.schedule import Schedule
from millrace_client.schedule_run import ScheduleRun

RUN_COLUMNS: Columns[ScheduleRun] = {
    "SCHEDULED": lambda run: run.scheduled_time,
    "CAUSE": lambda run: run.cause,
    "OUTCOME": lambda run: run.outcome,
    "JOB ID": lambda run: run.job_id,
    "JOB STATUS": lambda run: run.job_status,
    "WHY": lambda run: f"{run.job_error.code}: {run.job_error.message}" if run.job_error else run.reason,
}


def show_schedule(output: Output, schedule: Schedule) -> None:
    """Print one schedule: a line of JSON, or a name and a value on each line, its next times and its last runs."""
    # What follows in a form of its own.
    for_people = {"nextRunTimes": "", "lastRuns": ""}
    if has_ended(schedule):
        for_people["nextRunAt"] = "ended"
    output.show(schedule, for_people)
    if output.as_json:
        return
    if schedule.next_run_times:
        output.text("")
        output.text("next:")
        show_times(output, schedule.next_run_times, schedule.time_zone)
    if schedule.last_runs:
        output.text("")
        output.rows(RUN_COLUMNS, schedule.last_runs)


def has_ended(schedule: Schedule) -> bool:
    """Whether a schedule has fired for the last time."""
    return not schedule.paused and schedule.next_run_at is None


def show_times(output: Output, moments: tuple[datetime, ...], time_zone: str) -> None:
    """Print times as the clocks of a zone show them, one a line."""
    for moment in moments:
        output.text(local_time(moment, time_zone))


def local_time(moment: datetime, time_zone: str) -> str:
    """Give a time as the clocks of a zone show it, such as "Sun 2027-01-31 09:30:00+01:00 Europe/Paris".

    In UTC when the zone is empty, or not known here.
    """
    try:
        local = moment.astimezone(load_zone(time_zone or "UTC"))
    except (LookupError, ValueError, OverflowError):
        local, time_zone = moment, "UTC"
    precision = "milliseconds" if local.microsecond else "seconds"
    return plain(f"{local:%a} {local.isoformat(' ', precision)} {time_zone or 'UTC'}")

"""Recurrences of tests, and all their fire times of a span."""

from datetime import datetime
from zoneinfo import ZoneInfo

from millrace_scheduler.cron import CronExpression
from millrace_scheduler.recurrence import Cron, Recurrence, next_run


def cron(text: str) -> Cron:
    """Return the recurrence of a cron expression."""
    return Cron(CronExpression.parse(text))


def fires_between(recurrence: Recurrence, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Return when a recurrence fires after `start`, until `end`; intervals count from `start`."""
    fires: list[datetime] = []
    after: datetime | None = start
    while after is not None:
        after = next_run(recurrence, zone, after, start_at=None, end_at=end, anchor=start)
        if after is not None:
            fires.append(after)
    return fires

"""From Recurrence messages to value objects: what a caller sent is checked, what was stored is read."""

import re
from collections.abc import Callable, Sequence
from datetime import time, timedelta

from google.protobuf import json_format

from millrace.scheduler.v1 import schedule_pb2
from millrace_runtime.validation import Violations
from millrace_scheduler.cron import CronError, CronExpression
from millrace_scheduler.month_days import LAST
from millrace_scheduler.recurrence import (
    Cron,
    Daily,
    Interval,
    Monthly,
    MonthlyWeekday,
    Once,
    Recurrence,
    Weekly,
)

_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?", re.ASCII)
_LAST_DAY = 31
_DAYS_OF_WEEK = range(1, 8)
_NTHS = (1, 2, 3, 4, 5, LAST)
# That of google.protobuf.Duration: 10,000 years.
_LONGEST_INTERVAL = 315_576_000_000


def check_recurrence(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    """Return what the field `recurrence` of a request means; None after a violation was added."""
    kind = message.WhichOneof("frequency")
    if kind is None:
        violations.add("recurrence", f"needs one of {', '.join(_CHECKS)}")
        return None
    return _CHECKS[kind](message, violations)


def recurrence_to_json(message: schedule_pb2.Recurrence) -> str:
    """Return the JSON form of a recurrence, in which it is stored."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def recurrence_from_json(text: str) -> schedule_pb2.Recurrence:
    """Return the message of a stored recurrence, without what a later version may have added.

    Raises ValueError when it cannot be read.
    """
    try:
        return json_format.Parse(text, schedule_pb2.Recurrence(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(f"the stored recurrence cannot be read: {error}") from error


def _check_once(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    field = "recurrence.once.at"
    if not message.once.HasField("at"):
        violations.add(field, "is required")
        return None
    return Once(violations.check_timestamp(field, message.once.at))


def _check_daily(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    time_of_day = _check_time_of_day("recurrence.daily.time_of_day", message.daily.time_of_day, violations)
    return None if time_of_day is None else Daily(time_of_day)


def _check_weekly(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    days = _check_days("recurrence.weekly.days", message.weekly.days, violations)
    time_of_day = _check_time_of_day("recurrence.weekly.time_of_day", message.weekly.time_of_day, violations)
    return None if time_of_day is None else Weekly(days, time_of_day)


def _check_monthly(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    monthly = message.monthly
    time_of_day = _check_time_of_day("recurrence.monthly.time_of_day", monthly.time_of_day, violations)
    given = [
        field
        for field, is_given in (
            ("day", monthly.day != 0),
            ("last_day", monthly.last_day),
            ("weekday", monthly.HasField("weekday")),
        )
        if is_given
    ]
    for field in given[1:]:
        violations.add(f"recurrence.monthly.{field}", f"must not be set beside {given[0]}")
    if monthly.HasField("weekday"):
        weekday = monthly.weekday
        _check_nth_weekday(weekday, violations)
        return None if time_of_day is None else MonthlyWeekday(weekday.day, weekday.nth, time_of_day)
    day = _LAST_DAY if monthly.last_day else _check_day_of_month(monthly.day, violations)
    return None if time_of_day is None else Monthly(day, time_of_day)


def _check_day_of_month(day: int, violations: Violations) -> int:
    if day == 0:
        violations.add("recurrence.monthly", "needs one of day, last_day and weekday")
    else:
        violations.check_range("recurrence.monthly.day", day, 1, _LAST_DAY)
    return day


def _check_nth_weekday(weekday: schedule_pb2.NthWeekday, violations: Violations) -> None:
    field = "recurrence.monthly.weekday"
    if weekday.nth not in _NTHS:
        violations.add(f"{field}.nth", "must be 1 to 5, or -1 for the last")
    if weekday.day not in _DAYS_OF_WEEK:
        violations.add(f"{field}.day", "must be MONDAY to SUNDAY")


def _check_interval(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    field, every = "recurrence.interval.every", message.interval.every
    if not message.interval.HasField("every"):
        violations.add(field, "is required")
    elif every.nanos:
        violations.add(field, "must be in whole seconds")
    elif every.seconds < 1:
        violations.add(field, "must be at least 1 second")
    elif every.seconds > _LONGEST_INTERVAL:
        violations.add(field, f"must be at most {_LONGEST_INTERVAL:,} seconds")
    else:
        return Interval(timedelta(seconds=every.seconds))
    return None


def _check_cron(message: schedule_pb2.Recurrence, violations: Violations) -> Recurrence | None:
    field, text = "recurrence.cron.expression", message.cron.expression
    if not violations.require(field, text):
        return None
    try:
        return Cron(CronExpression.parse(text))
    except CronError as error:
        for problem in error.problems:
            violations.add(field, problem)
        return None


def _check_days(field: str, days: Sequence[int], violations: Violations) -> frozenset[int]:
    violations.require(field, days)
    for index, day in enumerate(days):
        if day not in _DAYS_OF_WEEK:
            violations.add(f"{field}[{index}]", "must be MONDAY to SUNDAY")
        elif day in days[:index]:
            violations.add(f"{field}[{index}]", "is there already")
    return frozenset(days)


def _check_time_of_day(field: str, text: str, violations: Violations) -> time | None:
    if not violations.require(field, text):
        return None
    if not _TIME_OF_DAY.fullmatch(text):
        violations.add(field, 'must be a time such as "09:30" or "09:30:15", from 00:00 to 23:59:59')
        return None
    return time.fromisoformat(text)


_CHECKS: dict[str, Callable[[schedule_pb2.Recurrence, Violations], Recurrence | None]] = {
    "once": _check_once,
    "daily": _check_daily,
    "weekly": _check_weekly,
    "monthly": _check_monthly,
    "interval": _check_interval,
    "cron": _check_cron,
}

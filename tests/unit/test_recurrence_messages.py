"""Monthly recurrences as messages: what they mean, and which are refused with which field named."""

from datetime import time
from typing import Any

import pytest
from google.type import dayofweek_pb2

from millrace.scheduler.v1 import schedule_pb2
from millrace_runtime.validation import Violations
from millrace_scheduler.recurrence import Monthly, MonthlyWeekday, Recurrence
from millrace_scheduler.recurrence_messages import check_recurrence, recurrence_from_json, recurrence_to_json

TUESDAY = dayofweek_pb2.DayOfWeek.TUESDAY


def _monthly(time_of_day: str = "08:00", **fields: Any) -> schedule_pb2.Recurrence:
    return schedule_pb2.Recurrence(monthly=schedule_pb2.MonthlyRecurrence(time_of_day=time_of_day, **fields))


def _weekday(nth: int, day: Any = TUESDAY) -> schedule_pb2.NthWeekday:
    return schedule_pb2.NthWeekday(nth=nth, day=day)


def _refusal(message: schedule_pb2.Recurrence) -> dict[str, str]:
    violations = Violations()
    check_recurrence(message, violations)
    return {violation.field: violation.description for violation in violations.error().violations}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (_monthly(day=31), Monthly(31, time(8))),
        (_monthly(last_day=True), Monthly(31, time(8))),
        (_monthly(weekday=_weekday(2)), MonthlyWeekday(2, 2, time(8))),
        (_monthly(weekday=_weekday(-1)), MonthlyWeekday(2, -1, time(8))),
        (
            _monthly("23:59:59", weekday=_weekday(5, dayofweek_pb2.SUNDAY)),
            MonthlyWeekday(7, 5, time(23, 59, 59)),
        ),
    ],
)
def test_a_monthly_recurrence_is_read_also_after_it_was_stored(
    message: schedule_pb2.Recurrence, expected: Recurrence
) -> None:
    violations = Violations()
    assert check_recurrence(message, violations) == expected
    assert check_recurrence(recurrence_from_json(recurrence_to_json(message)), violations) == expected
    assert not violations


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (_monthly(), {"recurrence.monthly": "needs one of day, last_day and weekday"}),
        (_monthly(day=32), {"recurrence.monthly.day": "must be 1 to 31"}),
        (_monthly(day=-1), {"recurrence.monthly.day": "must be 1 to 31"}),
        (_monthly(day=1, last_day=True), {"recurrence.monthly.last_day": "must not be set beside day"}),
        (
            _monthly(day=1, last_day=True, weekday=_weekday(1)),
            {
                "recurrence.monthly.last_day": "must not be set beside day",
                "recurrence.monthly.weekday": "must not be set beside day",
            },
        ),
        (
            _monthly(last_day=True, weekday=_weekday(1)),
            {"recurrence.monthly.weekday": "must not be set beside last_day"},
        ),
        (
            _monthly(weekday=schedule_pb2.NthWeekday()),
            {
                "recurrence.monthly.weekday.nth": "must be 1 to 5, or -1 for the last",
                "recurrence.monthly.weekday.day": "must be MONDAY to SUNDAY",
            },
        ),
        *(
            (
                _monthly(weekday=_weekday(nth)),
                {"recurrence.monthly.weekday.nth": "must be 1 to 5, or -1 for the last"},
            )
            for nth in (0, 6, -2)
        ),
        (
            _monthly("8", weekday=_weekday(6)),
            {
                "recurrence.monthly.time_of_day": 'must be a time such as "09:30" or "09:30:15", '
                "from 00:00 to 23:59:59",
                "recurrence.monthly.weekday.nth": "must be 1 to 5, or -1 for the last",
            },
        ),
    ],
)
def test_a_wrong_monthly_recurrence_is_refused_with_each_field_named(
    message: schedule_pb2.Recurrence, refusal: dict[str, str]
) -> None:
    assert _refusal(message) == refusal

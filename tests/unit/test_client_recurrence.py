from datetime import UTC, datetime, time, timedelta

import pytest
from google.protobuf.json_format import MessageToDict

from millrace_client import (
    Cron,
    Daily,
    Every,
    Frequency,
    LastDay,
    Monthly,
    NthWeekday,
    Once,
    Recurrence,
    Weekday,
    Weekly,
)
from millrace_client.command.json_form import json_form
from millrace_client.recurrence import frequency_value, read_recurrence, to_recurrence

MOMENT = datetime(2027, 1, 31, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("recurrence", "contract"),
    [
        (Once(MOMENT), {"once": {"at": "2027-01-31T09:30:00Z"}}),
        (Daily("09:30"), {"daily": {"timeOfDay": "09:30"}}),
        (
            Weekly(["MONDAY", Weekday.FRIDAY], "09:30"),
            {"weekly": {"days": ["MONDAY", "FRIDAY"], "timeOfDay": "09:30"}},
        ),
        (Monthly(31, "09:30:15"), {"monthly": {"day": 31, "timeOfDay": "09:30:15"}}),
        (Monthly(LastDay(), "09:30"), {"monthly": {"lastDay": True, "timeOfDay": "09:30"}}),
        (
            Monthly(NthWeekday(2, Weekday.TUESDAY), "09:30"),
            {"monthly": {"weekday": {"nth": 2, "day": "TUESDAY"}, "timeOfDay": "09:30"}},
        ),
        (
            Monthly(NthWeekday(-1, "FRIDAY"), "09:30"),
            {"monthly": {"weekday": {"nth": -1, "day": "FRIDAY"}, "timeOfDay": "09:30"}},
        ),
        (Every(timedelta(minutes=15)), {"interval": {"every": "900s"}}),
        (Cron("*/5 * * * *"), {"cron": {"expression": "*/5 * * * *"}}),
    ],
)
def test_a_recurrence_is_sent_and_printed_as_the_contract_has_it_and_read_back(
    recurrence: Recurrence, contract: dict[str, object]
) -> None:
    message = to_recurrence(recurrence)
    assert MessageToDict(message) == contract
    assert read_recurrence(message) == recurrence
    assert json_form(recurrence) == contract


def test_a_time_of_day_may_be_a_time() -> None:
    assert to_recurrence(Daily(time(7, 5))).daily.time_of_day == "07:05:00"


def test_an_unknown_day_is_refused() -> None:
    with pytest.raises(ValueError, match="MONTAG"):
        Weekly(["MONTAG"], "09:00")
    with pytest.raises(ValueError, match="MONTAG"):
        NthWeekday(1, "MONTAG")


def test_a_day_may_be_in_any_case_and_one_that_is_wrong_is_answered_with_those_there_are() -> None:
    assert Weekly(["monday"], "09:00") == Weekly([Weekday.MONDAY], "09:00")
    assert NthWeekday(1, "Friday").day is Weekday.FRIDAY
    with pytest.raises(ValueError, match=r"'mon' is none of MONDAY, TUESDAY, .*, SUNDAY"):
        Weekly(["mon"], "09:00")


def test_a_frequency_may_be_in_any_case_and_one_that_is_wrong_is_answered_with_those_there_are() -> None:
    assert frequency_value("monthly") == frequency_value(Frequency.MONTHLY)
    with pytest.raises(
        ValueError, match=r"'hourly' is none of ONCE, DAILY, WEEKLY, MONTHLY, INTERVAL, CRON$"
    ):
        frequency_value("hourly")


def test_a_frequency_of_a_later_version_is_none() -> None:
    assert read_recurrence(to_recurrence(Daily("09:00")).__class__()) is None

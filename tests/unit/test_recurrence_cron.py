"""What a cron expression means, and which ones are refused with what words."""

from datetime import datetime

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_scheduler.cron import CronError, CronExpression


def _next(expression: str, after: str) -> str:
    return (
        CronExpression.parse(expression).next_match(datetime.fromisoformat(after)).isoformat(" ", "minutes")
    )


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("* * * * *", "2026-01-01 00:00", "2026-01-01 00:01"),
        ("* * * * *", "2026-01-01 00:00:59.999999", "2026-01-01 00:01"),
        ("30 2 * * *", "2026-01-01 02:30", "2026-01-02 02:30"),
        ("*/15 9-17 * * mon-fri", "2026-01-02 17:45", "2026-01-05 09:00"),
        ("0 0 29 2 *", "2096-02-29 00:00", "2104-02-29 00:00"),
        ("0 0 31 * *", "2026-01-31 00:00", "2026-03-31 00:00"),
        ("0 12 1,15 JAN,jul *", "2026-01-15 12:00", "2026-07-01 12:00"),
        ("0 0 * * 7", "2026-01-01 00:00", "2026-01-04 00:00"),
        ("0 0 * * fri-sun", "2026-01-02 00:00", "2026-01-03 00:00"),
        ("0 0 * * fri-sun", "2026-01-04 00:00", "2026-01-09 00:00"),
        ("0 0 * * sun-mon", "2026-01-04 00:00", "2026-01-05 00:00"),
        ("5/20 * * * *", "2026-01-01 00:45", "2026-01-01 01:05"),
        ("10-30/10,59 * * * *", "2026-01-01 00:30", "2026-01-01 00:59"),
        ("@hourly", "2026-01-01 00:00", "2026-01-01 01:00"),
        ("@daily", "2026-01-01 00:00", "2026-01-02 00:00"),
        ("@midnight", "2026-01-01 00:00", "2026-01-02 00:00"),
        ("@weekly", "2026-01-01 00:00", "2026-01-04 00:00"),
        ("@monthly", "2026-01-01 00:00", "2026-02-01 00:00"),
        ("@yearly", "2026-01-01 00:00", "2027-01-01 00:00"),
        (" @Annually ", "2026-01-01 00:00", "2027-01-01 00:00"),
        ("  0\t0  1 1 * ", "2026-01-01 00:00", "2027-01-01 00:00"),
    ],
)
def test_next_match(expression: str, after: str, expected: str) -> None:
    assert _next(expression, after) == expected


def test_a_day_that_matches_either_restricted_day_field_counts() -> None:
    friday_or_13th = CronExpression.parse("0 0 13 * fri")
    wall = datetime.fromisoformat("2026-02-01")
    days = []
    for _ in range(6):
        wall = friday_or_13th.next_match(wall)
        days.append((wall.month, wall.day))
    assert days == [(2, 6), (2, 13), (2, 20), (2, 27), (3, 6), (3, 13)]
    assert _next("0 0 13 * fri", "2026-03-27 00:00") == "2026-04-03 00:00"
    assert _next("0 0 13 4 *", "2026-03-27 00:00") == "2026-04-13 00:00"
    assert _next("0 0 30 2 mon", "2026-02-01 00:00") == "2026-02-02 00:00"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "has 0 fields; it needs five: minute, hour, day of month, month, day of week"),
        ("* * * *", "has 4 fields; it needs five: minute, hour, day of month, month, day of week"),
        ("0 * * * * *", "has 6 fields; it needs five: minute, hour, day of month, month, day of week"),
        ("0 * * * * * 2026", "has 7 fields; it needs five: minute, hour, day of month, month, day of week"),
        ("61 * * * *", "minute: 61 is out of range 0-59"),
        ("60 * * * *", "minute: 60 is out of range 0-59"),
        ("* 24 * * *", "hour: 24 is out of range 0-23"),
        ("* * 32 * *", "day of month: 32 is out of range 1-31"),
        ("* * 0 * *", "day of month: 0 is out of range 1-31"),
        ("* * * 13 *", "month: 13 is out of range 1-12"),
        ("* * * 0 *", "month: 0 is out of range 1-12"),
        ("* * * * 8", "day of week: 8 is out of range 0-7"),
        ("99999999999999999999 * * * *", "minute: 99999999999999999999 is out of range 0-59"),
        ("*/0 * * * *", "minute: the step 0 is out of range 1-60"),
        ("* */25 * * *", "hour: the step 25 is out of range 1-24"),
        ("30-10 * * * *", "minute: the range 30-10 runs backwards"),
        ("* * * nov-feb *", "month: the range nov-feb runs backwards"),
        ("R 0 * * *", "minute: 'r' is not a number"),
        ("H * * * *", "minute: 'h' is not a number"),
        ("H(0-29)/10 * * * *", "minute: 'h(0-29)/10' is not a value, a range, a step or a list of these"),
        ("* * L * *", "day of month: 'l' is not a number"),
        ("* * 15W * *", "day of month: '15w' is not a value, a range, a step or a list of these"),
        ("* * * * 2#3", "day of week: '2#3' is not a value, a range, a step or a list of these"),
        ("* * ? * *", "day of month: '?' is not a value, a range, a step or a list of these"),
        ("1, * * * *", "minute: '' is not a value, a range, a step or a list of these"),
        ("-5 * * * *", "minute: '-5' is not a value, a range, a step or a list of these"),
        ("1.5 * * * *", "minute: '1.5' is not a value, a range, a step or a list of these"),
        ("*-5 * * * *", "minute: '*-5' is not a value, a range, a step or a list of these"),
        ("\u0661 * * * *", "minute: '\u0661' is not a value, a range, a step or a list of these"),
        ("* * * january *", "month: 'january' is not a number or a name"),
        ("* * * * tues", "day of week: 'tues' is not a number or a name"),
        ("mon * * * *", "minute: 'mon' is not a number"),
        (
            "@reboot",
            "'@reboot' is not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually",
        ),
        ("0 0 30 2 *", "day of month: 30 never occurs in the months it names"),
        ("0 0 31 2,4,jun,9,11 *", "day of month: 31 never occurs in the months it names"),
        ("0," * 200 + "0 * * * *", "is longer than 256 characters"),
    ],
)
def test_refused(expression: str, problem: str) -> None:
    with pytest.raises(CronError) as refused:
        CronExpression.parse(expression)
    assert refused.value.problems == [problem]


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(CronError) as refused:
        CronExpression.parse("60,61 24 x 1 *")
    fields = [problem.split(":")[0] for problem in refused.value.problems]
    assert fields == ["minute", "minute", "hour", "day of month"]


def _wall_times(first_year: int, last_year: int) -> st.SearchStrategy[datetime]:
    return st.datetimes(*(datetime.fromisoformat(f"{year}-01-01") for year in (first_year, last_year)))


@st.composite
def _fields(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    """Render a field in any form that croniter reads the same way.

    It takes "5-5" for the whole field, and "*/1" for a restricted one.
    """

    def number(value: int) -> str:
        return draw(st.sampled_from([str(value), names[value - low]])) if names else str(value)

    def item() -> str:
        start = draw(st.integers(low, high - 1))
        end = draw(st.integers(start + 1, high))
        step = draw(st.integers(2, high - low))
        return draw(
            st.sampled_from(
                [
                    number(start),
                    f"{number(start)}-{number(end)}",
                    f"{start}-{end}/{step}",
                    f"*/{step}",
                    f"{start}/{step}",
                ]
            )
        )

    return "*" if draw(st.booleans()) else ",".join(item() for _ in range(draw(st.integers(1, 3))))


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@settings(derandomize=True, deadline=None, database=None, max_examples=400)
@given(
    fields=st.tuples(
        _fields(0, 59), _fields(0, 23), _fields(1, 28), _fields(1, 12, _MONTHS), _fields(0, 6, _WEEKDAYS)
    ),
    after=_wall_times(1990, 2090),
)
def test_agrees_with_croniter(fields: tuple[str, ...], after: datetime) -> None:
    text = " ".join(fields)
    expression = CronExpression.parse(text)
    reference = croniter(text, after, ret_type=datetime)
    for _ in range(5):
        after = expression.next_match(after)
        assert after == reference.get_next()

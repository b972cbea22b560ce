"""What a cron expression means, and which ones are refused with what words."""

import re
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
        ("0 0 L * *", "2026-01-31 00:00", "2026-02-28 00:00"),
        ("0 0 l 2 *", "2026-02-28 00:00", "2027-02-28 00:00"),
        ("0 0 L 2 *", "2027-02-28 00:00", "2028-02-29 00:00"),
        ("0 0 1,L * *", "2026-01-31 00:00", "2026-02-01 00:00"),
        ("0 0 1,L * *", "2026-02-01 00:00", "2026-02-28 00:00"),
        ("0 0 30,L 2 *", "2026-01-01 00:00", "2026-02-28 00:00"),
        ("0 0 L * fri", "2026-01-30 00:00", "2026-01-31 00:00"),
        ("0 0 * * L5", "2026-01-01 00:00", "2026-01-30 00:00"),
        ("0 0 * * l5", "2026-01-30 00:00", "2026-02-27 00:00"),
        ("0 0 * * L7", "2026-01-01 00:00", "2026-01-25 00:00"),
        ("0 0 * * L0", "2026-01-01 00:00", "2026-01-25 00:00"),
        ("0 0 * * 5#2", "2026-01-01 00:00", "2026-01-09 00:00"),
        ("0 0 * * Fri#2", "2026-01-09 00:00", "2026-02-13 00:00"),
        ("0 0 * * 7#1", "2026-01-01 00:00", "2026-01-04 00:00"),
        ("0 0 * * 5#5", "2026-01-30 00:00", "2026-05-29 00:00"),
        ("0 0 * * 1,5#2", "2026-01-05 00:00", "2026-01-09 00:00"),
        ("0 0 * * 1,5#2", "2026-01-09 00:00", "2026-01-12 00:00"),
        ("0 0 * * mon#1,3#2,L5", "2026-01-05 00:00", "2026-01-14 00:00"),
        ("0 0 * * mon#1,3#2,L5", "2026-01-14 00:00", "2026-01-30 00:00"),
        ("0 0 15 * 5#2", "2026-01-09 00:00", "2026-01-15 00:00"),
        ("0 0 15 * *,5#2", "2026-01-09 00:00", "2026-01-15 00:00"),
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


_FIVE = "it needs five: minute, hour, day of month, month, day of week"
_WORDS = "@hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", f"has 0 fields; {_FIVE} (at character 1)"),
        ("* * * *", f"has 4 fields; {_FIVE} (at character 8)"),
        ("  * * * *  ", f"has 4 fields; {_FIVE} (at character 10)"),
        ("0 * * * * *", f"has 6 fields; {_FIVE} (at character 11)"),
        ("0 * * * *  * 2026", f"has 7 fields; {_FIVE} (at character 12)"),
        ("61 * * * *", "minute: 61 is out of range 0-59 (at character 1)"),
        (" 5,60 * * * *", "minute: 60 is out of range 0-59 (at character 4)"),
        ("* 24 * * *", "hour: 24 is out of range 0-23 (at character 3)"),
        ("* 20-24 * * *", "hour: 24 is out of range 0-23 (at character 6)"),
        ("* * 32 * *", "day of month: 32 is out of range 1-31 (at character 5)"),
        ("* * 0 * *", "day of month: 0 is out of range 1-31 (at character 5)"),
        ("* * * 13 *", "month: 13 is out of range 1-12 (at character 7)"),
        ("* * * 0 *", "month: 0 is out of range 1-12 (at character 7)"),
        ("* * * * 8", "day of week: 8 is out of range 0-7 (at character 9)"),
        (
            "99999999999999999999 * * * *",
            "minute: 99999999999999999999 is out of range 0-59 (at character 1)",
        ),
        ("*/0 * * * *", "minute: the step 0 is out of range 1-60 (at character 3)"),
        ("* */25 * * *", "hour: the step 25 is out of range 1-24 (at character 5)"),
        ("30-10 * * * *", "minute: the range 30-10 runs backwards (at character 1)"),
        ("* * * jan,Nov-feb *", "month: the range Nov-feb runs backwards (at character 11)"),
        ("R 0 * * *", "minute: 'R' is not a number (at character 1)"),
        ("H * * * *", "minute: 'H' is not a number (at character 1)"),
        (
            "H(0-29)/10 * * * *",
            "minute: 'H(0-29)/10' is not a value, a range, a step or a list of these (at character 1)",
        ),
        ("* * R * *", "day of month: 'R' is not a number (at character 5)"),
        ("L * * * *", "minute: 'L' is not a number (at character 1)"),
        ("* L * * *", "hour: 'L' is not a number (at character 3)"),
        ("* * * L *", "month: 'L' is not a number or a name (at character 7)"),
        ("* * * * L", "day of week: 'L' is not a number or a name (at character 9)"),
        ("* * 28-L * *", "day of month: 'L' is not a number (at character 8)"),
        ("* * L-2 * *", "day of month: 'L' is not a number (at character 5)"),
        ("* * L/2 * *", "day of month: 'L' is not a number (at character 5)"),
        ("* * LW * *", "day of month: 'LW' is not a number (at character 5)"),
        (
            "* * 1,15W * *",
            "day of month: '15W' is not a value, a range, a step, L or a list of these (at character 7)",
        ),
        (
            "* * ? * *",
            "day of month: '?' is not a value, a range, a step, L or a list of these (at character 5)",
        ),
        (
            "* * 5#2 * *",
            "day of month: '5#2' is not a value, a range, a step, L or a list of these (at character 5)",
        ),
        ("* * * * 5#6", "day of week: #6 is out of range 1-5 (at character 11)"),
        ("* * * * 1,fri#0", "day of week: #0 is out of range 1-5 (at character 15)"),
        ("* * * * 8#1", "day of week: 8 is out of range 0-7 (at character 9)"),
        ("* * * * feb#1", "day of week: 'feb' is not a number or a name (at character 9)"),
        ("* * * * L8", "day of week: 8 is out of range 0-7 (at character 10)"),
        (
            "* * * * 5L",
            "day of week: '5L' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * 5#",
            "day of week: '5#' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * 5#2/2",
            "day of week: '5#2/2' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * 1-3#1",
            "day of week: '1-3#1' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * *#2",
            "day of week: '*#2' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * L1-3",
            "day of week: 'L1-3' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * ?",
            "day of week: '?' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        (
            "* * * * 5#-1",
            "day of week: '5#-1' is not a value, a range, a step, L5, 5#2 or a list of these (at character 9)",
        ),
        ("1, * * * *", "minute: '' is not a value, a range, a step or a list of these (at character 3)"),
        ("-5 * * * *", "minute: '-5' is not a value, a range, a step or a list of these (at character 1)"),
        ("1.5 * * * *", "minute: '1.5' is not a value, a range, a step or a list of these (at character 1)"),
        ("*-5 * * * *", "minute: '*-5' is not a value, a range, a step or a list of these (at character 1)"),
        (
            "\u0661 * * * *",
            "minute: '\u0661' is not a value, a range, a step or a list of these (at character 1)",
        ),
        (
            "\u212a\u0130 * * * *",
            "minute: '\u212a\u0130' is not a value, a range, a step or a list of these (at character 1)",
        ),
        ("* * * january *", "month: 'january' is not a number or a name (at character 7)"),
        ("* * * * tues", "day of week: 'tues' is not a number or a name (at character 9)"),
        ("mon * * * *", "minute: 'mon' is not a number (at character 1)"),
        (" @reboot", f"'@reboot' is not one of {_WORDS} (at character 2)"),
        ("@daily 5", f"'@daily 5' is not one of {_WORDS} (at character 1)"),
        ("0 0 30 2 *", "day of month: 30 never occurs in the months it names (at character 5)"),
        ("0 0 30,31 2 *", "day of month: 30 never occurs in the months it names (at character 5)"),
        ("0 0 31 2,4,jun,9,11 *", "day of month: 31 never occurs in the months it names (at character 5)"),
        ("0," * 200 + "0 * * * *", "is longer than 256 characters (at character 257)"),
    ],
)
def test_refused(expression: str, problem: str) -> None:
    with pytest.raises(CronError) as refused:
        CronExpression.parse(expression)
    assert refused.value.problems == [problem]


def test_every_fault_is_named_with_its_place() -> None:
    with pytest.raises(CronError) as refused:
        CronExpression.parse("60,61 24 x 1 *,9,8#9")
    assert refused.value.problems == [
        "minute: 60 is out of range 0-59 (at character 1)",
        "minute: 61 is out of range 0-59 (at character 4)",
        "hour: 24 is out of range 0-23 (at character 7)",
        "day of month: 'x' is not a number (at character 10)",
        "day of week: 9 is out of range 0-7 (at character 16)",
        "day of week: 8 is out of range 0-7 (at character 18)",
    ]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 * 2 5#5", "2008-02-29 00:00", "2036-02-29 00:00"),
        ("0 0 * 2 fri#5", "2092-02-29 00:00", "2104-02-29 00:00"),
        ("0 0 * 2 mon#5", "2072-02-29 00:00", "2112-02-29 00:00"),
        ("0 0 30 2 5#5", "2008-02-29 00:00", "2036-02-29 00:00"),
        ("0 0 29 2 *", "2096-02-29 00:00", "2104-02-29 00:00"),
        ("0 0 29 2 *", "2196-02-29 00:00", "2204-02-29 00:00"),
    ],
)
def test_the_rarest_days_are_found(expression: str, after: str, expected: str) -> None:
    assert _next(expression, after) == expected


@given(text=st.text(alphabet="0123456789*,-/#lLwW?@hHrRmonfri \t", max_size=30) | st.text(max_size=40))
@settings(derandomize=True, deadline=None, database=None, max_examples=500)
def test_any_text_is_read_or_refused_at_a_place_within_it(text: str) -> None:
    try:
        expression = CronExpression.parse(text)
    except CronError as error:
        for problem in error.problems:
            place = re.search(r"\(at character (\d+)\)$", problem)
            assert place is not None
            assert 1 <= int(place[1]) <= len(text) + 1
    else:
        wall = datetime.fromisoformat("2026-01-01")
        assert expression.matches(expression.next_match(wall))


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


def _nth_items() -> st.SearchStrategy[str]:
    weekday = st.sampled_from([*"01234567", *_WEEKDAYS])
    nth = st.builds(lambda day, which: f"{day}#{which}", weekday, st.integers(1, 5))
    return nth | st.builds(lambda day: f"L{day}", st.integers(0, 7))


@settings(derandomize=True, deadline=None, database=None, max_examples=150)
@given(
    items=st.lists(_nth_items(), min_size=1, max_size=3),
    month=st.sampled_from(["*", "1-6", "7,12"]),
    after=_wall_times(1990, 2090),
)
def test_nth_weekdays_agree_with_croniter(items: list[str], month: str, after: datetime) -> None:
    text = f"30 6 * {month} {','.join(items)}"
    expression = CronExpression.parse(text)
    reference = croniter(text, after, ret_type=datetime)
    for _ in range(5):
        after = expression.next_match(after)
        assert after == reference.get_next()


@settings(derandomize=True, deadline=None, database=None, max_examples=100)
@given(
    days=st.lists(st.integers(1, 28), max_size=2),
    weekday=st.sampled_from(["*", "fri", "1-3"]),
    after=_wall_times(1990, 2090),
)
def test_last_days_agree_with_croniter(days: list[int], weekday: str, after: datetime) -> None:
    text = f"30 6 {','.join([*map(str, days), 'L'])} * {weekday}"
    expression = CronExpression.parse(text)
    reference = croniter(text, after, ret_type=datetime)
    for _ in range(5):
        after = expression.next_match(after)
        assert after == reference.get_next()


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

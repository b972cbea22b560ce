"""Cron expressions: five fields, or one of the @ words. Everything here is wall time, without a time zone."""

import bisect
import calendar
import re
from dataclasses import dataclass, field
from datetime import MAXYEAR, date, datetime, time, timedelta

from millrace_scheduler.cron_fields import (
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    FIELDS,
    HOUR,
    MINUTE,
    MONTH,
    Located,
    iso_weekday,
    nth_weekdays,
)
from millrace_scheduler.month_days import SHORTEST_MONTH, earliest_nth, length_of_month, nths

MAX_EXPRESSION_LENGTH = 256

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST_MONTHS = {month: calendar.monthrange(2024, month)[1] for month in range(1, 13)}
_DECEMBER = 12
_NAMES = ", ".join(each.name for each in FIELDS)


class CronError(ValueError):
    """An expression that is no cron expression of the supported form, or one that would never fire."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        #: Sentences, each naming the field at fault and its place in the expression, whose first character is 1.
        self.problems = problems


@dataclass(frozen=True, slots=True)
class CronExpression:
    """The wall times an expression names, to the minute."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    #: `L` in the day of month.
    last_day: bool
    months: frozenset[int]
    #: ISO numbers: Monday is 1, Sunday is 7.
    weekdays: frozenset[int]
    #: Pairs of a weekday and which of its month's it is: 1 to 5, or -1 for the last.
    nth_weekdays: frozenset[tuple[int, int]]
    any_day: bool
    any_weekday: bool
    #: The hour field is `*` or `*/n`: the expression means a rhythm rather than hours of the day.
    follows_elapsed_time: bool
    #: No day of a month before this one counts.
    earliest_day: int = field(init=False)

    def __post_init__(self) -> None:
        by_day = min(self.days | ({SHORTEST_MONTH} if self.last_day else set()))
        by_weekday = 1 if self.weekdays else min(earliest_nth(nth) for _, nth in self.nth_weekdays)
        # Where one field leaves the days open, both must count; otherwise one of them is enough.
        of_both = max if self.any_day or self.any_weekday else min
        object.__setattr__(self, "earliest_day", of_both(by_day, by_weekday))

    @classmethod
    def parse(cls, text: str) -> "CronExpression":
        """Read an expression such as "30 2 * * mon-fri" or "@daily"; names may be in any case.

        Raises CronError with everything that is wrong with it.
        """
        minute, hour, day, month, weekday = _split(text)
        problems: list[str] = []
        minutes = MINUTE.values(minute, problems)
        hours = HOUR.values(hour, problems)
        days = DAY_OF_MONTH.values(day, problems)
        months = MONTH.values(month, problems)
        weekdays = DAY_OF_WEEK.values(weekday, problems)
        nth = nth_weekdays(weekday, problems)
        if problems:
            raise CronError(problems)
        last_day = any(DAY_OF_MONTH.is_special(item) for item in day.items())
        expression = cls(
            minutes=tuple(sorted(minutes)),
            hours=tuple(sorted(hours)),
            days=days,
            last_day=last_day,
            months=months,
            weekdays=frozenset(iso_weekday(number) for number in weekdays),
            nth_weekdays=nth,
            any_day=_is_any(day),
            any_weekday=_is_any(weekday),
            follows_elapsed_time=hour.text.startswith("*") and "," not in hour.text,
        )
        _require_possible_day(expression, day)
        return expression

    def matches(self, wall: datetime) -> bool:
        """Whether the expression names this wall time."""
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and not wall.second
            and not wall.microsecond
            and wall.month in self.months
            and self._names_day(wall.day, wall.isoweekday(), length_of_month(wall))
        )

    def next_match(self, after: datetime) -> datetime:
        """Return the first wall time after `after` that the expression names.

        Raises OverflowError past the year 9999.
        """
        start = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
        day = self._first_day(start.date())
        if day == start.date():
            found = self._first_time(start.hour, start.minute)
            if found is not None:
                return datetime.combine(day, found)
            day = self._first_day(day + timedelta(days=1))
        return datetime.combine(day, time(self.hours[0], self.minutes[0]))

    def _first_day(self, day: date) -> date:
        year, month, earliest = day.year, day.month, day.day
        while year <= MAXYEAR:
            if month in self.months:
                weekday, length = calendar.monthrange(year, month)
                for number in range(max(earliest, self.earliest_day), length + 1):
                    if self._names_day(number, (weekday + number - 1) % 7 + 1, length):
                        return date(year, month, number)
            year, month, earliest = (year, month + 1, 1) if month < _DECEMBER else (year + 1, 1, 1)
        raise OverflowError("the calendar has no such day any more")

    def _first_time(self, hour: int, minute: int) -> time | None:
        position = bisect.bisect_left(self.hours, hour)
        if position < len(self.hours) and self.hours[position] == hour:
            later = bisect.bisect_left(self.minutes, minute)
            if later < len(self.minutes):
                return time(hour, self.minutes[later])
            position += 1
        return time(self.hours[position], self.minutes[0]) if position < len(self.hours) else None

    def _names_day(self, number: int, weekday: int, length: int) -> bool:
        """Whether the day of that number and weekday counts, in a month of `length` days."""
        by_day = number in self.days or (self.last_day and number == length)
        by_weekday = weekday in self.weekdays or (
            bool(self.nth_weekdays)
            and any((weekday, nth) in self.nth_weekdays for nth in nths(number, length))
        )
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


def _split(text: str) -> list[Located]:
    if len(text) > MAX_EXPRESSION_LENGTH:
        too_long = Located(text[MAX_EXPRESSION_LENGTH:], MAX_EXPRESSION_LENGTH + 1)
        raise CronError([too_long.problem(f"is longer than {MAX_EXPRESSION_LENGTH} characters")])
    fields = [Located(match[0], match.start() + 1) for match in re.finditer(r"\S+", text)]
    if fields and fields[0].text.startswith("@"):
        fields = _fields_of_alias(text, fields[0])
    if len(fields) != len(FIELDS):
        after = fields[len(FIELDS)] if len(fields) > len(FIELDS) else Located("", len(text.rstrip()) + 1)
        raise CronError([after.problem(f"has {len(fields)} fields; it needs five: {_NAMES}")])
    return fields


def _fields_of_alias(text: str, word: Located) -> list[Located]:
    alias = text.strip()
    if alias.lower() not in _ALIASES:
        raise CronError([word.problem(f"{alias!r} is not one of {', '.join(_ALIASES)}")])
    return [Located(part, word.position) for part in _ALIASES[alias.lower()].split()]


def _is_any(text: Located) -> bool:
    return any(item.text in ("*", "*/1") for item in text.items())


def _require_possible_day(expression: CronExpression, day: Located) -> None:
    """Refuse days that no month has. Whatever else an expression names comes within 40 years.

    The rarest is a leap day on a certain weekday, over the end of a century that has no leap day: 40 years.
    """
    longest = max(_LONGEST_MONTHS[month] for month in expression.months)
    if expression.any_weekday and not expression.last_day and min(expression.days) > longest:
        what = f"{DAY_OF_MONTH.name}: {min(expression.days)} never occurs in the months it names"
        raise CronError([day.problem(what)])

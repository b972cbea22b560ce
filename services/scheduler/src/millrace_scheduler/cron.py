"""Cron expressions: five fields, or one of the @ words. Everything here is wall time, without a time zone."""

import bisect
import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

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
_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_LONGEST_MONTHS = {month: calendar.monthrange(2024, month)[1] for month in range(1, 13)}
_SUNDAY = 7
_ITEM = re.compile(
    r"(?:(?P<star>\*)|(?P<low>[0-9]+|[a-z]+)(?:-(?P<high>[0-9]+|[a-z]+))?)(?:/(?P<step>[0-9]+))?", re.ASCII
)


class CronError(ValueError):
    """An expression that is no cron expression of the supported form, or one that would never fire."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        #: Sentences, each naming the field at fault.
        self.problems = problems


@dataclass(frozen=True, slots=True)
class CronExpression:
    """The wall times an expression names, to the minute."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    #: ISO numbers: Monday is 1, Sunday is 7.
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool
    #: The hour field is `*` or `*/n`: the expression means a rhythm rather than hours of the day.
    follows_elapsed_time: bool

    @classmethod
    def parse(cls, text: str) -> "CronExpression":
        """Read an expression such as "30 2 * * mon-fri" or "@daily"; names may be in any case.

        Raises CronError with everything that is wrong with it.
        """
        minute, hour, day, month, weekday = _split(text)
        problems: list[str] = []
        minutes = _MINUTE.values(minute, problems)
        hours = _HOUR.values(hour, problems)
        days = _DAY.values(day, problems)
        months = _MONTH.values(month, problems)
        weekdays = _WEEKDAY.values(weekday, problems)
        if problems:
            raise CronError(problems)
        expression = cls(
            minutes=tuple(sorted(minutes)),
            hours=tuple(sorted(hours)),
            days=frozenset(days),
            months=frozenset(months),
            weekdays=frozenset(number or _SUNDAY for number in weekdays),
            any_day=_is_any(day),
            any_weekday=_is_any(weekday),
            follows_elapsed_time=hour.startswith("*") and "," not in hour,
        )
        _require_possible_day(expression)
        return expression

    def matches(self, wall: datetime) -> bool:
        """Whether the expression names this wall time."""
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and not wall.second
            and not wall.microsecond
            and self._names_day(wall.date())
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
        while not self._names_day(day):
            if day.month in self.months:
                day += timedelta(days=1)
            else:
                day = day.replace(day=1) + timedelta(days=_LONGEST_MONTHS[day.month])
                day = day.replace(day=1)
        return day

    def _first_time(self, hour: int, minute: int) -> time | None:
        position = bisect.bisect_left(self.hours, hour)
        if position < len(self.hours) and self.hours[position] == hour:
            later = bisect.bisect_left(self.minutes, minute)
            if later < len(self.minutes):
                return time(hour, self.minutes[later])
            position += 1
        return time(self.hours[position], self.minutes[0]) if position < len(self.hours) else None

    def _names_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_day = day.day in self.days
        by_weekday = day.isoweekday() in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    lowest: int
    highest: int
    names: Mapping[str, int]

    def values(self, text: str, problems: list[str]) -> set[int]:
        """Return the numbers that a field stands for; what is wrong with it is added to `problems`."""
        values: set[int] = set()
        for item in text.split(","):
            try:
                values.update(self._item(item))
            except ValueError as error:
                problems.append(f"{self.name}: {error}")
        return values

    def _item(self, item: str) -> range:
        parts = _ITEM.fullmatch(item)
        if parts is None:
            raise ValueError(f"{item!r} is not a value, a range, a step or a list of these")
        if parts["star"]:
            low, high = self.lowest, self.highest
        else:
            low, high = self._bounds(parts["low"], parts["high"], stepped=parts["step"] is not None)
        return range(low, high + 1, self._step(parts["step"]))

    def _bounds(self, low_text: str, high_text: str | None, *, stepped: bool) -> tuple[int, int]:
        low = self._number(low_text)
        if high_text is None:
            return low, max(low, self.highest) if stepped else low
        high = self._number(high_text)
        if self is _WEEKDAY and high == 0 and low > 0:
            high = _SUNDAY
        if low > high:
            raise ValueError(f"the range {low_text}-{high_text} runs backwards")
        return low, high

    def _number(self, text: str) -> int:
        if not text.isdigit():
            if text not in self.names:
                raise ValueError(f"{text!r} is not a number{' or a name' if self.names else ''}")
            return self.names[text]
        # A long run of digits is out of range whatever its value, and slow to convert.
        number = int(text) if len(text) <= 4 else None
        upper = _SUNDAY if self is _WEEKDAY else self.highest
        if number is None or not self.lowest <= number <= upper:
            raise ValueError(f"{text} is out of range {self.lowest}-{upper}")
        return number

    def _step(self, text: str | None) -> int:
        if text is None:
            return 1
        longest = self.highest - self.lowest + 1
        step = int(text) if len(text) <= 4 else 0
        if not 1 <= step <= longest:
            raise ValueError(f"the step {text} is out of range 1-{longest}")
        return step


_MINUTE = _Field("minute", 0, 59, {})
_HOUR = _Field("hour", 0, 23, {})
_DAY = _Field("day of month", 1, 31, {})
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of week", 0, 6, _WEEKDAYS)


def _split(text: str) -> list[str]:
    if len(text) > MAX_EXPRESSION_LENGTH:
        raise CronError([f"is longer than {MAX_EXPRESSION_LENGTH} characters"])
    expression = text.strip().lower()
    if expression.startswith("@"):
        if expression not in _ALIASES:
            raise CronError([f"{expression!r} is not one of {', '.join(_ALIASES)}"])
        expression = _ALIASES[expression]
    fields = expression.split()
    if len(fields) != 5:
        raise CronError(
            [f"has {len(fields)} fields; it needs five: minute, hour, day of month, month, day of week"]
        )
    return fields


def _is_any(field: str) -> bool:
    return any(item in ("*", "*/1") for item in field.split(","))


def _require_possible_day(expression: CronExpression) -> None:
    longest = max(_LONGEST_MONTHS[month] for month in expression.months)
    if expression.any_weekday and min(expression.days) > longest:
        raise CronError([f"day of month: {min(expression.days)} never occurs in the months it names"])

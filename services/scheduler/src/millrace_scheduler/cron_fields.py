"""The fields of cron expressions: from text to the values it stands for, or to what is wrong with it and where."""

import calendar
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from millrace_scheduler.month_days import LAST

_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_SUNDAY = 7
_MOST_OF_A_WEEKDAY = 5
_VALUE = r"[0-9]+|[a-z]+"
_FLAGS = re.ASCII | re.IGNORECASE
_ITEM = re.compile(
    rf"(?:(?P<star>\*)|(?P<low>{_VALUE})(?:-(?P<high>{_VALUE}))?)(?:/(?P<step>[0-9]+))?", _FLAGS
)
_NTH_WEEKDAY = re.compile(rf"(?P<day>{_VALUE})#(?P<nth>[0-9]+)|l(?P<last>[0-9]+)", _FLAGS)


@dataclass(frozen=True, slots=True)
class Located:
    """A part of an expression."""

    text: str
    #: That of its first character in the whole expression, whose first is 1.
    position: int

    def problem(self, what: str) -> str:
        """Return a sentence about what is wrong with it."""
        return f"{what} (at character {self.position})"

    def items(self) -> Iterator["Located"]:
        """Yield what its commas part."""
        position = self.position
        for text in self.text.split(","):
            yield Located(text, position)
            position += len(text) + 1

    def group(self, match: re.Match[str], name: str) -> "Located":
        """Return the part that a group of a match within it found."""
        return Located(match[name], self.position + match.start(name))


@dataclass(frozen=True, slots=True)
class Field:
    """One of the five fields, with plain values only."""

    name: str
    lowest: int
    highest: int
    names: Mapping[str, int]
    #: The largest number that may be written: that of Sunday is 7 too.
    largest: int
    #: What an item may be, for people.
    forms: str = "a value, a range, a step or a list of these"
    #: Items that stand for days which no plain number names.
    special: re.Pattern[str] | None = None

    def values(self, field: Located, problems: list[str]) -> frozenset[int]:
        """Return the plain numbers that a field stands for; what is wrong with it is added to `problems`."""
        values: set[int] = set()
        for item in field.items():
            try:
                if not self.is_special(item):
                    values.update(self._item(item))
            except _FaultError as fault:
                problems.append(f"{self.name}: {fault}")
        return frozenset(values)

    def is_special(self, item: Located) -> bool:
        """Whether an item stands for days that no plain number names."""
        return self.special is not None and self.special.fullmatch(item.text) is not None

    def number(self, value: Located) -> int:
        """Return the number that a value or a name stands for; raises _FaultError if there is none."""
        text = value.text
        if not text.isdigit():
            if text.lower() not in self.names:
                raise _FaultError(value, f"{text!r} is not a number{' or a name' if self.names else ''}")
            return self.names[text.lower()]
        return _bounded(value, self.lowest, self.largest, text)

    def _item(self, item: Located) -> range:
        parts = _ITEM.fullmatch(item.text)
        if parts is None:
            raise _FaultError(item, f"{item.text!r} is not {self.forms}")
        if parts["star"]:
            low, high = self.lowest, self.highest
        else:
            low, high = self._bounds(item, parts)
        return range(low, high + 1, self._step(item, parts))

    def _bounds(self, item: Located, parts: re.Match[str]) -> tuple[int, int]:
        low = self.number(item.group(parts, "low"))
        if parts["high"] is None:
            return low, max(low, self.highest) if parts["step"] is not None else low
        high = self.number(item.group(parts, "high"))
        if self.largest == _SUNDAY and high == 0 and low > 0:
            high = _SUNDAY
        if low > high:
            raise _FaultError(item, f"the range {parts['low']}-{parts['high']} runs backwards")
        return low, high

    def _step(self, item: Located, parts: re.Match[str]) -> int:
        if parts["step"] is None:
            return 1
        step = item.group(parts, "step")
        return _bounded(step, 1, self.highest - self.lowest + 1, f"the step {step.text}")


class _FaultError(ValueError):
    def __init__(self, place: Located, what: str) -> None:
        super().__init__(place.problem(what))


def _bounded(value: Located, lowest: int, highest: int, name: str) -> int:
    # A long run of digits is out of range whatever its value, and slow to convert.
    number = int(value.text) if len(value.text) <= 4 else None
    if number is None or not lowest <= number <= highest:
        raise _FaultError(value, f"{name} is out of range {lowest}-{highest}")
    return number


MINUTE = Field("minute", 0, 59, {}, 59)
HOUR = Field("hour", 0, 23, {}, 23)
DAY_OF_MONTH = Field(
    "day of month", 1, 31, {}, 31, "a value, a range, a step, L or a list of these", re.compile("l", _FLAGS)
)
MONTH = Field("month", 1, 12, _MONTHS, 12)
DAY_OF_WEEK = Field(
    "day of week",
    0,
    6,
    _WEEKDAYS,
    _SUNDAY,
    "a value, a range, a step, L5, 5#2 or a list of these",
    _NTH_WEEKDAY,
)
FIELDS = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)


def iso_weekday(number: int) -> int:
    """Return the ISO number of a weekday, Monday 1 to Sunday 7, by that of cron."""
    return number or _SUNDAY


def nth_weekdays(field: Located, problems: list[str]) -> frozenset[tuple[int, int]]:
    """Return what the items with # or L stand for, as pairs of a weekday's ISO number and which of its month's it is.

    What is wrong with them is added to `problems`.
    """
    found: set[tuple[int, int]] = set()
    for item in field.items():
        parts = _NTH_WEEKDAY.fullmatch(item.text)
        try:
            if parts is not None:
                found.add(_nth_weekday(item, parts))
        except _FaultError as fault:
            problems.append(f"{DAY_OF_WEEK.name}: {fault}")
    return frozenset(found)


def _nth_weekday(item: Located, parts: re.Match[str]) -> tuple[int, int]:
    if parts["last"] is not None:
        return iso_weekday(DAY_OF_WEEK.number(item.group(parts, "last"))), LAST
    weekday = iso_weekday(DAY_OF_WEEK.number(item.group(parts, "day")))
    nth = item.group(parts, "nth")
    return weekday, _bounded(nth, 1, _MOST_OF_A_WEEKDAY, f"#{nth.text}")

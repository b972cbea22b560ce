"""What people type, as Python values. Each function raises typer.BadParameter with what it expects."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import typer

from millrace_client.command.time_zone import load_zone
from millrace_client.contract_enum import named_member
from millrace_client.limits import RateLimit
from millrace_client.recurrence import (
    Cron,
    Daily,
    Every,
    LastDay,
    Monthly,
    NthWeekday,
    Once,
    Recurrence,
    Weekday,
    Weekly,
)

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
_LENGTH_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_LENGTH = re.compile(rf"(?:{_LENGTH_PART.pattern})+")
_SIZE = re.compile(r"(\d{1,18})(B|[KMGT]i?B)?", re.ASCII | re.IGNORECASE)
_SIZES: dict[str, int] = {"b": 1} | {
    f"{letter}{infix}b": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for infix, base in (("", 1000), ("i", 1024))
}
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_RATE = re.compile(r"(\d+)(?:/([^,]+)(,smooth)?)?")
_TIME_OF_DAY = re.compile(r"\d\d:\d\d(:\d\d)?")

_NO_TIME = "not a time such as 2027-01-31T09:30 or 2027-01-31T09:30:00Z"

_Member = TypeVar("_Member", bound=StrEnum)


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object: the text itself, @file, or @- for standard input."""
    try:
        value = json.loads(_content(text))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object")
    return value


def moment(text: str) -> datetime:
    """Read an ISO 8601 time; without a time zone it is in this machine's."""
    return in_zone(clock_time(text), None)


def clock_time(text: str) -> datetime:
    """Read an ISO 8601 time, with or without a time zone."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(_NO_TIME) from error


def in_zone(moment: datetime, time_zone: str | None) -> datetime:
    """Give a time without a zone an IANA zone, or this machine's; one that has a zone stays the same time."""
    try:
        if time_zone and moment.tzinfo is None:
            moment = moment.replace(tzinfo=load_zone(time_zone))
        return moment.astimezone()
    except LookupError as error:
        raise typer.BadParameter(str(error), param_hint="--time-zone") from error
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(_NO_TIME) from error


def length(text: str) -> timedelta:
    """Read a length of time such as "90s", "1h30m", "0.5s" or "250ms"."""
    if not _LENGTH.fullmatch(text):
        raise typer.BadParameter('not a length of time such as "15m", "1h30m" or "250ms" (d, h, m, s, ms)')
    parts = _LENGTH_PART.findall(text)
    try:
        return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
    except OverflowError as error:
        raise typer.BadParameter("too long") from error


def size(text: str) -> int:
    """Read a number of bytes such as "10GiB", "500MB" or "1048576"."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise typer.BadParameter('not a size such as "10GiB", "500MB" or "1048576"')
    return int(match[1]) * _SIZES[(match[2] or "b").lower()]


def count(text: str) -> int:
    """Read a number of things."""
    if not _COUNT.fullmatch(text):
        raise typer.BadParameter('not a number such as "1000"')
    return int(text)


@dataclass(frozen=True, slots=True)
class OwnLimit:
    """A limit that is to be set; None: as the server says."""

    value: int | None


def own_limit(read: Callable[[str], int]) -> Callable[[str], OwnLimit]:
    """Return what reads "default", or a limit as `read` does."""

    def read_limit(text: str) -> OwnLimit:
        if text.lower() == "default":
            return OwnLimit(None)
        try:
            return OwnLimit(read(text))
        except typer.BadParameter as error:
            raise typer.BadParameter(f'{error.message}, nor "default"') from error

    return read_limit


def rate(text: str) -> RateLimit:
    """Read so many starts in so much time, such as "100/1m" or "100/m,smooth"; "0": any number."""
    match = _RATE.fullmatch(text)
    if match is None or (match[2] is None and int(match[1])):
        raise typer.BadParameter('not a rate such as "100/1m" or "5/s,smooth", or 0')
    if match[2] is None:
        return RateLimit(0)
    period = length(match[2] if match[2][0].isdecimal() else f"1{match[2]}")
    return RateLimit(int(match[1]), period, smooth=match[3] is not None)


def member(kind: type[_Member]) -> Callable[[str], _Member]:
    """Return what reads a member of an enum in any case, with "-" or "_" between words."""

    def read(text: str) -> _Member:
        try:
            return named_member(kind, text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return read


def daily(text: str) -> Recurrence:
    """Read a local time."""
    return Daily(_time_of_day(text))


def weekly(text: str) -> Recurrence:
    """Read days and a local time, such as "mon,fri 09:00"."""
    days, _, time_of_day = text.partition(" ")
    if not time_of_day:
        raise typer.BadParameter('not days and a time such as "mon,fri 09:00"')
    return Weekly([_weekday(day) for day in days.split(",")], _time_of_day(time_of_day))


def monthly(text: str) -> Recurrence:
    """Read a day of the month and a local time, such as "31 09:00", "last 09:00", "2 tue 09:00" or "last fri 09:00"."""
    match text.split(" "):
        case ["last", time_of_day]:
            return Monthly(LastDay(), _time_of_day(time_of_day))
        case ["last", day, time_of_day]:
            return Monthly(NthWeekday(-1, _weekday(day)), _time_of_day(time_of_day))
        case [day, time_of_day] if day.isdecimal():
            return Monthly(_number(day, 31), _time_of_day(time_of_day))
        case [nth, day, time_of_day] if nth.isdecimal():
            return Monthly(NthWeekday(_number(nth, 5), _weekday(day)), _time_of_day(time_of_day))
    raise typer.BadParameter('not a day and a time such as "31 09:00", "last 09:00" or "2 tue 09:00"')


def every(text: str) -> Recurrence:
    """Read a length of time such as "90s" or "1h30m"."""
    return Every(length(text))


def once(text: str) -> Recurrence:
    """Read an ISO 8601 time, with or without a time zone."""
    return Once(clock_time(text))


def cron(text: str) -> Recurrence:
    """Take a cron expression as it is; the Scheduler judges it."""
    return Cron(text)


def text_content(text: str) -> str:
    """Read a text: the text itself, @file, or @- for standard input, whose last end of line does not count."""
    content = _content(text)
    if isinstance(content, str):
        return content
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"not UTF-8: {error}") from error


def _content(text: str) -> str | bytes:
    if text == "@-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {text[1:]}: {error.strerror}") from error


def _number(text: str, last: int) -> int:
    if text.lstrip("0") not in map(str, range(1, last + 1)):
        raise typer.BadParameter(f'"{text}" is not one of 1 to {last}')
    return int(text)


def _time_of_day(text: str) -> str:
    if not _TIME_OF_DAY.fullmatch(text):
        raise typer.BadParameter(f'"{text}" is not a local time such as 09:30 or 09:30:15')
    return text


def _weekday(text: str) -> Weekday:
    matching = [day for day in Weekday if len(text) >= 3 and day.startswith(text.upper())]
    if not matching:
        raise typer.BadParameter(f'"{text}" is not a day such as mon or Monday')
    return matching[0]

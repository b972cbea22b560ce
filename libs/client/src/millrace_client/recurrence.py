"""How often a schedule fires: one small class per frequency."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import TypeAlias

from google.type import dayofweek_pb2

from millrace.scheduler.v1 import schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.contract_enum import ContractEnum, named_member
from millrace_client.values import from_timestamp, to_duration, to_timestamp


class Weekday(StrEnum):
    """A day of the week."""

    MONDAY = "MONDAY"
    TUESDAY = "TUESDAY"
    WEDNESDAY = "WEDNESDAY"
    THURSDAY = "THURSDAY"
    FRIDAY = "FRIDAY"
    SATURDAY = "SATURDAY"
    SUNDAY = "SUNDAY"


@dataclass(frozen=True, slots=True)
class Once:
    """Once, at an instant (with a time zone)."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Daily:
    """Every day at a local time: a `datetime.time`, or "HH:MM" or "HH:MM:SS"."""

    time_of_day: time | str


@dataclass(frozen=True, slots=True)
class Weekly:
    """On some days of every week, at a local time; days by their whole name, or as Weekday."""

    days: Iterable[Weekday | str]
    time_of_day: time | str

    def __post_init__(self) -> None:
        """ValueError for an unknown day."""
        object.__setattr__(self, "days", tuple(named_member(Weekday, day) for day in self.days))


@dataclass(frozen=True, slots=True)
class LastDay:
    """The last day of a month."""


@dataclass(frozen=True, slots=True)
class NthWeekday:
    """Such as the second Tuesday of a month."""

    nth: int
    """1 to 5, or -1 for the last one. In a month that has no fifth one it does not fire."""
    day: Weekday | str

    def __post_init__(self) -> None:
        """ValueError for an unknown day."""
        object.__setattr__(self, "day", named_member(Weekday, self.day))


@dataclass(frozen=True, slots=True)
class Monthly:
    """Once a month at a local time. In a month without the day (1 to 31), on its last day."""

    day: int | LastDay | NthWeekday
    time_of_day: time | str


@dataclass(frozen=True, slots=True)
class Every:
    """Every so much elapsed time, in whole seconds, counted from the schedule's start or creation."""

    interval: timedelta


@dataclass(frozen=True, slots=True)
class Cron:
    """As a cron expression of five fields says, or one of @hourly, @daily, @weekly, @monthly, @yearly.

    L is the last day of the month, L5 the last Friday, 5#2 the second.
    """

    expression: str


Recurrence: TypeAlias = Once | Daily | Weekly | Monthly | Every | Cron


class Frequency(StrEnum):
    """A kind of recurrence."""

    ONCE = "ONCE"
    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    INTERVAL = "INTERVAL"
    """That of Every."""
    CRON = "CRON"
    UNKNOWN = "UNKNOWN"
    """A kind that this version of the SDK does not know."""


_FREQUENCIES = ContractEnum(Frequency, messages.Frequency.items(), "FREQUENCY_")


def frequency_value(frequency: Frequency | str | None) -> messages.Frequency.ValueType:
    """Return the contract's value, the unspecified one for None; ValueError for an unknown kind."""
    value: messages.Frequency.ValueType = _FREQUENCIES.value(frequency)
    return value


def to_recurrence(recurrence: Recurrence) -> schedule_pb2.Recurrence:
    """Turn a recurrence into the contract's message."""
    match recurrence:
        case Once(at):
            return schedule_pb2.Recurrence(once=schedule_pb2.OnceRecurrence(at=to_timestamp(at)))
        case Daily(time_of_day):
            daily = schedule_pb2.DailyRecurrence(time_of_day=_clock(time_of_day))
            return schedule_pb2.Recurrence(daily=daily)
        case Weekly(days, time_of_day):
            weekly = schedule_pb2.WeeklyRecurrence(
                days=[dayofweek_pb2.DayOfWeek.Value(day) for day in days], time_of_day=_clock(time_of_day)
            )
            return schedule_pb2.Recurrence(weekly=weekly)
        case Monthly(day, time_of_day):
            return schedule_pb2.Recurrence(monthly=_to_monthly(day, _clock(time_of_day)))
        case Every(interval):
            every = schedule_pb2.IntervalRecurrence(every=to_duration(interval))
            return schedule_pb2.Recurrence(interval=every)
        case Cron(expression):
            return schedule_pb2.Recurrence(cron=schedule_pb2.CronRecurrence(expression=expression))


def read_recurrence(message: schedule_pb2.Recurrence) -> Recurrence | None:
    """Turn the contract's message into a recurrence; None for a frequency that this SDK does not know."""
    frequency = message.WhichOneof("frequency")
    return _READERS[frequency](message) if frequency is not None else None


def _to_monthly(day: int | LastDay | NthWeekday, time_of_day: str) -> schedule_pb2.MonthlyRecurrence:
    match day:
        case LastDay():
            return schedule_pb2.MonthlyRecurrence(last_day=True, time_of_day=time_of_day)
        case NthWeekday(nth, weekday):
            nth_weekday = schedule_pb2.NthWeekday(nth=nth, day=dayofweek_pb2.DayOfWeek.Value(weekday))
            return schedule_pb2.MonthlyRecurrence(weekday=nth_weekday, time_of_day=time_of_day)
        case _:
            return schedule_pb2.MonthlyRecurrence(day=day, time_of_day=time_of_day)


def _read_monthly(message: schedule_pb2.Recurrence) -> Monthly:
    monthly = message.monthly
    if monthly.HasField("weekday"):
        weekday = NthWeekday(monthly.weekday.nth, dayofweek_pb2.DayOfWeek.Name(monthly.weekday.day))
        return Monthly(weekday, monthly.time_of_day)
    return Monthly(LastDay() if monthly.last_day else monthly.day, monthly.time_of_day)


def _read_weekly(message: schedule_pb2.Recurrence) -> Weekly:
    days = [dayofweek_pb2.DayOfWeek.Name(day) for day in message.weekly.days]
    return Weekly(days, message.weekly.time_of_day)


_READERS: Mapping[str, Callable[[schedule_pb2.Recurrence], Recurrence]] = {
    "once": lambda message: Once(from_timestamp(message.once.at)),
    "daily": lambda message: Daily(message.daily.time_of_day),
    "weekly": _read_weekly,
    "monthly": _read_monthly,
    "interval": lambda message: Every(message.interval.every.ToTimedelta()),
    "cron": lambda message: Cron(message.cron.expression),
}


def _clock(time_of_day: time | str) -> str:
    return time_of_day if isinstance(time_of_day, str) else time_of_day.strftime("%H:%M:%S")

"""The options that say when a schedule fires."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from millrace_client.command import parse
from millrace_client.recurrence import Once, Recurrence

_RecurrenceOption = Any  # Recurrence | None; typer knows no unions of classes
_NAMES = "--daily, --weekly, --monthly, --every, --once, --cron"
_PANEL = "When"


def _recurrence(read: Callable[[str], Recurrence], metavar: str, help_text: str) -> Any:
    return typer.Option(
        parser=read, metavar=metavar, help=help_text, rich_help_panel=f"{_PANEL} (one of these)"
    )


def _moment(help_text: str) -> Any:
    return typer.Option(parser=parse.clock_time, metavar="TIME", help=help_text, rich_help_panel=_PANEL)


@dataclass(frozen=True, slots=True)
class ScheduleTimingOptions:
    """When a schedule fires; None for what is not given.

    Times without a zone are in `time_zone`, or in this machine's when it is not given either.
    """

    daily: Annotated[_RecurrenceOption, _recurrence(parse.daily, "HH:MM", "Every day at this time.")] = None
    weekly: Annotated[
        _RecurrenceOption, _recurrence(parse.weekly, '"DAYS HH:MM"', 'Such as "mon,fri 09:00".')
    ] = None
    monthly: Annotated[
        _RecurrenceOption,
        _recurrence(
            parse.monthly,
            '"DAY HH:MM"',
            'Such as "31 09:00", "last 09:00", "2 tue 09:00" or "last fri 09:00".',
        ),
    ] = None
    every: Annotated[
        _RecurrenceOption, _recurrence(parse.every, "LENGTH", "Such as 15m or 1h30m, in whole seconds.")
    ] = None
    once: Annotated[_RecurrenceOption, _recurrence(parse.once, "TIME", "At one time (ISO 8601).")] = None
    cron: Annotated[
        _RecurrenceOption, _recurrence(parse.cron, "EXPRESSION", 'Such as "*/5 8-18 * * mon-fri".')
    ] = None
    time_zone: Annotated[
        str | None,
        typer.Option(
            help='The IANA zone of local times, and of times without an offset, such as "Europe/Paris".',
            rich_help_panel=_PANEL,
        ),
    ] = None
    start_at: Annotated[datetime | None, _moment("Does not fire before.")] = None
    end_at: Annotated[datetime | None, _moment("Does not fire after.")] = None

    def __post_init__(self) -> None:
        """typer.BadParameter when a time without a zone has no place in that of the schedule."""
        if self.once is not None:
            object.__setattr__(self, "once", Once(self.in_zone(self.once.at)))
        for name in ("start_at", "end_at"):
            moment = getattr(self, name)
            if moment is not None:
                object.__setattr__(self, name, self.in_zone(moment))

    def in_zone(self, moment: datetime) -> datetime:
        """Give a time without a zone that of the schedule."""
        return parse.in_zone(moment, self.time_zone)

    def one_recurrence(self) -> Recurrence:
        """Return the recurrence that is given; typer.BadParameter when it is not exactly one."""
        recurrence = self.recurrence()
        if recurrence is None:
            raise typer.BadParameter(f"give exactly one of {_NAMES}")
        return recurrence

    def recurrence(self) -> Recurrence | None:
        """Return the recurrence that is given, if any; typer.BadParameter when there are several."""
        frequencies = (self.daily, self.weekly, self.monthly, self.every, self.once, self.cron)
        given: list[Recurrence] = [frequency for frequency in frequencies if frequency is not None]
        if len(given) > 1:
            raise typer.BadParameter(f"give exactly one of {_NAMES}")
        return given[0] if given else None

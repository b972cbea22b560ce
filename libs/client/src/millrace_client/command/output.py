"""What the command prints: tables and details for people, JSON Lines for programs."""

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from millrace_client.command.json_form import json_form
from millrace_client.connection_words import BROKEN
from millrace_client.errors import CallError, UnavailableError

_Item = TypeVar("_Item")
Columns = Mapping[str, Callable[[_Item], Any]]
"""The heading of each column and what stands in it."""

_UNLIMITED_WIDTH = 10_000


class Output:
    """Standard output, in one of the two forms."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(highlight=False)
        self.is_live = self._console.is_terminal and not as_json
        """Whether something that moves may be drawn."""
        if not self._console.is_terminal:
            self._console.width = _UNLIMITED_WIDTH

    def show(self, result: Any, for_people: Mapping[str, str] | None = None) -> None:
        """Print one dataclass of the SDK: a line of JSON, or a name and a value on each line.

        `for_people` are texts that people read instead of the fields of these names.
        """
        if self.as_json:
            self.line(json_form(result))
            return
        grid = Table.grid(padding=(0, 2))
        for name, value in (json_form(result, enum_name=_word) | dict(for_people or {})).items():
            if value not in ("", [], {}):
                grid.add_row(Text(name, style="bold"), Text(plain(value), overflow="fold"))
        self._draw(grid)

    async def table(self, columns: "Columns[_Item]", items: AsyncIterator[_Item], limit: int = 0) -> None:
        """Print one row, or one line of JSON, for each item.

        Of at most `limit` items, 0: all. Standard error, if it is a terminal, says when there are more: ask for `one_more(limit)`.
        """
        count = 0
        for_people: list[_Item] = []
        async for item in items:
            count += 1
            if limit and count > limit:
                break
            if self.as_json:
                self.line(json_form(item))
            else:
                for_people.append(item)
        if not self.as_json:
            self.rows(columns, for_people)
        if limit and count > limit and sys.stderr.isatty():
            sys.stderr.write(f"there are more than {limit}: --limit 0 shows all\n")

    def rows(self, columns: "Columns[_Item]", items: Iterable[_Item]) -> None:
        """Print one row for each item, for people."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place, heading in enumerate(columns):
            table.add_column(heading, no_wrap=place == 0, overflow="fold")
        for item in items:
            table.add_row(*(Text(plain(cell(item))) for cell in columns.values()))
        self._draw(table)

    def _draw(self, table: Table) -> None:
        if self._console.is_terminal:
            self._console.print(table)
            return
        with self._console.capture() as drawn:
            self._console.print(table)
        for line in drawn.get().splitlines():
            sys.stdout.write(line.rstrip() + "\n")

    def line(self, fields: Mapping[str, Any]) -> None:
        """Print a line of JSON."""
        sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Print a line for people."""
        sys.stdout.write(plain(text) + "\n")
        sys.stdout.flush()


def one_more(limit: int) -> int | None:
    """Return how many items to ask for, so that it is found out whether there are more than the limit; 0, as None: all."""
    return limit + 1 if limit else None


def complain(message: str, *details: str) -> None:
    """Print to standard error what went wrong, with one further line for each detail."""
    sys.stderr.write("".join([f"error: {plain(message)}\n", *(f"  {plain(detail)}\n" for detail in details)]))


def complain_below(detail: str) -> None:
    """Print to standard error one further line about what was just said to be wrong."""
    sys.stderr.write(f"  {plain(detail)}\n")


def complain_of_call(error: CallError, about: str = "") -> None:
    """Print a call's error: its status and message, each bad field, the resource, the quota, and when to try again.

    It begins with what it is `about`, unless the message names that.
    """
    details = [str(bad) for bad in error.violations]
    # A message that only strings the bad fields together is better read as the list of them that follows.
    said_below = bool(details) and all(detail in error.message for detail in details)
    details += [unmet for unmet in error.preconditions if unmet not in error.message]
    if error.resource is not None and error.resource.name not in error.message:
        details.append(str(error.resource))
    if error.retry_after is not None:
        details.append(f"try again in {error.retry_after.total_seconds():g} s")
    if error.quota is not None:
        details.append(f"{error.quota.name} of {error.quota.subject} is {error.quota.allowed}")
        if error.quota.name == "files.open_uploads":
            details.append(
                "`millrace files uploads list` shows them, `millrace files uploads cancel` gives one up"
            )
    # Whatever answers for itself says why, and what broke in the middle was running.
    if isinstance(error, UnavailableError) and not error.reason and error.message != BROKEN:
        details.append("is it running? `millrace up` starts everything on this machine")
    text = error.code.name if said_below else f"{error.code.name}: {error.message}"
    complain(text if about in text else f"{about}: {text}", *details)


def plain(value: Any) -> str:
    """Give a value as text in one line that moves no cursor, whatever a caller put into it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return _local(value).isoformat(" ", "seconds")[: len("2027-01-31 09:30:00")]
    if isinstance(value, timedelta):
        return _length(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def exact_time(moment: datetime | None) -> str:
    """Give a time in this machine's zone to the millisecond, where things may follow each other quickly."""
    return "" if moment is None else _local(moment).replace(tzinfo=None).isoformat(" ", "milliseconds")


def _word(member: Enum) -> str:
    """Name a member as tables do."""
    return str(member.value)


def _length(value: timedelta) -> str:
    """Give whole seconds, and milliseconds of what is shorter than a minute."""
    if value >= timedelta(minutes=1):
        return str(value - timedelta(microseconds=value.microseconds))
    milliseconds = value - timedelta(microseconds=value.microseconds % 1000)
    return str(milliseconds).rstrip("0") if milliseconds.microseconds else str(milliseconds)


def _local(moment: datetime) -> datetime:
    try:
        return moment.astimezone()
    except OverflowError:  # the calendar's first or last day is not whole in every time zone
        return moment

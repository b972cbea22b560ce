"""The table of cron expressions, time zones and fire times in cron_table.txt."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_TABLE = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True, slots=True)
class CronRow:
    """When an expression fires in a time zone."""

    expression: str
    time_zone: str
    after: datetime
    #: The first times strictly after `after`.
    fires: tuple[datetime, ...]


def read_cron_table() -> list[CronRow]:
    """Return the rows of the table."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    return [_row(line) for line in lines if line and not line.startswith("#")]


def _row(line: str) -> CronRow:
    expression, time_zone, *times = (cell.strip() for cell in line.split(" | "))
    after, *fires = map(datetime.fromisoformat, times)
    return CronRow(expression, time_zone, after, tuple(fires))

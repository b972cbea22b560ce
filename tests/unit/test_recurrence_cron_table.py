"""The table of cron expressions, replayed."""

from itertools import pairwise

import pytest

from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import next_run
from support.cron_table import CronRow, read_cron_table
from support.recurrences import cron

ROWS = read_cron_table()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.expression} {row.time_zone} {row.after.date()}")
def test_row(row: CronRow) -> None:
    recurrence, zone = cron(row.expression), load_zone(row.time_zone)
    fires = []
    after = row.after
    for _ in row.fires:
        found = next_run(recurrence, zone, after, start_at=None, end_at=None, anchor=row.after)
        assert found is not None
        fires.append(found.astimezone(zone).isoformat())
        after = found
    assert fires == [fire.isoformat() for fire in row.fires]


def test_the_table_is_in_order() -> None:
    assert len(ROWS) >= 60
    for row in ROWS:
        assert len(row.fires) == 5
        assert all(earlier < later for earlier, later in pairwise([row.after, *row.fires]))

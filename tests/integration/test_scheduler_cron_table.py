"""The table of cron expressions, as callers see it."""

from datetime import UTC, timedelta

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database.database import Database
from support.cron_table import read_cron_table
from support.scheduler_api import cron, scheduling


async def test_previews_show_the_times_of_the_table(database: Database) -> None:
    rows = read_cron_table()
    assert len(rows) > 50
    async with scheduling(database) as api:
        for row in rows:
            timing = scheduler_service_pb2.ScheduleTiming(
                recurrence=cron(row.expression), time_zone=row.time_zone
            )
            shown = await api.preview(timing=timing, after=row.after, count=len(row.fires))
            assert shown == [time.astimezone(UTC) for time in row.fires], row
            if len(row.fires) > 1:
                # Each of them is the first one after the one before.
                last = await api.preview(
                    timing=timing, after=row.fires[-1] - timedelta(microseconds=1), count=1
                )
                assert last == [row.fires[-1].astimezone(UTC)], row

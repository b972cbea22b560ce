"""`millrace schedules preview`, `runs` and `backfill`: the times of a schedule to come, and those that were."""

from datetime import datetime
from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.json_form import json_value
from millrace_client.command.output import Output, one_more
from millrace_client.command.schedule_details import RUN_COLUMNS, show_times
from millrace_client.command.schedule_id import ScheduleId
from millrace_client.command.schedule_timing_options import ScheduleTimingOptions
from millrace_client.schedule_timing import ScheduleTiming


async def preview(
    client: Millrace,
    output: Output,
    *,
    schedule_id: Annotated[
        str | None,
        typer.Argument(
            metavar="SCHEDULE_ID", help="A schedule that is stored; else say when one would fire."
        ),
    ] = None,
    after: Annotated[
        datetime | None,
        typer.Option(
            parser=parse.clock_time, metavar="TIME", help="The times after this one; else after now."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    when: ScheduleTimingOptions,
) -> None:
    """Show when a schedule fires next, or would fire if there were one, in its time zone; with --json in UTC."""
    after = None if after is None else when.in_zone(after)
    if schedule_id is None:
        timing = ScheduleTiming(when.one_recurrence(), when.time_zone or "", when.start_at, when.end_at)
        moments = await client.schedules.preview(timing, after=after, count=count)
        time_zone = timing.time_zone
    elif when != ScheduleTimingOptions():
        raise typer.BadParameter("give a schedule, or when one would fire, and not both")
    else:
        moments = await client.schedules.preview(schedule_id, after=after, count=count)
        time_zone = "" if output.as_json else (await client.schedules.get(schedule_id)).time_zone
    if output.as_json:
        output.line({"runTimes": json_value(moments)})
    elif moments:
        show_times(output, moments, time_zone)
    else:
        output.text("it does not fire any more")


async def runs(
    client: Millrace,
    output: Output,
    *,
    schedule_id: ScheduleId,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List what became of a schedule's times, the latest first, also of a deleted schedule."""
    await output.table(RUN_COLUMNS, client.schedules.runs(schedule_id, limit=one_more(limit)), limit)


async def backfill(
    client: Millrace,
    output: Output,
    *,
    schedule_id: ScheduleId,
    start_time: Annotated[
        datetime,
        typer.Option(
            "--from",
            parser=parse.moment,
            metavar="TIME",
            help="The first time that counts (ISO 8601; a date: its midnight).",
        ),
    ],
    end_time: Annotated[
        datetime,
        typer.Option(
            "--to",
            parser=parse.moment,
            metavar="TIME",
            help="The last time that counts (ISO 8601; a date: its midnight, so the day before is the last one).",
        ),
    ],
) -> None:
    """Create the jobs of a schedule's past times that have none yet, up to 1,000 times."""
    done = await client.schedules.backfill(schedule_id, start_time, end_time)
    if output.as_json:
        output.show(done)
        return
    if done.runs:
        output.rows(RUN_COLUMNS, done.runs)
    output.text(
        f"jobs created: {done.created_count}; times that had one: {len(done.runs) - done.created_count}"
    )

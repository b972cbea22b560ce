"""`millrace schedules create`."""

from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.delivery_options import DeliveryOptions
from millrace_client.command.output import Output
from millrace_client.command.schedule_policy_options import SchedulePolicyOptions
from millrace_client.command.schedule_timing_options import ScheduleTimingOptions


async def create(
    client: Millrace,
    output: Output,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for people.")],
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The type of the jobs to create.")],
    job_input: Annotated[
        dict[str, Any] | None,
        typer.Option(
            "--input", parser=parse.json_object, metavar="JSON", help="Their input; @FILE or @- reads it."
        ),
    ] = None,
    metadata: Annotated[
        dict[str, Any] | None,
        typer.Option(parser=parse.json_object, metavar="JSON", help="Their labels; @FILE or @- reads them."),
    ] = None,
    created_by: Annotated[str, typer.Option(help="For whom its jobs are created.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(
            help="Makes a repeated command return the schedule of the first one, whatever else it asks for."
        ),
    ] = None,
    when: ScheduleTimingOptions,
    policies: SchedulePolicyOptions,
    results: DeliveryOptions,
) -> None:
    """Create a schedule."""
    schedule = await client.schedules.create(
        name,
        job_type,
        when.one_recurrence(),
        job_input,
        metadata=metadata,
        time_zone=when.time_zone or "",
        start_at=when.start_at,
        end_at=when.end_at,
        jitter=policies.jitter,
        overlap_policy=policies.overlap_policy,
        catch_up_policy=policies.catch_up_policy,
        catch_up_window=policies.catch_up_window,
        max_runs=policies.max_runs or 0,
        pause_after_failed_runs=policies.pause_after_failed_runs or 0,
        delivery=results.delivery(),
        created_by=created_by,
        request_id=request_id,
    )
    output.show(schedule)

"""`millrace schedules update`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.delivery_options import DeliveryOptions
from millrace_client.command.output import Output
from millrace_client.command.schedule_id import ScheduleId
from millrace_client.command.schedule_policy_options import SchedulePolicyOptions
from millrace_client.command.schedule_timing_options import ScheduleTimingOptions
from millrace_client.schedule_policies import CatchUpPolicy
from millrace_client.schedule_update import ScheduleChanges


class Clearable(StrEnum):
    """What a schedule can be without."""

    INPUT = "INPUT"
    METADATA = "METADATA"
    START_AT = "START_AT"
    END_AT = "END_AT"
    DELIVERY = "DELIVERY"


_UNSET: dict[Clearable, ScheduleChanges] = {
    Clearable.INPUT: {"job_input": None},
    Clearable.METADATA: {"metadata": None},
    Clearable.START_AT: {"start_at": None},
    Clearable.END_AT: {"end_at": None},
    Clearable.DELIVERY: {"delivery": None},
}


async def update(
    client: Millrace,
    output: Output,
    *,
    schedule_id: ScheduleId,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    job_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="The type of the jobs to create.")
    ] = None,
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
    clear: Annotated[
        list[Clearable] | None,
        typer.Option(
            parser=parse.member(Clearable),
            metavar="WHAT",
            help="Unset it: input, metadata, start-at, end-at or delivery; several when repeated.",
        ),
    ] = None,
    if_version: Annotated[
        int | None,
        typer.Option(min=1, help="Only if the schedule still has this version; else nothing is changed."),
    ] = None,
    when: ScheduleTimingOptions,
    policies: SchedulePolicyOptions,
    results: DeliveryOptions,
) -> None:
    """Change what is given of a schedule, and leave the rest."""
    given: dict[str, Any] = {
        "name": name,
        "job_type": job_type,
        "job_input": job_input,
        "metadata": metadata,
        "recurrence": when.recurrence(),
        "time_zone": when.time_zone,
        "start_at": when.start_at,
        "end_at": when.end_at,
        "jitter": policies.jitter,
        "overlap_policy": policies.overlap_policy,
        "catch_up_policy": policies.catch_up_policy,
        "catch_up_window": policies.catch_up_window,
        "max_runs": policies.max_runs,
        "pause_after_failed_runs": policies.pause_after_failed_runs,
        "delivery": results.delivery(),
    }
    changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    for what in set(clear or ()):
        if not changes.keys().isdisjoint(_UNSET[what]):
            raise typer.BadParameter("the same thing is to be set and unset", param_hint="--clear")
        changes |= _UNSET[what]
    if policies.catch_up_policy not in (None, CatchUpPolicy.RUN_ALL):
        changes.setdefault("catch_up_window", None)  # the others have none
    if not changes:
        raise typer.BadParameter("give something to change")
    output.show(await client.schedules.update(schedule_id, version=if_version, **changes))

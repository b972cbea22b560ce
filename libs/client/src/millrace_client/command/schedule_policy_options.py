"""The options that say how a schedule copes when things do not go as planned."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import typer

from millrace_client.command import parse
from millrace_client.schedule_policies import CatchUpPolicy, OverlapPolicy

_PANEL = "How it copes"
_MOST_RUNS = 2**31 - 1  # of the contract's int32


@dataclass(frozen=True, slots=True)
class SchedulePolicyOptions:
    """How a schedule copes; None for what is not given."""

    jitter: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length,
            metavar="LENGTH",
            help="Each firing is late by up to so much, in whole seconds, at most 24h.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    overlap_policy: Annotated[
        OverlapPolicy | None,
        typer.Option(
            "--overlap",
            parser=parse.member(OverlapPolicy),
            metavar="WHAT",
            help="While the job before still runs: allow (the default), skip, buffer-one, or cancel-running.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    catch_up_policy: Annotated[
        CatchUpPolicy | None,
        typer.Option(
            "--catch-up",
            parser=parse.member(CatchUpPolicy),
            metavar="WHAT",
            help="Times at which no scheduler ran: run-once (the default), run-all, or skip.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    catch_up_window: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length,
            metavar="LENGTH",
            help="How far back run-all goes: 1s to 30d.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    max_runs: Annotated[
        int | None,
        typer.Option(
            min=0, max=_MOST_RUNS, help="Ends after so many firings; 0: never.", rich_help_panel=_PANEL
        ),
    ] = None
    pause_after_failed_runs: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100,
            help="Pauses itself when so many jobs in a row have failed; 0: never.",
            rich_help_panel=_PANEL,
        ),
    ] = None

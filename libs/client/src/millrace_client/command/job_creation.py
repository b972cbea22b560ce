"""`millrace jobs create`."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.job_details import show_job
from millrace_client.command.output import Output
from millrace_client.command.watching import follow
from millrace_client.job import Job
from millrace_client.job_options import (
    Backoff,
    Concurrency,
    KeyOrder,
    RetryPolicy,
    Unique,
    UniqueConflict,
    UniqueScope,
    UniqueStates,
)
from millrace_client.new_job import NewJob

JsonOption = dict[str, Any] | None

_WHEN = "When"
_ATTEMPTS = "Attempts"
_UNIQUE = "Unique key"
_CONCURRENCY = "Concurrency key"


async def create(
    client: Millrace,
    output: Output,
    *,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help='Such as "reports:generate".')],
    job_input: Annotated[
        JsonOption,
        typer.Option(
            "--input", parser=parse.json_object, metavar="JSON", help="The input; @FILE or @- reads it."
        ),
    ] = None,
    metadata: Annotated[
        JsonOption,
        typer.Option(
            parser=parse.json_object, metavar="JSON", help="Labels of your own; @FILE or @- reads them."
        ),
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeated command return the job of the first one.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Higher is served first, -100 to 100.")] = 0,
    created_by: Annotated[str, typer.Option(help="Who asks for the job.")] = "",
    dead_letter_type: Annotated[
        str,
        typer.Option(
            "--dead-letter", metavar="TYPE", help="A job of this type is made of it when it fails for good."
        ),
    ] = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, and create nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it is finished.")] = False,
    run_at: Annotated[
        datetime | None,
        typer.Option(
            parser=parse.moment, metavar="TIME", help="Not started before (ISO 8601).", rich_help_panel=_WHEN
        ),
    ] = None,
    delay: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length,
            metavar="LENGTH",
            help="Not started before so much time has passed, such as 250ms, 90s or 1h30m.",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    deadline: Annotated[
        datetime | None,
        typer.Option(
            parser=parse.moment,
            metavar="TIME",
            help="Not started after: it fails then (ISO 8601).",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    max_attempts: Annotated[
        int, typer.Option(help="How many, 1 to 100; 0: as many as the type says.", rich_help_panel=_ATTEMPTS)
    ] = 0,
    attempt_timeout: Annotated[
        timedelta | None,
        typer.Option(
            "--timeout",
            parser=parse.length,
            metavar="LENGTH",
            help="How long one attempt may run; else as the type says.",
            rich_help_panel=_ATTEMPTS,
        ),
    ] = None,
    retry_backoff: Annotated[
        Backoff | None,
        typer.Option(
            parser=parse.member(Backoff),
            metavar="BACKOFF",
            help="How the wait between attempts grows: fixed, linear or exponential; else as the type says.",
            rich_help_panel=_ATTEMPTS,
        ),
    ] = None,
    retry_delay: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length,
            metavar="LENGTH",
            help="The wait before the second attempt; not above the longest.",
            rich_help_panel=_ATTEMPTS,
        ),
    ] = None,
    retry_max_delay: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length,
            metavar="LENGTH",
            help="The longest wait; else as the type says.",
            rich_help_panel=_ATTEMPTS,
        ),
    ] = None,
    retry_factor: Annotated[
        float | None,
        typer.Option(help="1 to 10; what exponential waits grow by.", rich_help_panel=_ATTEMPTS),
    ] = None,
    retry_jitter: Annotated[
        float | None,
        typer.Option(help="0 to 1; the share of a wait left to chance.", rich_help_panel=_ATTEMPTS),
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option(help="No other job may have it at the same time.", rich_help_panel=_UNIQUE)
    ] = None,
    unique_scope: Annotated[
        UniqueScope | None,
        typer.Option(
            parser=parse.member(UniqueScope),
            metavar="SCOPE",
            help="Unique within: organisation-and-type (the default), organisation or type.",
            rich_help_panel=_UNIQUE,
        ),
    ] = None,
    unique_states: Annotated[
        UniqueStates | None,
        typer.Option(
            parser=parse.member(UniqueStates),
            metavar="STATES",
            help="A job has its key while it is: waiting, running, unfinished (the default); each: one job in each state.",
            rich_help_panel=_UNIQUE,
        ),
    ] = None,
    on_conflict: Annotated[
        UniqueConflict | None,
        typer.Option(
            parser=parse.member(UniqueConflict),
            metavar="WHAT",
            help="When the key is taken: reject (the default), return-existing, or replace the job that waits.",
            rich_help_panel=_UNIQUE,
        ),
    ] = None,
    throttle: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length,
            metavar="LENGTH",
            help="Let one job with this key in, and no other for so long: 1s to 30d.",
            rich_help_panel=_UNIQUE,
        ),
    ] = None,
    concurrency_key: Annotated[
        str | None,
        typer.Option(help="Only so many jobs with it run at once.", rich_help_panel=_CONCURRENCY),
    ] = None,
    concurrency_limit: Annotated[
        int | None,
        typer.Option(help="How many, to 1,000; 1 when not given, or 0.", rich_help_panel=_CONCURRENCY),
    ] = None,
    key_order: Annotated[
        KeyOrder | None,
        typer.Option(
            parser=parse.member(KeyOrder),
            metavar="ORDER",
            help="Strictly one after the other: block-on-failure or skip-failed says what follows a failed one.",
            rich_help_panel=_CONCURRENCY,
        ),
    ] = None,
) -> None:
    """Create a job."""
    if watch and validate_only:
        raise typer.BadParameter("--watch follows a job, and --validate-only creates none")
    retry_policy = RetryPolicy(retry_backoff, retry_delay, retry_max_delay, retry_factor, retry_jitter)
    options: dict[str, Any] = {
        "metadata": metadata or {},
        "request_id": request_id,
        "run_at": run_at,
        "priority": priority,
        "max_attempts": max_attempts,
        "created_by": created_by,
        "delay": delay,
        "deadline": deadline,
        "attempt_timeout": attempt_timeout,
        "retry_policy": retry_policy if retry_policy != RetryPolicy() else None,
        "unique": _unique(unique_key, unique_scope, unique_states, on_conflict, throttle),
        "concurrency": _concurrency(concurrency_key, concurrency_limit, key_order),
        "dead_letter_type": dead_letter_type,
    }
    if validate_only:
        await client.jobs.validate(NewJob(job_type, job_input or {}, **options))
        _say_valid(output)
        return
    job = await client.jobs.create(job_type, job_input, **options)
    if output.as_json or not watch:
        show_job(output, job)
    if not output.as_json:
        _say_if_it_existed(output, job)
    if watch:
        await follow(client, output, job.job_id)


def _say_if_it_existed(output: Output, job: Job) -> None:
    if job.already_existed:
        output.text(f"existing job {job.job_id}; nothing was created")
    elif job.replaced:
        output.text(f"replaced the input and options of {job.job_id}; no other job was created")


def _unique(
    key: str | None,
    scope: UniqueScope | None,
    states: UniqueStates | None,
    on_conflict: UniqueConflict | None,
    window: timedelta | None,
) -> Unique | None:
    if key is None:
        _refuse_any(scope, states, on_conflict, window, without="--unique-key")
        return None
    return Unique(
        key,
        scope or UniqueScope.ORGANISATION_AND_TYPE,
        states,
        on_conflict or UniqueConflict.REJECT,
        window,
    )


def _concurrency(key: str | None, limit: int | None, order: KeyOrder | None) -> Concurrency | None:
    if key is None:
        _refuse_any(limit, order, without="--concurrency-key")
        return None
    return Concurrency(key, 1 if limit is None else limit, order)


def _refuse_any(*given: object, without: str) -> None:
    if any(value is not None for value in given):
        raise typer.BadParameter("is needed by the options that say more about the key", param_hint=without)


def _say_valid(output: Output) -> None:
    if output.as_json:
        output.line({"valid": True})
    else:
        output.text("valid; nothing was created")

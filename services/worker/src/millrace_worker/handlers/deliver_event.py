import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from millrace_database.deliveries import EVENT_TYPE
from millrace_database.ids import parse_id
from millrace_database.job_flow import JobCounts
from millrace_database.subscription_events import Receiver, get_ended_job, get_receiver
from millrace_database.subscription_health import (
    DisabledSubscription,
    disable_gone,
    record_failure,
    record_success,
)
from millrace_worker import Backoff, JobContext, JobError, Retention, job_handler
from millrace_worker.handlers.event_payload import event_payload, job_data
from millrace_worker.handlers.output_file import find_output_file, link_to
from millrace_worker.handlers.webhook_posting import check_accepted, post_signed
from millrace_worker.transient import DATABASE_ERRORS

_GONE = 410
# The last attempt comes 19 to 23 hours after the first: an endpoint that is away for a night misses nothing. Later a job that is kept
# for one day only, the least there is, would be gone.
_ATTEMPTS = 10
_BACKOFF = Backoff(base=timedelta(seconds=5), factor=4, cap=timedelta(hours=7))
# What became of an attempt is worth so much waiting.
_NOTING_SECONDS = 5.0


class EventInput(BaseModel):
    """Which event to post to which subscription."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subscription_id: str = Field(
        pattern=r"^subscription_[0-9a-f]{32}$", description="The subscription that the event is posted to."
    )
    event: str = Field(max_length=128, description="What has happened, such as job.completed.")
    job_id: str | None = Field(
        default=None, pattern=r"^job_[0-9a-f]{32}$", description="The job that has ended."
    )
    data: dict[str, Any] | None = Field(
        default=None, description="What the event tells, when it is about no job."
    )


class EventOutput(BaseModel):
    """The status of the answer."""

    status: int


@job_handler(
    EVENT_TYPE,
    concurrency=50,
    attempts=_ATTEMPTS,
    timeout=timedelta(minutes=1),
    backoff=_BACKOFF,
    retention=Retention(completed=timedelta(days=3)),
    label="Deliver an event",
    description="Posts an event to the URL of a subscription.",
)
async def deliver_event(context: JobContext[EventInput]) -> EventOutput:
    """Post the event, signed; the same webhook-id with each attempt."""
    receiver = await _find_receiver(context)
    payload = await _payload(context, receiver)
    status = None
    try:
        answer = await post_signed(context, receiver.url, receiver.secrets, payload)
        status = answer.status
        check_accepted(answer, wait=_BACKOFF.delay(context.attempt))
    except JobError as error:
        await _note_failure(context, receiver, error, is_gone=status == _GONE)
        raise
    await _note(context, lambda connection: record_success(connection, _subscription_id(context)))
    return EventOutput(status=answer.status)


def _subscription_id(context: JobContext[EventInput]) -> UUID:
    return parse_id("subscription", context.input.subscription_id)


async def _find_receiver(context: JobContext[EventInput]) -> Receiver:
    """Return the subscription as it is now. Raises JobError when nothing may be sent to it."""
    async with context.resources.database.connection() as connection:
        receiver = await get_receiver(
            connection,
            context.org_id,
            _subscription_id(context),
            delivery_id=parse_id("job", context.job_id),
        )
    if receiver is None:
        raise JobError("SUBSCRIPTION_GONE", "the subscription has been deleted")
    if receiver.state == "paused":
        raise JobError("SUBSCRIPTION_PAUSED", "the subscription is paused")
    if receiver.state == "disabled":
        raise JobError("SUBSCRIPTION_DISABLED", f"the subscription is disabled: {receiver.disabled_reason}")
    return receiver


async def _payload(context: JobContext[EventInput], receiver: Receiver) -> dict[str, Any]:
    asked = context.input
    if asked.job_id is None:
        data = asked.data or {"org_id": context.org_id, "subscription_id": asked.subscription_id}
        return event_payload(asked.event, receiver.event_at, data)
    async with context.resources.database.connection() as connection:
        job = await get_ended_job(
            connection, context.org_id, parse_id("job", asked.job_id), event_at=receiver.event_at
        )
    if job is None:
        raise JobError("RESULT_GONE", "the job is gone")
    if job.ended_again or asked.event != f"job.{job.status}":
        raise JobError(
            "RESULT_GONE", "the job has been tried again meanwhile: its new end has its own events"
        )
    file = await find_output_file(context, job.file_id) if job.status == "completed" else None
    return event_payload(asked.event, job.completed_at, job_data(job, file, link_to(context, file)))


async def _note_failure(
    context: JobContext[EventInput], receiver: Receiver, error: JobError, *, is_gone: bool
) -> None:
    subscription_id = _subscription_id(context)
    disabled: Sequence[DisabledSubscription] = ()
    created: JobCounts = Counter()

    async def note(connection: asyncpg.Connection) -> None:
        nonlocal disabled, created
        await record_failure(connection, subscription_id, receiver.version, f"{error.code}: {error.message}")
        if is_gone:
            disabled, created = await disable_gone(connection, subscription_id, receiver.version)

    if await _note(context, note) and disabled:
        context.resources.jobs_created(created)
        context.log.warning(
            "subscription disabled",
            subscription_id=context.input.subscription_id,
            reason=disabled[0].disabled_reason,
        )


async def _note(
    context: JobContext[EventInput], note: Callable[[asyncpg.Connection], Awaitable[None]]
) -> bool:
    """Write what came of the attempt to the subscription; return whether it is written, since the attempt is what it was."""
    try:
        async with (
            asyncio.timeout(_NOTING_SECONDS),
            context.resources.database.transaction() as connection,
        ):
            await note(connection)
    except DATABASE_ERRORS as error:
        context.log.warning(
            "a subscription does not know what came of an attempt",
            subscription_id=context.input.subscription_id,
            error=repr(error),
        )
        return False
    return True

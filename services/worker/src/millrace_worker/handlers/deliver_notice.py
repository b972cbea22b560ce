from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from millrace_database.deliveries import NOTICE_TYPE
from millrace_database.ids import parse_id
from millrace_database.subscription_events import get_receiver
from millrace_worker import Backoff, JobContext, JobError, Retention, job_handler
from millrace_worker.handlers.email_message import plain_message
from millrace_worker.handlers.mail_sending import mail_server, send_mail


class NoticeData(BaseModel):
    """What there is to tell of a subscription that was disabled."""

    model_config = ConfigDict(frozen=True)

    org_id: str
    subscription_id: str = Field(pattern=r"^subscription_[0-9a-f]{32}$")
    endpoint: str
    description: str = ""
    reason: str
    failing_since: datetime | None = None
    failed_attempts: int = 0
    disabled_at: datetime


class NoticeInput(BaseModel):
    """Of which subscription to tell what; whom to tell it says itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subscription_id: str = Field(pattern=r"^subscription_[0-9a-f]{32}$")
    event: str
    data: NoticeData


class NoticeOutput(BaseModel):
    """How many were written to, and which addresses the server refused."""

    recipients: int
    refused: list[str]


@job_handler(
    NOTICE_TYPE,
    concurrency=5,
    attempts=8,
    timeout=timedelta(minutes=5),
    backoff=Backoff(base=timedelta(seconds=5), factor=4, cap=timedelta(hours=1)),
    retention=Retention(completed=timedelta(days=3)),
    label="Tell of a disabled subscription",
    description="Sends an e-mail to those whom a subscription names, because it has been disabled.",
)
async def deliver_notice(context: JobContext[NoticeInput]) -> NoticeOutput:
    """Send one e-mail to all addresses; the same Message-ID with each attempt."""
    server = mail_server(context)
    async with context.resources.database.connection() as connection:
        receiver = await get_receiver(
            connection,
            context.org_id,
            parse_id("subscription", context.input.subscription_id),
            delivery_id=parse_id("job", context.job_id),
        )
    if receiver is None:
        raise JobError("SUBSCRIPTION_GONE", "the subscription has been deleted")
    recipients = receiver.notify_emails
    if not recipients:
        raise JobError("NO_RECIPIENTS", "the subscription names nobody to tell any more")
    told = context.input.data
    message = plain_message(
        sender=server.sender,
        to=recipients,
        subject=f"Disabled: the subscription of {told.endpoint or told.subscription_id}",
        body=_body(told),
        message_id=context.job_id,
    )
    refused = await send_mail(server, message.as_bytes(), recipients)
    return NoticeOutput(recipients=len(recipients) - len(refused), refused=refused)


def _body(told: NoticeData) -> str:
    rows = {
        "Organisation": told.org_id,
        "Subscription": told.subscription_id,
        "Description": told.description,
        "Endpoint": told.endpoint,
        "Failing since": told.failing_since and told.failing_since.isoformat(timespec="seconds"),
        "Disabled": told.disabled_at.isoformat(timespec="seconds"),
        "Reason": told.reason,
    }
    lines = "".join(f"{name}: {value}\n" for name, value in rows.items() if value)
    return (
        f"A subscription has been disabled. Events are not sent to it any more.\n\n{lines}\n"
        "Once its endpoint works again, resume the subscription.\n"
    )

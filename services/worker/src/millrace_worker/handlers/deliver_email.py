from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from millrace_worker import Backoff, JobContext, job_handler
from millrace_worker.handlers.delivered_result import DeliveredResult, DeliveryInput, read_delivery
from millrace_worker.handlers.email_message import MAX_ATTACHED_BYTES, Attachment, compose
from millrace_worker.handlers.mail_sending import mail_server, send_mail
from millrace_worker.handlers.stored_files import open_file, shown_id
from millrace_worker.handlers.thread_calls import call_in_thread


class EmailOutput(BaseModel):
    """How many were written to, whether the file was attached, and which addresses the server refused."""

    recipients: int
    attached: bool
    refused: list[str]


@job_handler(
    "deliveries:email",
    concurrency=5,
    attempts=8,
    timeout=timedelta(minutes=5),
    backoff=Backoff(base=timedelta(seconds=5), factor=4, cap=timedelta(hours=1)),
    label="Deliver by e-mail",
    description="Sends the result of a schedule's job to the addresses of its schedule.",
)
async def deliver_email(context: JobContext[DeliveryInput]) -> EmailOutput:
    """Send one e-mail to all addresses; the same Message-ID with each attempt."""
    server = mail_server(context)
    delivered, said = await read_delivery(context, "email")
    attachment = await _attachment(context, delivered) if said.get("attach") else None
    message = await call_in_thread(
        compose, said, delivered, sender=server.sender, message_id=context.job_id, attachment=attachment
    )
    recipients = list(said.get("to", ()))
    refused = await send_mail(server, message, recipients)
    return EmailOutput(
        recipients=len(recipients) - len(refused), attached=attachment is not None, refused=refused
    )


async def _attachment(context: JobContext[Any], delivered: DeliveredResult) -> Attachment | None:
    """Return the file, unless there is none or it is too large."""
    if delivered.file is None or delivered.file.size_bytes > MAX_ATTACHED_BYTES:
        return None
    file, chunks = await open_file(context, shown_id(delivered.file.file_id))
    return Attachment(file.name, file.content_type, b"".join([chunk async for chunk in chunks]))

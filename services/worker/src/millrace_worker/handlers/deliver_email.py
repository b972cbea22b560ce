from datetime import timedelta
from email.utils import parseaddr
from typing import Any

import aiosmtplib
from aiosmtplib import SMTPException, SMTPNotSupported, SMTPRecipientsRefused, SMTPResponseException
from pydantic import BaseModel

from millrace_worker import Backoff, JobContext, JobError, job_handler
from millrace_worker.delivery_settings import MailServer
from millrace_worker.handlers.delivered_result import DeliveredResult, DeliveryInput, read_delivery
from millrace_worker.handlers.email_message import MAX_ATTACHED_BYTES, Attachment, compose
from millrace_worker.handlers.stored_files import open_file, shown_id
from millrace_worker.handlers.thread_calls import call_in_thread

_SECONDS = 60.0
_PERMANENT = 500


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
    server = context.resources.delivery.mail_server
    if server is None:
        raise JobError("NO_MAIL_SERVER", "MILLRACE_SMTP_HOST is not set, so no e-mail can be sent")
    delivered, said = await read_delivery(context, "email")
    attachment = await _attachment(context, delivered) if said.get("attach") else None
    message = await call_in_thread(
        compose, said, delivered, sender=server.sender, message_id=context.job_id, attachment=attachment
    )
    recipients = list(said.get("to", ()))
    refused = await _send(server, message, recipients)
    return EmailOutput(
        recipients=len(recipients) - len(refused), attached=attachment is not None, refused=refused
    )


async def _attachment(context: JobContext[Any], delivered: DeliveredResult) -> Attachment | None:
    """Return the file, unless there is none or it is too large."""
    if delivered.file is None or delivered.file.size_bytes > MAX_ATTACHED_BYTES:
        return None
    file, chunks = await open_file(context, shown_id(delivered.file.file_id))
    return Attachment(file.name, file.content_type, b"".join([chunk async for chunk in chunks]))


async def _send(server: MailServer, message: bytes, recipients: list[str]) -> list[str]:
    """Hand a message over to the server; return which of the recipients it refused, if not all."""
    try:
        refused, _ = await aiosmtplib.send(
            message,
            sender=parseaddr(server.sender)[1],
            recipients=recipients,
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls == "tls",
            start_tls=server.tls == "starttls",
            timeout=_SECONDS,
        )
    except SMTPRecipientsRefused as error:
        codes = [refusal.code for refusal in error.recipients]
        raise _failure(
            f"all recipients were refused: {max(codes)}", is_final=min(codes) >= _PERMANENT
        ) from None
    except SMTPResponseException as error:
        raise _failure(
            f"the mail server answered {error.code} {error.message}", is_final=error.code >= _PERMANENT
        ) from None
    except SMTPNotSupported as error:
        raise _failure(f"the mail server lacks what is asked of it: {error}", is_final=True) from None
    except (SMTPException, OSError) as error:
        raise _failure(f"the mail server cannot be reached: {error}", is_final=False) from None
    return sorted(refused)


def _failure(message: str, *, is_final: bool) -> JobError:
    return JobError("MAIL_REFUSED" if is_final else "MAIL_FAILED", message, retryable=not is_final)

"""Handing an e-mail over to the mail server."""

from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any

import aiosmtplib
from aiosmtplib import SMTPException, SMTPNotSupported, SMTPRecipientsRefused, SMTPResponseException

from millrace_worker import JobContext, JobError
from millrace_worker.delivery_settings import MailServer

_SECONDS = 60.0
_PERMANENT = 500


def mail_server(context: JobContext[Any]) -> MailServer:
    """Return the server that sends e-mails. Raises JobError NO_MAIL_SERVER when operators named none."""
    server = context.resources.delivery.mail_server
    if server is None:
        raise JobError("NO_MAIL_SERVER", "MILLRACE_SMTP_HOST is not set, so no e-mail can be sent")
    return server


async def send_mail(server: MailServer, message: bytes, recipients: Sequence[str]) -> list[str]:
    """Hand a message over to the server; return which of the recipients it refused, if not all.

    Raises JobError MAIL_REFUSED when it is refused for good, MAIL_FAILED when it is to be tried again.
    """
    try:
        refused, _ = await aiosmtplib.send(
            message,
            sender=parseaddr(server.sender)[1],
            recipients=list(recipients),
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

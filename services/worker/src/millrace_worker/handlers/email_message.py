"""The e-mail in which a result is delivered."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from typing import Any

from millrace_runtime.text_templates import render_template
from millrace_worker.handlers.delivered_result import DeliveredResult

MAX_ATTACHED_BYTES = 10 * 1024 * 1024

_SUBJECT = "{{schedule_name}}: {{status}}"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")
_MEDIA_TYPE = re.compile(r"([A-Za-z0-9!#$&^_.+-]+)/([A-Za-z0-9!#$&^_.+-]+)")
_MAX_SUBJECT_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes along."""

    name: str
    content_type: str
    content: bytes


def compose(
    said: Mapping[str, Any],
    delivered: DeliveredResult,
    *,
    sender: str,
    message_id: str,
    attachment: Attachment | None,
) -> bytes:
    """Return the e-mail that an EmailDelivery asks for, as it is sent, `said` being its JSON form.

    Takes a while for a large attachment. A link to a file that is not attached stands at the end, unless the body has it already.
    """
    variables = delivered.variables()
    body = render_template(said["body"], variables) if said.get("body") else _plain_lines(variables)
    if delivered.link and attachment is None and delivered.link not in body:
        body = f"{body.rstrip()}\n\n{variables['file_name']}: {delivered.link}\n"
    message = plain_message(
        sender=sender,
        to=said.get("to", ()),
        subject=render_template(said.get("subject") or _SUBJECT, variables),
        body=body,
        message_id=message_id,
    )
    if attachment is not None:
        kind = _MEDIA_TYPE.match(attachment.content_type)
        main, sub = kind.groups() if kind else ("application", "octet-stream")
        if main in ("multipart", "message"):
            main, sub = "application", "octet-stream"
        message.add_attachment(
            attachment.content, maintype=main, subtype=sub, filename=_one_line(attachment.name)
        )
    return message.as_bytes()


def plain_message(
    *, sender: str, to: Iterable[str], subject: str, body: str, message_id: str
) -> EmailMessage:
    """Return an e-mail of plain text; `message_id` is what stands before the @ of its Message-ID."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = _one_line(subject)
    message["Date"] = formatdate()
    message["Message-ID"] = f"<{message_id}@{parseaddr(sender)[1].rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"
    # Lines of any length and any character go through unharmed.
    message.set_content(body, cte="base64")
    return message


def _plain_lines(variables: Mapping[str, str]) -> str:
    rows = {
        "Schedule": variables["schedule_name"],
        "Job": f"{variables['job_id']} ({variables['type']})",
        "Scheduled": variables["scheduled_time"],
        "Status": variables["status"],
        "Error": variables["error"],
        "File": variables["file_name"],
    }
    return "".join(f"{name}: {value}\n" for name, value in rows.items() if value)


def _one_line(text: str) -> str:
    return _CONTROL.sub(" ", text)[:_MAX_SUBJECT_CHARACTERS]

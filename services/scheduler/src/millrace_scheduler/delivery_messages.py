"""Delivery messages: what a caller sent is checked and stored as JSON, what was stored is shown."""

import re

from google.protobuf import json_format

from millrace.scheduler.v1 import schedule_pb2
from millrace_runtime.email_addresses import check_email_addresses
from millrace_runtime.text_templates import render_template, unknown_variables_of
from millrace_runtime.validation import Violations
from millrace_runtime.webhook_fields import check_webhook_secret, check_webhook_url

_MAX_SUBJECT_LENGTH = 200
_MAX_BODY_LENGTH = 10_000
_MAX_PATH_LENGTH = 500
# They have nothing to send, or to keep, when a job fails.
_NOTHING_OF_FAILURES = ("download", "storage")

_EMAIL_VARIABLES = (
    "schedule_name",
    "job_id",
    "type",
    "status",
    "scheduled_time",
    "file_name",
    "link",
    "error",
)
_PATH_VARIABLES = ("schedule_name", "job_id", "type", "scheduled_time", "scheduled_date", "file_name")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_delivery(
    message: schedule_pb2.Delivery,
    violations: Violations,
    *,
    allow_private: bool = False,
    stored: str | None = None,
) -> str | None:
    """Return the JSON form of the field `delivery` of a request, in which it is stored, secrets included.

    Args:
        message: what was sent.
        violations: out, what is wrong with it.
        allow_private: whether webhooks may go to private addresses, and to http.
        stored: what is stored now, when it is to be changed: a webhook without a secret keeps the one it has, if its
            URL stays the same.

    Returns:
        None when the message is empty. After a violation was added the text is good for nothing.

    """
    if message == schedule_pb2.Delivery():
        return None
    kept = schedule_pb2.Delivery()
    kept.CopyFrom(message)
    method = message.WhichOneof("method")
    if message.on_failure and method in _NOTHING_OF_FAILURES:
        violations.add("delivery.on_failure", f"may be set with webhook and email only, not with {method}")
    match method:
        case None:
            violations.add("delivery", "needs one of download, webhook, email, storage")
        case "webhook":
            _keep_secret(kept.webhook, stored)
            _check_webhook(kept.webhook, violations, allow_private=allow_private)
        case "email":
            _check_email(message.email, violations)
        case "storage":
            _check_path(message.storage.path, violations)
    return json_format.MessageToJson(kept, preserving_proto_field_name=True, indent=None)


def delivery_to_message(text: str) -> schedule_pb2.Delivery:
    """Return the message of a stored delivery as callers see it, without its secret.

    What a later version may have added is left out. Raises ValueError when it cannot be read.
    """
    message = _read(text)
    if message.WhichOneof("method") == "webhook":
        message.webhook.secret = ""
    return message


def _read(text: str) -> schedule_pb2.Delivery:
    try:
        return json_format.Parse(text, schedule_pb2.Delivery(), ignore_unknown_fields=True)
    except json_format.ParseError:
        # Without its cause, which may quote the secret.
        raise ValueError("the stored delivery cannot be read") from None


def _keep_secret(webhook: schedule_pb2.WebhookDelivery, stored: str | None) -> None:
    if webhook.secret or stored is None:
        return
    before = _read(stored).webhook
    if before.url == webhook.url:
        webhook.secret = before.secret


def _check_webhook(
    webhook: schedule_pb2.WebhookDelivery, violations: Violations, *, allow_private: bool
) -> None:
    check_webhook_url("delivery.webhook.url", webhook.url, violations, allow_private=allow_private)
    check_webhook_secret("delivery.webhook.secret", webhook.secret, violations, required=True)


def _check_email(email: schedule_pb2.EmailDelivery, violations: Violations) -> None:
    check_email_addresses("delivery.email.to", email.to, violations, minimum=1)
    subject = violations.check_text("delivery.email.subject", email.subject, max_length=_MAX_SUBJECT_LENGTH)
    if _CONTROL.search(subject):
        violations.add("delivery.email.subject", "may hold no line breaks or other control characters")
    _check_variables("delivery.email.subject", subject, _EMAIL_VARIABLES, violations)
    body = violations.check_text("delivery.email.body", email.body, max_length=_MAX_BODY_LENGTH)
    _check_variables("delivery.email.body", body, _EMAIL_VARIABLES, violations)


def _check_path(path: str, violations: Violations) -> None:
    field = "delivery.storage.path"
    if not violations.check_text(field, path, max_length=_MAX_PATH_LENGTH, required=True):
        return
    _check_variables(field, path, _PATH_VARIABLES, violations)
    variables = (*_PATH_VARIABLES, *unknown_variables_of(path, _PATH_VARIABLES))
    example = render_template(path, dict.fromkeys(variables, "x"))
    if _CONTROL.search(path) or "\\" in path:
        violations.add(field, "may hold no control characters and no backslashes")
    elif any(part.strip() in ("", ".", "..") for part in example.split("/")):
        violations.add(field, 'must be relative, and none of its parts empty, "." or ".."')


def _check_variables(field: str, text: str, known: tuple[str, ...], violations: Violations) -> None:
    for name in unknown_variables_of(text, known):
        violations.add(field, f"has the unknown variable {name[:50]!r}; there are: {', '.join(known)}")

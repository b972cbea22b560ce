"""Delivery messages: what a caller sent is checked and stored as JSON, what was stored is shown."""

import base64
import binascii
import re
from urllib.parse import urlsplit

from google.protobuf import json_format

from millrace.scheduler.v1 import schedule_pb2
from millrace_runtime.public_addresses import is_odd_address, is_public_address
from millrace_runtime.text_templates import render_template, unknown_variables_of
from millrace_runtime.validation import Violations

_MAX_URL_LENGTH = 2_000
_SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret itself
_SECRET_BYTES = range(24, 65)
_MAX_SECRET_LENGTH = 128
_MAX_ADDRESSES = 20
_MAX_ADDRESS_LENGTH = 254
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

# Without "=?", which begins an encoded word: mail programs would read another address, or a line break, in it.
_ADDRESS = re.compile(
    r"(?!.*=\?)[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f-\U0010ffff]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
)
_NOT_IN_URLS = re.compile(r"[^\x21-\x7e]|\\")
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
    field = "delivery.webhook.url"
    url = violations.check_text(field, webhook.url, max_length=_MAX_URL_LENGTH, required=True)
    if url and (problem := _problem_of_url(url, allow_private=allow_private)):
        violations.add(field, problem)
    field = "delivery.webhook.secret"
    secret = violations.check_text(field, webhook.secret, max_length=_MAX_SECRET_LENGTH, required=True)
    if secret and not _is_secret(secret):
        violations.add(field, 'must be "whsec_" and 24 to 64 bytes in base64')


def _problem_of_url(url: str, *, allow_private: bool) -> str | None:
    if _NOT_IN_URLS.search(url):
        return "may hold printable ASCII characters only, without spaces and backslashes"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is no URL"
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes:
        return f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if not host or port == 0 or "@" in parts.netloc or "#" in url:
        return "must name a host, and neither a user nor a fragment"
    return _problem_of_host(host, allow_private=allow_private)


def _problem_of_host(host: str, *, allow_private: bool) -> str | None:
    if is_odd_address(host):
        return "must write an IPv4 address as four decimal numbers, such as 192.0.2.1"
    if not allow_private and not _may_be_public(host.rstrip(".")):
        return "must not be a private address"
    return None


def _may_be_public(host: str) -> bool:
    """Refuse what can be seen to be private; names are looked up when something is sent."""
    try:
        return is_public_address(host)
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")


def _is_secret(secret: str) -> bool:
    if not secret.startswith(_SECRET_PREFIX):
        return False
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(key) in _SECRET_BYTES


def _check_email(email: schedule_pb2.EmailDelivery, violations: Violations) -> None:
    if not 1 <= len(email.to) <= _MAX_ADDRESSES:
        violations.add("delivery.email.to", f"must hold 1 to {_MAX_ADDRESSES} addresses")
    # So many are looked at: a request may hold a million.
    for index, address in enumerate(email.to[:_MAX_ADDRESSES]):
        if len(address) > _MAX_ADDRESS_LENGTH or not _ADDRESS.fullmatch(address):
            violations.add(f"delivery.email.to[{index}]", "must be an e-mail address")
        elif address in email.to[:index]:
            violations.add(f"delivery.email.to[{index}]", "is there already")
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

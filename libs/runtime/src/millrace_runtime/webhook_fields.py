"""The fields of requests that say where webhooks go, and with which secret they are signed."""

import base64
import binascii
import re
import secrets
from urllib.parse import urlsplit

from millrace_runtime.public_addresses import is_odd_address, is_public_address
from millrace_runtime.validation import Violations

_MAX_URL_LENGTH = 2_000
_SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret itself
_SECRET_BYTES = range(24, 65)
_NEW_SECRET_BYTES = 32
_MAX_SECRET_LENGTH = 128

_NOT_IN_URLS = re.compile(r"[^\x21-\x7e]|\\")


def check_webhook_url(field: str, value: str, violations: Violations, *, allow_private: bool) -> str:
    """Return the URL that a required field holds; what is wrong with it is added to `violations`.

    With `allow_private` it may be one of a private address, and of http.
    """
    url = violations.check_text(field, value, max_length=_MAX_URL_LENGTH, required=True)
    if url and (problem := _problem_of_url(url, allow_private=allow_private)):
        violations.add(field, problem)
    return url


def check_webhook_secret(field: str, value: str, violations: Violations, *, required: bool) -> str:
    """Return the secret that a field holds, in the form of Standard Webhooks; what is wrong with it is added to `violations`.

    No description quotes it.
    """
    secret = violations.check_text(field, value, max_length=_MAX_SECRET_LENGTH, required=required)
    if secret and not _is_secret(secret):
        violations.add(field, 'must be "whsec_" and 24 to 64 bytes in base64')
    return secret


def new_webhook_secret() -> str:
    """Return a new secret of 32 random bytes."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


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

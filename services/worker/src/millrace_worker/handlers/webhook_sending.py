"""One HTTP POST to an address that a user has named: signed, bounded, and not into the own network."""

import base64
import hashlib
import hmac
import io
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from millrace_runtime.public_addresses import is_public_address
from millrace_worker.handlers.bounded_response import RECEIVE_BUFFER_BYTES, BoundedResponse
from millrace_worker.handlers.host_lookup import HostLookup

SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret itself

_CONNECT_SECONDS = 10.0
_TOTAL_SECONDS = 30.0


class PrivateAddressError(Exception):
    """The host that was to be connected to has no public address; the text names the host."""


class UnusableUrlError(Exception):
    """The URL is none that a request can be sent to."""


class SendingError(Exception):
    """The request got no answer; the text says why, without the URL, whose path or query may be a secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and the header Retry-After, empty if there is none."""

    status: int
    retry_after: str


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return what Standard Webhooks has in webhook-signature. Raises ValueError for a secret that is no base64."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


async def post(url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool) -> Answer:
    """Send a request, follow no redirect, and read nothing of the answer but its head.

    The address is looked at where the connection is made, after all names have been resolved: a name that resolves to
    something else a moment later leads nowhere else.

    Raises:
        PrivateAddressError: there is no public one, and `allow_private` is False.
        UnusableUrlError: the URL names no host that can be looked up.
        SendingError: there was no connection, or no answer in time.

    """
    sockets = _Sockets(allow_private=allow_private)
    # DNS answers are not kept, nor connections: the next delivery may be to somebody else's name.
    connector = aiohttp.TCPConnector(
        resolver=HostLookup(), socket_factory=sockets.open, use_dns_cache=False, force_close=True
    )
    timeout = aiohttp.ClientTimeout(total=_TOTAL_SECONDS, sock_connect=_CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                response_class=BoundedResponse,
            ) as session,
            session.post(
                # Sent in pieces.
                URL(url, encoded=True),
                data=io.BytesIO(body),
                headers=dict(headers),
                allow_redirects=False,
            ) as response,
        ):
            return Answer(response.status, response.headers.get("Retry-After", ""))
    except aiohttp.InvalidURL:
        # Without its cause, which quotes the URL.
        raise UnusableUrlError from None
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        if sockets.all_refused:
            # Without the address: what names stand for inside is not for everybody to know.
            raise PrivateAddressError(f"{URL(url, encoded=True).host} is no public address") from None
        raise SendingError(_reason(error)) from None


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"{error.host} cannot be resolved"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {error.host} is not valid"
        case aiohttp.ClientConnectorError():
            return f"{error.host} cannot be connected to: {error.os_error.strerror or 'no connection'}"
        case TimeoutError():
            return "no answer in time"
        case _:
            return f"no valid answer: {type(error).__name__}"


class _Sockets:
    """Opens the sockets of one request; `all_refused`: there were addresses, and none of them was public."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._opened = False
        self._refused = False

    @property
    def all_refused(self) -> bool:
        return self._refused and not self._opened

    def open(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, address = info
        host = str(address[0]).partition("%")[0]
        if not self._allow_private and not is_public_address(host):
            self._refused = True
            raise OSError("not a public address")
        self._opened = True
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return opened

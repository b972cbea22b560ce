import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from millrace_runtime.errors import InvalidArgument

_VERSION = 1
_MAX_TOKEN_CHARACTERS = 2048
_DIGEST_BYTES = 9


def encode_page_token(values: Sequence[str | int], filters: Mapping[str, Any]) -> str:
    """Return a token for the page behind `values`, the sort key of the last item of this page.

    It is opaque to callers and good only with the same `filters` (values that JSON can express). It protects
    from mistakes, not from forgery: what a caller may see is decided anew on every page.
    """
    body = orjson.dumps([_VERSION, _digest(values, filters), *values])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def decode_page_token(token: str, filters: Mapping[str, Any]) -> list[str | int] | None:
    """Return the values that the token was made of; None for the empty token, which is the first page.

    Raises InvalidArgument on `page_token` when it was not made by `encode_page_token` with these filters.
    """
    if not token:
        return None
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise _not_a_token()
    try:
        padded = token + "=" * (-len(token) % 4)
        version, digest, *values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise _not_a_token() from None
    keys = [value for value in values if isinstance(value, str | int)]
    if version != _VERSION or len(keys) != len(values) or digest != _digest(keys, filters):
        raise _not_a_token()
    return keys


def token_behind(last: UUID | str, filters: Mapping[str, Any]) -> str:
    """Return the token of the page behind `last`, an id or a name; it is good only with the same filters."""
    return encode_page_token([str(last)], filters)


def last_name(token: str, filters: Mapping[str, Any]) -> str | None:
    """Return the name behind which the page begins; None: it is the first.

    Raises InvalidArgument on `page_token`.
    """
    match decode_page_token(token, filters):
        case None:
            return None
        case [str(name)]:
            return name
        case _:
            raise _not_a_token()


def last_id(token: str, filters: Mapping[str, Any]) -> UUID | None:
    """Return the id behind which the page begins; None: it is the first. Raises InvalidArgument on `page_token`."""
    name = last_name(token, filters)
    try:
        return None if name is None else UUID(name)
    except ValueError:
        raise _not_a_token() from None


def last_number(token: str, filters: Mapping[str, Any]) -> int | None:
    """Return the number behind which the page begins, one of 64 bits; None: it is the first.

    Raises InvalidArgument on `page_token`.
    """
    match decode_page_token(token, filters):
        case None:
            return None
        case [int(number)] if -(2**63) <= number < 2**63:
            return number
        case _:
            raise _not_a_token()


def _digest(values: Sequence[str | int], filters: Mapping[str, Any]) -> str:
    body = orjson.dumps([_VERSION, list(values), filters], option=orjson.OPT_SORT_KEYS)
    return base64.urlsafe_b64encode(hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()).decode()


def _not_a_token() -> InvalidArgument:
    return InvalidArgument([("page_token", "is not a token of a previous page with the same filters")])

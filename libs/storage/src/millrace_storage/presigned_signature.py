"""What a presigned request of the local store allows, and the signature that shows it is one of ours."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qsl, urlencode

from millrace_storage.object_store import InvalidKeyError, checked_key

_MAX_PARAMETERS = 8
_PRINTABLE = re.compile(r"[!-~]([ -~]*[!-~])?")


class SignatureRefused(Exception):  # noqa: N818 - it is no error of this process
    """The request is not one that was signed; the text says nothing about what was."""


@dataclass(frozen=True, slots=True)
class PresignedPut:
    """Leave to store an object of this length and media type, up to a moment in seconds since 1970."""

    key: str
    expires: int
    content_type: str
    size_bytes: int

    METHOD: ClassVar[str] = "PUT"

    def parameters(self) -> dict[str, str]:
        """Return what stands in the URL beside the key."""
        return {"expires": str(self.expires), "size": str(self.size_bytes), "type": self.content_type}


@dataclass(frozen=True, slots=True)
class PresignedGet:
    """Leave to read an object under this name and media type, up to a moment in seconds since 1970.

    `size_bytes` is how long it has to be; None: any length, as in URLs of earlier releases.
    """

    key: str
    expires: int
    content_type: str
    file_name: str
    size_bytes: int | None = None

    METHOD: ClassVar[str] = "GET"

    def parameters(self) -> dict[str, str]:
        """Return what stands in the URL beside the key."""
        size = {} if self.size_bytes is None else {"size": str(self.size_bytes)}
        return {"expires": str(self.expires), "name": self.file_name, "type": self.content_type, **size}


class RequestSigner:
    """Signs requests with a secret (HMAC-SHA256), and knows them again."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def query(self, request: PresignedPut | PresignedGet) -> str:
        """Return the query of the URL, with the signature."""
        parameters = request.parameters()
        signature = self._signature(request.METHOD, request.key, parameters)
        return urlencode({**parameters, "signature": signature})

    def signed_put(self, key: str, query: str) -> PresignedPut:
        """Return what a URL allows, over or not. Raises SignatureRefused."""
        parameters = self._signed(PresignedPut.METHOD, key, query)
        return PresignedPut(key, int(parameters["expires"]), parameters["type"], int(parameters["size"]))

    def signed_get(self, key: str, query: str) -> PresignedGet:
        """Return what a URL allows, over or not. Raises SignatureRefused."""
        parameters = self._signed(PresignedGet.METHOD, key, query)
        size = parameters.get("size")
        return PresignedGet(
            key,
            int(parameters["expires"]),
            parameters["type"],
            parameters["name"],
            None if size is None else int(size),
        )

    def _signed(self, method: str, key: str, query: str) -> Mapping[str, str]:
        try:
            checked_key(key)
            pairs = parse_qsl(
                query,
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=_MAX_PARAMETERS,
            )
        except (InvalidKeyError, ValueError):
            raise SignatureRefused("the URL is none that was signed") from None
        parameters = dict(pairs)
        signature = parameters.pop("signature", "")
        expected = self._signature(method, key, parameters)
        if len(pairs) != len(parameters) + 1 or not hmac.compare_digest(
            signature.encode(errors="replace"), expected.encode()
        ):
            raise SignatureRefused("the signature is not of this request")
        return parameters

    def _signature(self, method: str, key: str, parameters: Mapping[str, str]) -> str:
        # JSON keeps one text from running into the next.
        signed = json.dumps([method, key, parameters], sort_keys=True)
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()


def checked_type(content_type: str) -> str:
    """Return a media type as a header has it, without spaces at its end. Raises ValueError for what no header can hold."""
    content_type = content_type.rstrip(" ")
    if not _PRINTABLE.fullmatch(content_type):
        raise ValueError("a media type is printable ASCII")
    return content_type

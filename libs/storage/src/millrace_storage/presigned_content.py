"""What is answered to presigned requests of the local store."""

import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from millrace_storage.content_disposition import attachment
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import ObjectMissingError, StoredObject
from millrace_storage.presigned_body import ClientGone, ClientStalled, received, send
from millrace_storage.presigned_signature import PresignedGet, PresignedPut, RequestSigner, SignatureRefused

_logger = logging.getLogger(__name__)

# The last 0 bytes; aiohttp takes it for all.
_NO_BYTES = re.compile("bytes=-0+", re.IGNORECASE)

_METHODS = "GET, HEAD, PUT"
# Presigned URLs are made for web pages of any origin, and nothing but the signature gives access.
_ANY_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, Content-Type",
}
_PREFLIGHT = {
    **_ANY_ORIGIN,
    "Access-Control-Allow-Methods": _METHODS,
    "Access-Control-Allow-Headers": "Content-Type, Range",
    "Access-Control-Max-Age": "86400",
}


_FAILURES: Mapping[type[Exception], tuple[HTTPStatus, str]] = {
    SignatureRefused: (HTTPStatus.FORBIDDEN, "the URL is not one that was signed for this request"),
    ObjectMissingError: (HTTPStatus.NOT_FOUND, "the content is no longer there"),
    ClientStalled: (HTTPStatus.REQUEST_TIMEOUT, "the content did not arrive in time"),
    ClientGone: (HTTPStatus.BAD_REQUEST, "the content broke off"),
}


class _Refused(Exception):  # noqa: N818 - it is an answer
    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class PresignedContent:
    """Takes and gives the objects of a store, to whoever has a signed URL. Every request gets an answer."""

    def __init__(
        self, store: LocalObjectStore, signer: RequestSigner, url: str, *, stalled_after: float
    ) -> None:
        """Take the URL that clients use, and after how many seconds without 64 KiB of progress they are given up."""
        self._store = store
        self._signer = signer
        self._path = f"{urlsplit(url).path.rstrip('/')}/"
        self._stalled_after = stalled_after

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the answer, sent as far as it is a long one."""
        try:
            return await self._answer(request)
        except _Refused as refused:
            return _said(refused.status, str(refused), refused.headers)
        except tuple(_FAILURES) as error:
            return _said(*_FAILURES[type(error)])
        except Exception:
            _logger.exception("presigned %s of %s failed", request.method, _without_signature(request))
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "the content cannot be served now")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method:
            case "PUT":
                return await self._put(request)
            case "GET" | "HEAD":
                return await self._get(request)
            case "OPTIONS":
                return web.Response(status=HTTPStatus.NO_CONTENT, headers=_PREFLIGHT)
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "there is GET, HEAD and PUT", Allow=_METHODS)

    async def _put(self, request: web.BaseRequest) -> web.StreamResponse:
        allowed = self._signer.signed_put(*self._target(request))
        _check_time(allowed)
        if request.headers.get("Content-Type") != allowed.content_type:
            raise _Refused(HTTPStatus.FORBIDDEN, "the Content-Type is not the one that was signed")
        length = request.content_length
        if length is None or "Transfer-Encoding" in request.headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the Content-Length is needed")
        if length > allowed.size_bytes:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the Content-Length is more than was signed")
        if length < allowed.size_bytes:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the Content-Length is less than was signed")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # That was no part of the answer.
            request.writer.output_size = 0
        content = received(request.content, stalled_after=self._stalled_after)
        async with aclosing(_measured(content, allowed.size_bytes)) as chunks:
            await self._store.put(allowed.key, chunks, expected_bytes=allowed.size_bytes)
        return web.Response(headers=_ANY_ORIGIN)

    async def _get(self, request: web.BaseRequest) -> web.StreamResponse:
        allowed = self._signer.signed_get(*self._target(request))
        _check_time(allowed)
        found = await self._store.head(allowed.key)
        if found is None:
            raise ObjectMissingError(allowed.key)
        if allowed.size_bytes not in (None, found.size_bytes):
            _logger.error(
                "an object is not as long as it was: %s",
                _without_signature(request),
                extra={
                    "object_key": allowed.key,
                    "expected_bytes": allowed.size_bytes,
                    "found_bytes": found.size_bytes,
                },
            )
            raise _Refused(HTTPStatus.NOT_FOUND, "the content is damaged")
        part = _asked_part(request, found)
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        response = web.StreamResponse(status=status, headers=_headers(allowed))
        start, end = part or (0, found.size_bytes)
        if part is not None:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size_bytes}"
        response.content_length = end - start
        response.last_modified = found.written_at
        if request.method == "HEAD":
            return response
        chunks = await self._store.get(allowed.key, start=start, end=end)
        await self._send(request, response, chunks)
        return response

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, chunks: AsyncIterator[bytes]
    ) -> None:
        """Send the content; when it cannot be sent wholly, break off, so that nobody takes the part for all."""
        try:
            await response.prepare(request)
            await send(response, chunks, stalled_after=self._stalled_after)
        except (ClientGone, ClientStalled, ConnectionError):
            _break_off(request)
        except ObjectMissingError:
            _logger.warning("an object was removed while it was read: %s", _without_signature(request))
            _break_off(request)
        except Exception:
            _logger.exception("presigned GET of %s failed", _without_signature(request))
            _break_off(request)

    def _target(self, request: web.BaseRequest) -> tuple[str, str]:
        """Return key and query of the URL as it was sent: nothing in a key is ever encoded.

        Whether a proxy has taken away the path of the URL that clients use, or not, is no matter.
        """
        path, _, query = request.raw_path.partition("?")
        if path.startswith(self._path):
            return path.removeprefix(self._path), query
        return path.removeprefix("/"), query


def _check_time(allowed: PresignedGet | PresignedPut) -> None:
    if time.time() >= allowed.expires:
        raise _Refused(HTTPStatus.FORBIDDEN, "the time of the URL is over")


def _asked_part(request: web.BaseRequest, found: StoredObject) -> tuple[int, int] | None:
    """Return which bytes are asked for, or None for all: also where the header is not understood, or has a condition."""
    if "If-Range" in request.headers or "Range" not in request.headers:
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None
    start, end, _ = asked.indices(found.size_bytes)
    if start >= end or _NO_BYTES.fullmatch(request.headers["Range"]):
        size = f"bytes */{found.size_bytes}"
        raise _Refused(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "the object has no such part", Content_Range=size
        )
    return start, end


def _headers(allowed: PresignedGet) -> dict[str, str]:
    return {
        **_ANY_ORIGIN,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
        "Content-Disposition": attachment(allowed.file_name),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Type": allowed.content_type,
        "X-Content-Type-Options": "nosniff",
    }


def _without_signature(request: web.BaseRequest) -> str:
    """Return what may be logged of the URL."""
    return request.raw_path.partition("?")[0]


def _said(status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={**_ANY_ORIGIN, **(headers or {})})


def _break_off(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _measured(chunks: AsyncIterator[bytes], size_bytes: int) -> AsyncGenerator[bytes, None]:
    """Hand on the content, and fail at its end when it is of another length."""
    arrived = 0
    async for chunk in chunks:
        arrived += len(chunk)
        yield chunk
    if arrived != size_bytes:
        raise ClientGone

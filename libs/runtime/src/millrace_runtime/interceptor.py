import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from millrace_database.availability import is_unavailable
from millrace_runtime.errors import ApiError, InternalError, InvalidArgument, Unavailable, sole_error
from millrace_runtime.identity import authenticate, set_caller

# Generic for the type checker only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger()

# Health checks come every few seconds: they pass before the service is open, and are not worth a line each.
_HEALTH_PREFIX = "/grpc.health."
_LOGGED_FIELDS = ("org_id", "job_id", "file_id", "upload_id")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The layer around every call: says who calls, turns exceptions into statuses, and writes one log line.

    While `is_open` says no, all calls but health checks are answered with UNAVAILABLE.
    """

    def __init__(self, is_open: Callable[[], bool]) -> None:
        self._is_open = is_open
        self._wrapped: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Return the handler of the method inside this layer; it is made once for each method."""
        method = handler_call_details.method
        if not self._is_open() and not method.startswith(_HEALTH_PREFIX):
            return _wrap(_NOT_OPEN, method)
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = _wrap(handler, method)
        return wrapped


def _api_error(error: BaseException) -> ApiError | None:
    """Return `error` as a caller may see it; None when it is unexpected and the caller must not see it."""
    error = sole_error(error)
    if isinstance(error, ApiError):
        return error
    if is_unavailable(error):
        return Unavailable()
    return None


class _Call:
    """One call while it is answered, as a context manager around its handler."""

    def __init__(self, method: str, context: _Context) -> None:
        self._method = method
        self._context = context
        # Asked now: gRPC dies of the question once it has dropped the call, which a stream may outlive a little.
        self._peer = context.peer()
        self._fields: dict[str, str] = {}

    def describe(self, request: Any) -> None:
        """Put what the request says of organisation, job and file into all log lines of the call."""
        for name in _LOGGED_FIELDS:
            value = getattr(request, name, None)
            if isinstance(value, str) and value:
                self._fields[name] = value[:128]

    async def __aenter__(self) -> None:
        self._started = time.perf_counter()
        if self._fields:
            structlog.contextvars.bind_contextvars(**self._fields)
        set_caller(authenticate(self._context.invocation_metadata() or ()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, grpc.aio.AbortError):
            self._log_end((self._context.code() or grpc.StatusCode.OK).name)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._log_end("CANCELLED")
        elif isinstance(error, Exception):
            await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        shown = _api_error(error)
        if shown is None:
            shown = InternalError()
            _log.error("call failed", method=self._method[1:], exc_info=error)
        self._log_end(shown.code.name, reason=shown.reason)
        status = rpc_status.to_status(shown.to_status())
        metadata = (*status.trailing_metadata, *shown.metadata)
        await self._context.abort(status.code, status.details, metadata)

    def _log_end(self, code: str, **fields: Any) -> None:
        log = _log.debug if self._method.startswith(_HEALTH_PREFIX) else _log.info
        milliseconds = round((time.perf_counter() - self._started) * 1000, 2)
        log(
            "call",
            method=self._method[1:],
            code=code,
            duration_ms=milliseconds,
            peer=self._peer,
            **fields,
        )


class _Unparsable:
    """Stands for a request that its deserializer refused."""


_UNPARSABLE = _Unparsable()


def _parse_or_mark(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return _UNPARSABLE

    return parse


def _refuse_unparsable(request: Any) -> None:
    if request is _UNPARSABLE:
        raise InvalidArgument(
            [("request", "cannot be parsed: it is damaged or nested too deeply")], reason="UNPARSABLE_REQUEST"
        )


async def _parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _refuse_unparsable(request)
        yield request


def _wrap(handler: _Handler, method: str) -> _Handler:
    behaviour, make = _behaviour(handler)
    requests_stream, responses_stream = handler.request_streaming, handler.response_streaming

    def begin(request: Any, context: _Context) -> tuple[_Call, Any]:
        call = _Call(method, context)
        if requests_stream:
            return call, _parsed(request)
        call.describe(request)
        return call, request

    async def answer(request: Any, context: _Context) -> Any:
        call, checked = begin(request, context)
        async with call:
            _refuse_unparsable(request)
            return await behaviour(checked, context)

    async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
        call, checked = begin(request, context)
        async with call:
            _refuse_unparsable(request)
            async with aclosing(behaviour(checked, context)) as responses:
                async for response in responses:
                    yield response

    # A method that streams its answers is a generator, or a coroutine that writes them to the context.
    is_generator = responses_stream and inspect.isasyncgenfunction(behaviour)
    wrapped: _Handler = make(
        stream if is_generator else answer,
        request_deserializer=_parse_or_mark(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )
    return wrapped


def _behaviour(handler: _Handler) -> tuple[Any, Any]:
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return handler.unary_unary, grpc.unary_unary_rpc_method_handler
        case False, True:
            return handler.unary_stream, grpc.unary_stream_rpc_method_handler
        case True, False:
            return handler.stream_unary, grpc.stream_unary_rpc_method_handler
        case _:
            return handler.stream_stream, grpc.stream_stream_rpc_method_handler


async def _refuse(_requests: AsyncIterator[bytes], _context: _Context) -> None:
    raise Unavailable("the service is not ready: the database cannot be reached, or is not migrated")


# On the wire a call of any kind is a stream of requests and one of responses, so this answers them all.
_NOT_OPEN: _Handler = grpc.stream_stream_rpc_method_handler(_refuse)

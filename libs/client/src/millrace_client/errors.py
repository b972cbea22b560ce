"""What goes wrong, as exceptions: one class per gRPC status, with what the server said about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from millrace_client.connection_words import in_words

_Detail = TypeVar("_Detail", bound=Message)


class MillraceError(Exception):
    """Base class of the exceptions that this package raises."""


class ContentMismatchError(MillraceError):
    """What arrived is not of the size or hash that the file has; nothing of it was kept."""


class TransferError(MillraceError):
    """An object store refused content that was sent straight to it, or could not be reached.

    `retryable`: it may take it at another time.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is missing or wrong, and how."""

    field: str
    description: str

    def __str__(self) -> str:
        """Give the field and what is wrong with it."""
        return f"{self.field}: {self.description}"


@dataclass(frozen=True, slots=True)
class Resource:
    """The thing an error is about, such as type "job", name "job_…"."""

    type: str
    name: str

    def __str__(self) -> str:
        """Give its type and name."""
        return f"{self.type} {self.name}"


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit that the call would have gone beyond: whose it is, such as "org:acme", and how much is allowed."""

    name: str
    """A stable word for programs, such as "files.max_total_bytes"."""

    subject: str
    allowed: int


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a server adds to a status, from google.rpc details; empty where it said nothing."""

    violations: tuple[FieldViolation, ...] = ()
    preconditions: tuple[str, ...] = ()
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    resource: Resource | None = None
    retry_after: timedelta | None = None
    quota: Quota | None = None


class CallError(MillraceError):
    """A call that was answered with an error, or not at all.

    `code` is the gRPC status and `message` a sentence for people. `violations` names each bad field,
    `preconditions` says what state stood in the way, `reason` is a stable word for programs,
    `resource` the thing that was missing or already there, `quota` the limit that was in the way, and
    `retry_after` how long to wait before another try.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: ErrorDetails | None = None) -> None:
        details = details or ErrorDetails()
        self.code = code
        self.message = message
        self.violations = details.violations
        self.preconditions = details.preconditions
        self.reason = details.reason
        self.metadata = details.metadata
        self.resource = details.resource
        self.retry_after = details.retry_after
        self.quota = details.quota
        super().__init__(code, message, details)

    def __str__(self) -> str:
        """Give the status, the message, and each bad field and the resource that the message does not name."""
        unsaid = [bad for bad in map(str, self.violations) if bad not in self.message]
        if self.resource is not None and self.resource.name not in self.message:
            unsaid.append(str(self.resource))
        return f"{self.code.name}: {self.message}" + (f" ({'; '.join(unsaid)})" if unsaid else "")


class InvalidArgumentError(CallError):
    """A field is missing or wrong; `violations` names each one."""


class NotFoundError(CallError):
    """There is no such thing in this organisation."""


class AlreadyExistsError(CallError):
    """The request id was used before, for something else, or the unique key is taken; `job_id` says by which job."""

    @property
    def job_id(self) -> str:
        """The job that exists; empty when the server does not say."""
        return self.resource.name if self.resource is not None and self.resource.type == "job" else ""


class FailedPreconditionError(CallError):
    """The thing is not in a state that allows this."""


class AbortedError(CallError):
    """Another change came first."""


class ResourceExhaustedError(CallError):
    """A limit is reached; `retry_after` says when to try again, if waiting helps, and `quota` which one it is, if it is one."""


class UnavailableError(CallError):
    """The service, or its database, cannot be reached; tried again already where that is safe."""


class DeadlineExceededError(CallError):
    """No answer came in time. What was asked may have happened all the same."""


class PermissionDeniedError(CallError):
    """The caller may not do this in this organisation."""


class UnauthenticatedError(CallError):
    """The caller is not known."""


class DataLossError(CallError):
    """A file's content is no longer there."""


class InternalError(CallError):
    """The server failed in a way that is not the caller's doing."""


_CLASSES: Mapping[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.INTERNAL: InternalError,
}
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: grpc.aio.AioRpcError) -> CallError:
    """Turn what gRPC raises into the exception of its status."""
    status = _status_of(error)
    message = error.details() or error.code().name
    if status is None and error.code() is grpc.StatusCode.UNAVAILABLE:
        message = in_words(message)
    return _error(error.code(), message, status)


def from_status(status: Status) -> CallError:
    """Turn the status of one item of a batch into the exception that a single call would raise."""
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status)


def _status_of(error: grpc.aio.AioRpcError) -> Status | None:
    try:
        return cast("Status | None", rpc_status.from_call(cast("grpc.Call", error)))
    except ValueError:  # the details contradict the status: a proxy rewrote it, so they say nothing
        return None


def _error(code: grpc.StatusCode, message: str, status: Status | None) -> CallError:
    details = _read_details(status) if status is not None else None
    return _CLASSES.get(code, CallError)(code, message, details)


def _read_details(status: Status) -> ErrorDetails:
    request = _detail(status, error_details_pb2.BadRequest)
    precondition = _detail(status, error_details_pb2.PreconditionFailure)
    info = _detail(status, error_details_pb2.ErrorInfo)
    resource = _detail(status, error_details_pb2.ResourceInfo)
    retry = _detail(status, error_details_pb2.RetryInfo)
    quotas = _detail(status, error_details_pb2.QuotaFailure)
    return ErrorDetails(
        violations=tuple(FieldViolation(bad.field, bad.description) for bad in request.field_violations),
        preconditions=tuple(unmet.description for unmet in precondition.violations),
        reason=info.reason,
        metadata=dict(info.metadata),
        resource=Resource(resource.resource_type, resource.resource_name) if resource.resource_name else None,
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        quota=next(
            (Quota(unmet.quota_id, unmet.subject, unmet.quota_value) for unmet in quotas.violations), None
        ),
    )


def _detail(status: Status, kind: type[_Detail]) -> _Detail:
    """Return the status's detail of this kind, or an empty one."""
    detail = kind()
    for packed in status.details:
        if packed.Unpack(detail):
            break
    return detail

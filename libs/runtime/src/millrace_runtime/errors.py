# ruff: noqa: N818 - the exceptions have the names of their gRPC codes
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

ERROR_DOMAIN = "millrace"

_DEFAULT_RETRY_AFTER = timedelta(seconds=1)
# A status travels in HTTP/2 headers, of which a gRPC client accepts 8 KiB by default: text and details of an
# error are cut so that they always fit, base64 and percent encoding included.
_MAX_MESSAGE_CHARACTERS = 500
_MAX_VIOLATIONS_BYTES = 2048


class FieldViolation(NamedTuple):
    """What is wrong with a field of a request: its path, such as `requests[3].run_at`, and a sentence."""

    field: str
    description: str


class ApiError(Exception):
    """An error that a caller may see. Raised by a servicer, it becomes the call's status with its details.

    `reason` is the stable word for programs (UPPER_SNAKE_CASE, in google.rpc.ErrorInfo).
    """

    code = grpc.StatusCode.UNKNOWN
    metadata: tuple[tuple[str, str], ...] = ()
    """What the call ends with besides its status."""

    def __init__(self, message: str, *, reason: str, details: Sequence[Message] = ()) -> None:
        super().__init__(message)
        self.message = _shortened(message, _MAX_MESSAGE_CHARACTERS)
        self.reason = reason
        self.details = (error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN), *details)

    def to_status(self) -> status_pb2.Status:
        """Return the error as google.rpc.Status."""
        return make_status(self.code, self.message, self.details)


class InvalidArgument(ApiError):
    """Fields of the request are missing or wrong; BadRequest names each of them."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: Iterable[tuple[str, str]], *, reason: str = "INVALID_FIELDS") -> None:
        self.violations = tuple(FieldViolation(*violation) for violation in violations)
        message = "; ".join(f"{field}: {description}" for field, description in self.violations)
        super().__init__(message, reason=reason, details=[_bad_request(self.violations)])


class NotFound(ApiError):
    """There is no such resource, or it belongs to another organisation."""

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, resource_type: str, resource_name: str) -> None:
        description = f"{resource_type} {_shortened(resource_name, 128)} not found"
        super().__init__(
            description,
            reason="RESOURCE_NOT_FOUND",
            details=[_resource_info(resource_type, resource_name, description)],
        )


class AlreadyExists(ApiError):
    """What is to be created is there already; ResourceInfo names it."""

    code = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, resource_type: str, resource_name: str, description: str) -> None:
        super().__init__(
            description,
            reason="RESOURCE_ALREADY_EXISTS",
            details=[_resource_info(resource_type, resource_name, description)],
        )


class FailedPrecondition(ApiError):
    """The resource is in the wrong state. `reason` says which, `subject` names the resource."""

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self, reason: str, subject: str, description: str) -> None:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=reason, subject=_shortened(subject, 128), description=_shortened(description, 300)
        )
        super().__init__(
            description,
            reason=reason,
            details=[error_details_pb2.PreconditionFailure(violations=[violation])],
        )


class Aborted(ApiError):
    """Somebody else has changed the resource meanwhile. `reason` says what; to be read and tried again."""

    code = grpc.StatusCode.ABORTED

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description, reason=reason)


class ResourceExhausted(ApiError):
    """A limit or quota is reached; RetryInfo says when to try again, if waiting helps (`retry_after` is not None)."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, description: str, *, retry_after: timedelta | None = _DEFAULT_RETRY_AFTER) -> None:
        details = () if retry_after is None else (_retry_info(retry_after),)
        super().__init__(description, reason="LIMIT_REACHED", details=details)


class QuotaExceeded(ApiError):
    """The request would go beyond a quota, now and later; QuotaFailure names it.

    `quota` is the stable word for it, such as `files.max_total_bytes`, `subject` whose it is, `allowed` how much that is.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, quota: str, subject: str, description: str, *, allowed: int) -> None:
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=_shortened(subject, 128),
            description=_shortened(description, 300),
            quota_id=quota,
            quota_value=allowed,
        )
        super().__init__(
            description,
            reason="QUOTA_EXCEEDED",
            details=[error_details_pb2.QuotaFailure(violations=[violation])],
        )


class OutOfRange(ApiError):
    """A part is asked for that lies behind the end; BadRequest names the field that says where it begins."""

    code = grpc.StatusCode.OUT_OF_RANGE

    def __init__(self, field: str, description: str) -> None:
        violation = FieldViolation(field, description)
        super().__init__(
            f"{field}: {description}", reason="OUT_OF_RANGE", details=[_bad_request([violation])]
        )


class Unavailable(ApiError):
    """The call cannot be answered just now; RetryInfo says when to try again.

    `tried`: the service has tried already what the call needs, as often as makes sense; so gRPC clients do not repeat
    the call by themselves.
    """

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(
        self,
        description: str = "the database cannot be reached",
        *,
        reason: str = "DATABASE_UNAVAILABLE",
        retry_after: timedelta = _DEFAULT_RETRY_AFTER,
        tried: bool = False,
    ) -> None:
        super().__init__(description, reason=reason, details=[_retry_info(retry_after)])
        if tried:
            self.metadata = (("grpc-retry-pushback-ms", "-1"),)


class DataLoss(ApiError):
    """Something that was stored is no longer there, or is damaged."""

    code = grpc.StatusCode.DATA_LOSS

    def __init__(self, description: str) -> None:
        super().__init__(description, reason="DATA_LOST")


class PermissionDenied(ApiError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self, description: str) -> None:
        super().__init__(description, reason="NOT_ALLOWED")


class Unauthenticated(ApiError):
    """The caller is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(self, description: str) -> None:
        super().__init__(description, reason="NOT_AUTHENTICATED")


class InternalError(ApiError):
    """Something went wrong that the caller cannot mend; the log has the cause."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self) -> None:
        super().__init__("internal error", reason="INTERNAL")


def make_status(code: grpc.StatusCode, message: str, details: Iterable[Message] = ()) -> status_pb2.Status:
    """Return a google.rpc.Status with the given details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def sole_error(error: BaseException) -> BaseException:
    """Return the error inside a group (of groups) that holds no other; any other error as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    size = 0
    for number, (field, description) in enumerate(violations):
        shown = FieldViolation(_shortened(field, 200), _shortened(description, 300))
        size += len(shown.field.encode()) + len(shown.description.encode()) + 8
        if size > _MAX_VIOLATIONS_BYTES:
            bad_request.field_violations.add(description=f"and {len(violations) - number} more")
            break
        bad_request.field_violations.add(field=shown.field, description=shown.description)
    return bad_request


def _resource_info(
    resource_type: str, resource_name: str, description: str
) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(
        resource_type=resource_type,
        resource_name=_shortened(resource_name, 128),
        description=_shortened(description, 300),
    )


def _retry_info(retry_after: timedelta) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromTimedelta(retry_after)
    return info


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from millrace_runtime.errors import ApiError, Unavailable

# A Jobs service that stops in the middle of a call cancels it.
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


def passed_on(error: grpc.aio.AioRpcError) -> ApiError:
    """Return an error of the Jobs service as the Scheduler's caller shall see it: the same, details included.

    When the Jobs service could not be reached, or did not answer in time, that is UNAVAILABLE.
    """
    status = rpc_status.from_call(cast("grpc.Call", error))
    if status is not None:
        return _UpstreamError(error.code(), status)
    if error.code() in _AWAY:
        return Unavailable("the Jobs service cannot be reached", reason="JOBS_SERVICE_UNAVAILABLE")
    bare = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    return _UpstreamError(error.code(), bare)


def passed_on_status(status: status_pb2.Status) -> ApiError:
    """Return the error of an item of a batch as the Scheduler's caller shall see it: the same, details included."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    return _UpstreamError(codes.get(status.code, grpc.StatusCode.UNKNOWN), status)


class _UpstreamError(ApiError):
    def __init__(self, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        super().__init__(status.message, reason=_reason(status))
        self.code = code
        self._status = status

    def to_status(self) -> status_pb2.Status:
        return self._status


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return info.reason
    return "JOBS_SERVICE_ERROR"

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from millrace_runtime.errors import (
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    sole_error,
)

HEADER_LIMIT = 8192


def _info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def test_a_status_has_code_message_and_reason() -> None:
    status = NotFound("job", "job_1").to_status()
    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND.value[0], "job job_1 not found")
    assert (_info(status).domain, _info(status).reason) == ("millrace", "RESOURCE_NOT_FOUND")


def test_a_retry_delay_may_have_fractions() -> None:
    status = ResourceExhausted("too many", retry_after=timedelta(milliseconds=1500)).to_status()
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta() == timedelta(milliseconds=1500)


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument([("f" * 5000, "ü" * 5000)] * 5000),
        NotFound("job", "é" * 100_000),
        FailedPrecondition("REASON", "s" * 100_000, "d" * 100_000),
    ],
)
def test_a_status_fits_into_the_headers_of_an_answer(error: ApiError) -> None:
    status = error.to_status()
    in_base64 = len(status.SerializeToString()) * 4 / 3
    in_percent_encoding = sum(1 if byte < 128 else 3 for byte in status.message.encode())
    assert in_base64 + in_percent_encoding < HEADER_LIMIT - 500


def test_a_lone_error_leaves_its_group() -> None:
    error = KeyError("x")
    assert sole_error(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    assert sole_error(error) is error
    both = ExceptionGroup("a", [error, ValueError("y")])
    assert sole_error(both) is both

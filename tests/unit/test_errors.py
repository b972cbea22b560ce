from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from millrace_runtime.errors import (
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    QuotaExceeded,
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


def test_a_quota_is_named_with_what_it_allows() -> None:
    status = QuotaExceeded("files.total_bytes", "org:acme", "would be too much", allowed=2**62).to_status()
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert _info(status).reason == "QUOTA_EXCEEDED"
    failure = error_details_pb2.QuotaFailure()
    assert status.details[1].Unpack(failure)
    (violation,) = failure.violations
    assert (violation.quota_id, violation.quota_value) == ("files.total_bytes", 2**62)
    assert (violation.subject, violation.description) == ("org:acme", "would be too much")


def test_what_lies_behind_the_end_names_the_field() -> None:
    status = OutOfRange("offset", "is 7, behind the end").to_status()
    assert (status.code, _info(status).reason) == (grpc.StatusCode.OUT_OF_RANGE.value[0], "OUT_OF_RANGE")
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    assert [(one.field, one.description) for one in bad_request.field_violations] == [
        ("offset", "is 7, behind the end")
    ]


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument([("f" * 5000, "ü" * 5000)] * 5000),
        NotFound("job", "é" * 100_000),
        FailedPrecondition("REASON", "s" * 100_000, "d" * 100_000),
        QuotaExceeded("quota", "é" * 100_000, "ü" * 100_000, allowed=7),
        OutOfRange("f" * 5000, "ü" * 100_000),
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

from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from millrace_client import (
    AlreadyExistsError,
    CallError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    Quota,
    Resource,
)
from millrace_client.errors import from_rpc_error, from_status


def status(code: int, message: str, *details: Message) -> Status:
    packed = Status(code=code, message=message)
    for detail in details:
        packed.details.add().Pack(detail)
    return packed


def test_each_bad_field_is_named() -> None:
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field="type", description="is required"),
        error_details_pb2.BadRequest.FieldViolation(field="priority", description="must be at most 100"),
    ]
    error = from_status(
        status(
            code_pb2.INVALID_ARGUMENT,
            "the request is not valid",
            error_details_pb2.BadRequest(field_violations=violations),
        )
    )
    assert isinstance(error, InvalidArgumentError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations == (
        FieldViolation("type", "is required"),
        FieldViolation("priority", "must be at most 100"),
    )
    assert str(error) == (
        "INVALID_ARGUMENT: the request is not valid (type: is required; priority: must be at most 100)"
    )


def test_every_detail_is_read() -> None:
    error = from_status(
        status(
            code_pb2.ALREADY_EXISTS,
            "in use",
            error_details_pb2.ErrorInfo(
                reason="REQUEST_ID_REUSED", domain="millrace", metadata={"field": "request_id"}
            ),
            error_details_pb2.ResourceInfo(resource_type="job", resource_name="job_1"),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(description="the job is COMPLETED")
                ]
            ),
            error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(
                        subject="org:acme", quota_id="files.count", quota_value=3
                    )
                ]
            ),
        )
    )
    assert isinstance(error, AlreadyExistsError)
    assert error.reason == "REQUEST_ID_REUSED"
    assert error.metadata == {"field": "request_id"}
    assert error.resource == Resource("job", "job_1")
    assert error.retry_after == timedelta(seconds=1.5)
    assert error.preconditions == ("the job is COMPLETED",)
    assert error.quota == Quota("files.count", "org:acme", 3)


def test_a_bare_status_has_no_details() -> None:
    error = from_status(status(code_pb2.NOT_FOUND, "no such job"))
    assert isinstance(error, NotFoundError)
    assert (error.violations, error.reason, error.resource, error.retry_after) == ((), "", None, None)


@pytest.mark.parametrize("code", [code_pb2.OUT_OF_RANGE, 999])
def test_a_status_without_a_class_of_its_own_is_still_a_call_error(code: int) -> None:
    error = from_status(status(code, "odd"))
    assert type(error) is CallError
    assert error.message == "odd"


def test_a_field_that_the_message_names_already_is_not_repeated() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="type", description="is required")
    details = error_details_pb2.BadRequest(field_violations=[violation])
    error = from_status(status(code_pb2.INVALID_ARGUMENT, "type: is required", details))
    assert str(error) == "INVALID_ARGUMENT: type: is required"


@pytest.mark.parametrize(
    ("details", "words"),
    [
        (
            "Error in HTTP transport completing operation: on_write_finished_cb (sendmsg: Broken pipe (32))",
            "the service stopped, or the connection to it broke",
        ),
        ("Cancelling all calls", "the service stopped, or the connection to it broke"),
        ("Stream removed (Socket closed)", "the service stopped, or the connection to it broke"),
        ("recvmsg:Connection reset by peer", "the service stopped, or the connection to it broke"),
        (
            "last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused",
            "the service at 127.0.0.1:1 cannot be reached: Connection refused",
        ),
        (
            "last error: UNKNOWN: ipv6:%5B::1%5D:1: Failed to connect to remote host: connect: Refused (111)",
            "the service at [::1]:1 cannot be reached: Refused (111)",
        ),
        ("the database cannot be reached", "the database cannot be reached"),
    ],
)
def test_what_grpc_says_of_a_connection_is_said_in_plain_words(details: str, words: str) -> None:
    none = grpc.aio.Metadata()
    rpc_error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details)
    assert from_rpc_error(rpc_error).message == words


def test_what_a_server_says_is_not_changed() -> None:
    none = grpc.aio.Metadata()
    rpc_error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, none, none, "Stream removed")
    assert from_rpc_error(rpc_error).message == "Stream removed"

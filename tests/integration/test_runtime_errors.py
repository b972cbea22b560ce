import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from structlog.testing import capture_logs

from millrace.files.v1 import files_service_pb2, files_service_pb2_grpc
from millrace_database.availability import DatabaseUnavailableError
from millrace_database.database import Database
from millrace_runtime import errors
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from support.toy_service import SERVICE, Toy

GET = files_service_pb2.GetFileRequest(org_id="acme", file_id="file_1")


@dataclass
class Served:
    toy: Toy
    channel: grpc.aio.Channel
    files: "files_service_pb2_grpc.FilesServiceAsyncStub"


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    toy = Toy()
    async with (
        running(toy.definition, Settings(jobs_port=0), database) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        yield Served(toy, channel, files_service_pb2_grpc.FilesServiceStub(channel))


async def _refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


def _details(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The one detail of a kind that the status holds."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert isinstance(status, status_pb2.Status)
    (packed,) = (detail for detail in status.details if detail.Is(kind.DESCRIPTOR))
    message = kind()
    packed.Unpack(message)
    return message


def _reason(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    info = _details(error, error_details_pb2.ErrorInfo)
    return info.domain, info.reason


async def test_wrong_fields_are_each_named(served: Served) -> None:
    served.toy.error = errors.InvalidArgument([("org_id", "is required"), ("run_at", "is too late")])
    error = await _refusal(served.files.GetFile(GET))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "org_id: is required; run_at: is too late"
    named = _details(error, error_details_pb2.BadRequest).field_violations
    assert [(one.field, one.description) for one in named] == [
        ("org_id", "is required"),
        ("run_at", "is too late"),
    ]
    assert _reason(error) == ("millrace", "INVALID_FIELDS")


async def test_more_violations_than_headers_can_carry_still_arrive(served: Served) -> None:
    served.toy.error = errors.InvalidArgument(
        (f"requests[{number}].input.{'ü' * 500}", "é" * 1000) for number in range(10_000)
    )
    error = await _refusal(served.files.GetFile(GET))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    named = _details(error, error_details_pb2.BadRequest).field_violations
    assert named[0].field.startswith("requests[0].input.")
    assert named[-1].description == f"and {10_000 - (len(named) - 1)} more"


async def test_what_is_missing_is_named(served: Served) -> None:
    served.toy.error = errors.NotFound("file", "file_1")
    error = await _refusal(served.files.GetFile(GET))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    info = _details(error, error_details_pb2.ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("file", "file_1")
    assert _reason(error) == ("millrace", "RESOURCE_NOT_FOUND")


async def test_what_exists_is_named(served: Served) -> None:
    served.toy.error = errors.AlreadyExists("job", "job_1", "the request_id was used for another input")
    error = await _refusal(served.files.GetFile(GET))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    assert error.details() == "the request_id was used for another input"
    assert _details(error, error_details_pb2.ResourceInfo).resource_name == "job_1"


async def test_a_wrong_state_says_its_reason(served: Served) -> None:
    served.toy.error = errors.FailedPrecondition("JOB_FINISHED", "job_1", "the job is completed")
    error = await _refusal(served.files.GetFile(GET))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = _details(error, error_details_pb2.PreconditionFailure).violations
    assert (violation.type, violation.subject) == ("JOB_FINISHED", "job_1")
    assert _reason(error) == ("millrace", "JOB_FINISHED")


@pytest.mark.parametrize(
    ("raised", "code", "seconds"),
    [
        (
            errors.ResourceExhausted("too many", retry_after=timedelta(seconds=30)),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            30,
        ),
        (errors.Unavailable(), grpc.StatusCode.UNAVAILABLE, 1),
        (DatabaseUnavailableError("secret host refused"), grpc.StatusCode.UNAVAILABLE, 1),
        (ExceptionGroup("tasks", [DatabaseUnavailableError("secret")]), grpc.StatusCode.UNAVAILABLE, 1),
    ],
)
async def test_what_may_be_retried_says_when(
    served: Served, raised: Exception, code: grpc.StatusCode, seconds: int
) -> None:
    served.toy.error = raised
    error = await _refusal(served.files.GetFile(GET))
    assert error.code() == code
    assert _details(error, error_details_pb2.RetryInfo).retry_delay.seconds == seconds
    assert "secret" not in str(error.details())


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.DataLoss("the content is gone"), grpc.StatusCode.DATA_LOSS),
        (errors.PermissionDenied("not yours"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.Unauthenticated("who are you"), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_errors_without_details_of_their_own(
    served: Served, raised: errors.ApiError, code: grpc.StatusCode
) -> None:
    served.toy.error = raised
    error = await _refusal(served.files.GetFile(GET))
    assert (error.code(), error.details()) == (code, raised.message)


async def test_an_unexpected_error_shows_nothing_and_is_logged_once(served: Served) -> None:
    served.toy.error = ValueError("SELECT password FROM users")
    with capture_logs() as logs:
        error = await _refusal(served.files.GetFile(GET))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "SELECT" not in str(error.trailing_metadata())
    (failure,) = (line for line in logs if line["log_level"] == "error")
    assert failure["exc_info"] is served.toy.error
    assert failure["method"] == f"{SERVICE}/GetFile"


async def test_an_error_in_the_middle_of_a_stream_of_answers(served: Served) -> None:
    served.toy.error = errors.DataLoss("the rest is gone")
    call: Any = served.files.DownloadFile(files_service_pb2.DownloadFileRequest())
    assert (await call.read()).chunk == b"first"
    error = await _refusal(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "the rest is gone")


async def test_an_error_after_a_stream_of_requests(served: Served) -> None:
    served.toy.error = KeyError("secret")
    chunks = [files_service_pb2.UploadFileRequest(chunk=b"x")] * 3
    error = await _refusal(served.files.UploadFile(iter(chunks)))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_streams_pass_through_unchanged(served: Served) -> None:
    chunks = [files_service_pb2.UploadFileRequest(chunk=b"x" * 10)] * 3
    assert (await served.files.UploadFile(iter(chunks))).file.size_bytes == 30
    answers = served.files.DownloadFile(files_service_pb2.DownloadFileRequest())
    assert [answer.chunk async for answer in answers] == [b"first"]


async def test_a_damaged_request_is_the_callers_mistake(served: Served) -> None:
    method: Any = served.channel.unary_unary(f"/{SERVICE}/GetFile")
    error = await _refusal(method(b"\xff\xff\xff"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _reason(error) == ("millrace", "UNPARSABLE_REQUEST")


async def test_a_damaged_message_in_a_stream_is_the_callers_mistake(served: Served) -> None:
    method: Any = served.channel.stream_unary(f"/{SERVICE}/UploadFile")
    good = files_service_pb2.UploadFileRequest(chunk=b"x").SerializeToString()
    error = await _refusal(method(iter([good, b"\xff\xff\xff"])))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    method: Any = served.channel.unary_unary(f"/{SERVICE}/Unknown")
    assert (await _refusal(method(b""))).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_each_call_is_one_line_in_the_log(served: Served) -> None:
    with capture_logs() as logs:
        await served.files.GetFile(GET)
        served.toy.error = errors.NotFound("file", "file_1")
        await _refusal(served.files.GetFile(GET))
    fine, failed = logs
    assert (fine["event"], fine["method"], fine["code"]) == ("call", f"{SERVICE}/GetFile", "OK")
    assert fine["peer"].startswith("ipv4:127.0.0.1:")
    assert fine["duration_ms"] >= 0
    assert (failed["code"], failed["reason"]) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


async def test_a_call_that_its_caller_gave_up_is_cancelled(served: Served) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    served.toy.get_file = wait
    call = served.files.GetFile(GET)
    async with asyncio.timeout(10):
        await entered.wait()
        call.cancel()
        await left.wait()
    served.toy.get_file = None
    assert (await served.files.GetFile(GET)).file.org_id == "acme"


class _Endless(Toy):
    """Downloads that never end by themselves."""

    async def DownloadFile(self, *_: Any) -> AsyncIterator[Any]:  # noqa: N802 - the name of the contract
        while True:
            yield files_service_pb2.DownloadFileResponse(chunk=b"x" * 100_000)


async def test_a_server_outlives_callers_that_leave_while_an_answer_is_sent(database: Database) -> None:
    async with running(_Endless().definition, Settings(jobs_port=0), database) as service:
        for _ in range(20):
            async with grpc.aio.insecure_channel(service.address) as channel:
                files = files_service_pb2_grpc.FilesServiceStub(channel)
                await anext(aiter(files.DownloadFile(files_service_pb2.DownloadFileRequest())))
        async with grpc.aio.insecure_channel(service.address) as channel:
            answer = await files_service_pb2_grpc.FilesServiceStub(channel).GetFile(GET)
    assert answer.file.org_id == "acme"

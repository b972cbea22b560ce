"""Every call of JobsService with every kind of wrong request: refused, with the field named."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_runtime.struct_json import dict_to_struct
from support.jobs_api import ANY_TYPE, TYPE, JobsApi, refusal, serving, status_of, violations

NO_JOB = "job_" + "0" * 32
LONG = "x" * 129
FIVE_MEGABYTES = 5 * 1024 * 1024
BAD_ORGANISATIONS = ("", "-", "a/b", "ä", "a b", LONG, "a\0", "acme\n")
BAD_JOB_IDS = (
    "",
    "job_",
    "7",
    NO_JOB[4:],
    NO_JOB + "0",
    "file_" + "0" * 32,
    NO_JOB.upper(),
    "job_" + "g" * 32,
)
BAD_PAGE_TOKENS = ("x", "é", "AAAA", "WzEsIngiXQ", "y" * 3000, "\0")
BAD_TIMES = (
    Timestamp(seconds=253_402_300_800),
    Timestamp(seconds=-62_135_596_801),
    Timestamp(seconds=2**62),
    Timestamp(nanos=-1),
    Timestamp(nanos=1_000_000_000),
)


def _nested(levels: int) -> Struct:
    struct = Struct()
    _deepen(struct, levels)
    return struct


def _deepen(struct: Struct, levels: int) -> None:
    """Make an empty Struct one of so many levels."""
    innermost = struct
    for _ in range(levels - 1):
        innermost = innermost.get_or_create_struct("a")


def _nested_json(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


BAD_STRUCTS = {
    "NaN": Struct(fields={"a": Value(number_value=float("nan"))}),
    "infinity": Struct(fields={"a": Value(number_value=float("-inf"))}),
    "NUL in a text": dict_to_struct({"a": ["\0"]}),
    "NUL in a key": dict_to_struct({"a\0": 1}),
    "too deep": _nested(33),
}
BAD_TEXTS = {
    "no JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "beyond a double": b'{"a": 1e400}',
    "beyond numeric": b'{"a": 1e-20000}',
    "a long fraction": b'{"a": 1.' + b"1" * 20_000 + b"}",
    "a long integer": b'{"a": ' + b"1" * 20_000 + b"}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "Latin-1": b'{"a": "\xe4"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "NUL in a text": b'{"a": "\\u0000"}',
    "NUL in a key": b'{"\\u0000": 1}',
    "a raw NUL": b'{"a": "\0"}',
    "two objects": b"{}{}",
    "too deep": _nested_json(33),
    "very deep": _nested_json(100_000),
    "5 MB": b'{"a": "' + b"x" * FIVE_MEGABYTES + b'"}',
}
BAD_JOBS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no type": ({"type": ""}, {"type"}),
    "unknown type": ({"type": "nobody:knows"}, {"type"}),
    "long type": ({"type": "a:" + LONG}, {"type"}),
    "NUL in the type": ({"type": "a\0"}, {"type"}),
    "5 MB": ({"input": dict_to_struct({"a": "x" * FIVE_MEGABYTES})}, {"input"}),
    "large metadata": ({"metadata": dict_to_struct({"a": "x" * 17_000})}, {"metadata"}),
    "long request_id": ({"request_id": LONG}, {"request_id"}),
    "NUL in the request_id": ({"request_id": "a\0"}, {"request_id"}),
    "high priority": ({"priority": 101}, {"priority"}),
    "low priority": ({"priority": -(2**31)}, {"priority"}),
    "no attempts": ({"max_attempts": -1}, {"max_attempts"}),
    "many attempts": ({"max_attempts": 101}, {"max_attempts"}),
    "long creator": ({"created_by": "x" * 257}, {"created_by"}),
    "NUL in the creator": ({"created_by": "\0"}, {"created_by"}),
    "schedule": ({"schedule_id": "x"}, {"schedule_id"}),
    "a job as the schedule": ({"schedule_id": NO_JOB}, {"schedule_id"}),
    "input that misses a field": ({"type": TYPE}, {"input.file_id"}),
    "input of the wrong type": ({"type": TYPE, "input": dict_to_struct({"file_id": 1})}, {"input.file_id"}),
    **{f"input: {name}": ({"input": struct}, {"input"}) for name, struct in BAD_STRUCTS.items()},
    **{f"metadata: {name}": ({"metadata": struct}, {"metadata"}) for name, struct in BAD_STRUCTS.items()},
    **{f"input_json: {name}": ({"input_json": text}, {"input_json"}) for name, text in BAD_TEXTS.items()},
    **{f"run_at: {time}": ({"run_at": time}, {"run_at"}) for time in BAD_TIMES},
}


def _job(**fields: Any) -> jobs_service_pb2.CreateJobRequest:
    return jobs_service_pb2.CreateJobRequest(**{"org_id": "acme", "type": ANY_TYPE, **fields})


def _cases() -> dict[str, tuple[str, Message, set[str]]]:
    """Return a method, a request and the fields that are wrong in it, by a name."""
    cases: dict[str, tuple[str, Message, set[str]]] = {}
    for name, (fields, wrong) in BAD_JOBS.items():
        cases[f"CreateJob {name}"] = ("CreateJob", _job(**fields), wrong)
    for org_id in BAD_ORGANISATIONS:
        cases[f"CreateJob org_id {org_id!r}"] = ("CreateJob", _job(org_id=org_id), {"org_id"})
        batch = jobs_service_pb2.BatchCreateJobsRequest(org_id=org_id, requests=[_job(org_id="")])
        cases[f"BatchCreateJobs org_id {org_id!r}"] = ("BatchCreateJobs", batch, {"org_id"})
        if org_id != "-":
            listing = jobs_service_pb2.ListJobsRequest(org_id=org_id)
            cases[f"ListJobs org_id {org_id!r}"] = ("ListJobs", listing, {"org_id"})
    for size in (0, 10_001):
        batch = jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=[_job()] * size)
        cases[f"BatchCreateJobs of {size}"] = ("BatchCreateJobs", batch, {"requests"})
    for method in ("GetJob", "WatchJob", "CancelJob", "RetryJob"):
        request: Any = getattr(jobs_service_pb2, f"{method}Request")
        for org_id in BAD_ORGANISATIONS:
            wrong_org = request(org_id=org_id, job_id=NO_JOB)
            cases[f"{method} org_id {org_id!r}"] = (method, wrong_org, {"org_id"})
        for job_id in BAD_JOB_IDS:
            cases[f"{method} job_id {job_id!r}"] = (method, request(org_id="acme", job_id=job_id), {"job_id"})
        cases[f"{method} nothing"] = (method, request(), {"org_id", "job_id"})
    for name, (fields, wrong) in _bad_listings().items():
        listing = jobs_service_pb2.ListJobsRequest(**{"org_id": "acme", **fields})
        cases[f"ListJobs {name}"] = ("ListJobs", listing, wrong)
    types: Any = jobs_service_pb2.ListJobTypesRequest
    cases["ListJobTypes page_size"] = ("ListJobTypes", types(page_size=-1), {"page_size"})
    for token in BAD_PAGE_TOKENS:
        cases[f"ListJobTypes page_token {token[:8]!r}"] = (
            "ListJobTypes",
            types(page_token=token),
            {"page_token"},
        )
    return cases


def _bad_listings() -> dict[str, tuple[dict[str, Any], set[str]]]:
    pending = job_pb2.JOB_STATUS_PENDING
    return {
        "page_size": ({"page_size": -1}, {"page_size"}),
        **{f"page_token {token[:8]!r}": ({"page_token": token}, {"page_token"}) for token in BAD_PAGE_TOKENS},
        "statuses": ({"statuses": [pending, 0, 99]}, {"statuses[1]", "statuses[2]"}),
        "types": ({"types": ["", LONG, "a\0", ANY_TYPE]}, {"types[0]", "types[1]", "types[2]"}),
        "many types": ({"types": [ANY_TYPE] * 1001}, {"types"}),
        "error_codes": ({"error_codes": ["", LONG, "TIMEOUT"]}, {"error_codes[0]", "error_codes[1]"}),
        "created_by": ({"created_by": "x" * 257}, {"created_by"}),
        "NUL in created_by": ({"created_by": "\0"}, {"created_by"}),
        "schedule_id": ({"schedule_id": NO_JOB}, {"schedule_id"}),
        **{f"created_after {time}": ({"created_after": time}, {"created_after"}) for time in BAD_TIMES},
        **{f"created_before {time}": ({"created_before": time}, {"created_before"}) for time in BAD_TIMES},
        **{f"metadata: {name}": ({"metadata": struct}, {"metadata"}) for name, struct in BAD_STRUCTS.items()},
        "several": (
            {"page_size": -1, "statuses": [0], "types": [""]},
            {"page_size", "statuses[0]", "types[0]"},
        ),
    }


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _call(api: JobsApi, method: str, request: Message) -> None:
    call = getattr(api.jobs, method)(request)
    if method == "WatchJob":
        await anext(aiter(call))
    else:
        await call


async def test_what_is_wrong_is_refused_with_its_fields_and_leaves_nothing(
    api: JobsApi, database: Database
) -> None:
    wrong_answers = {}
    for name, (method, request, fields) in _cases().items():
        error = await refusal(_call(api, method, request))
        answer = (error.code(), set(violations(status_of(error))))
        if answer != (grpc.StatusCode.INVALID_ARGUMENT, fields):
            wrong_answers[name] = (answer, error.details())

    assert wrong_answers == {}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0


async def test_what_is_wrong_in_an_item_is_refused_at_its_place(api: JobsApi, database: Database) -> None:
    items = [(name, _job(**fields), wrong) for name, (fields, wrong) in BAD_JOBS.items()]
    requests = [request for _, request, _ in items]
    # A batch larger than this needs larger messages than servers take by default.
    halves = [requests[: len(requests) // 2], requests[len(requests) // 2 :]]
    answers = []
    for half in halves:
        batch = jobs_service_pb2.BatchCreateJobsRequest(org_id="acme", requests=half)
        results = (await api.jobs.BatchCreateJobs(batch)).results
        answers += [set(violations(result.error)) for result in results]

    expected = {name: set(wrong) for name, _, wrong in items}
    assert {name: fields for (name, _, _), fields in zip(items, answers, strict=True)} == expected
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0


async def test_the_largest_and_deepest_input_is_taken_and_can_be_read_back(api: JobsApi) -> None:
    mebibyte = 1024 * 1024
    largest = b'{"a": "' + b"x" * (mebibyte - 9) + b'"}'
    assert len(largest) == mebibyte
    assert (await api.create(input_json=largest)).input["a"] == "x" * (mebibyte - 9)
    assert set(violations(status_of(await refusal(api.create(input_json=largest + b" "))))) == {"input_json"}

    deepest = await api.create(input=_nested(32))
    same = await api.create(input_json=_nested_json(32))
    assert deepest.input == _nested(32)
    listed = await api.jobs.ListJobs(jobs_service_pb2.ListJobsRequest(org_id="acme", page_size=2))
    assert list(listed.jobs) == [same, deepest]


async def test_a_request_that_cannot_be_parsed_is_refused(api: JobsApi) -> None:
    # The lower levels of this input are refused by the parser of Protobuf, before anybody can name their field.
    too_deep = _job()
    _deepen(too_deep.input, 100)
    error = await refusal(api.jobs.CreateJob(too_deep))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "nested too deeply" in str(error.details())

    async with grpc.aio.insecure_channel(api.address) as channel:
        for method in (
            "CreateJob",
            "BatchCreateJobs",
            "GetJob",
            "ListJobs",
            "CancelJob",
            "RetryJob",
            "ListJobTypes",
        ):
            call: Any = channel.unary_unary(f"/millrace.jobs.v1.JobsService/{method}")
            error = await refusal(call(b"\xff\xff"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

"""Every call that changes many jobs, a type or an organisation, with every kind of wrong request: refused, with the field."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.jobs.v1 import job_pb2, jobs_service_pb2, limits_pb2
from millrace_database.database import Database
from support.jobs_api import ANY_TYPE, JobsApi, refusal, serving, status_of, violations

NO_JOB = "job_" + "0" * 32
LONG = "x" * 129
BAD_ORGANISATIONS = ("", "-", "a/b", "ä", LONG, "a\0")
BAD_TYPES = ("", LONG, "a\0")
BAD_PAGE_TOKENS = ("x", "é", "AAAA", "y" * 3000, "\0")
TYPES = ("GetJobType", "PauseJobType", "ResumeJobType", "UpdateJobTypeLimits")
OPERATED_ORGANISATIONS = (
    "GetOrganisation",
    "PauseOrganisation",
    "ResumeOrganisation",
    "UpdateOrganisationLimits",
)
FAR = Timestamp(seconds=2**62)

BAD_FILTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "statuses": (
        {"statuses": [job_pb2.JOB_STATUS_CANCELLED, 0, 99]},
        {"filter.statuses[1]", "filter.statuses[2]"},
    ),
    "types": ({"types": ["", LONG, ANY_TYPE]}, {"filter.types[0]", "filter.types[1]"}),
    "many types": ({"types": [ANY_TYPE] * 1001}, {"filter.types"}),
    "created_by": ({"created_by": "x" * 257}, {"filter.created_by"}),
    "created_after": ({"created_after": FAR}, {"filter.created_after"}),
    "created_before": ({"created_before": FAR}, {"filter.created_before"}),
    "schedule_id": ({"schedule_id": NO_JOB}, {"filter.schedule_id"}),
    "metadata": (
        {"metadata": Struct(fields={"a": Value(number_value=float("nan"))})},
        {"filter.metadata"},
    ),
    "error_codes": ({"error_codes": ["", "x\0", LONG]}, {f"filter.error_codes[{i}]" for i in range(3)}),
    "many error_codes": ({"error_codes": ["TIMEOUT"] * 1001}, {"filter.error_codes"}),
    "several": ({"types": [""], "created_by": "\0"}, {"filter.types[0]", "filter.created_by"}),
}
BAD_RATES: dict[str, tuple[limits_pb2.RateLimit, str]] = {
    "negative": (limits_pb2.RateLimit(count=-1, period=Duration(seconds=1)), "count"),
    "many": (limits_pb2.RateLimit(count=1_000_001, period=Duration(seconds=1)), "count"),
    "no period": (limits_pb2.RateLimit(count=1), "period"),
    "short": (limits_pb2.RateLimit(count=1, period=Duration(nanos=999_999)), "period"),
    "long": (limits_pb2.RateLimit(count=1, period=Duration(seconds=30 * 86_400, nanos=1000)), "period"),
    "backwards": (limits_pb2.RateLimit(count=1, period=Duration(seconds=-1)), "period"),
    "no duration": (limits_pb2.RateLimit(count=1, period=Duration(seconds=1, nanos=-1)), "period"),
    "beyond durations": (limits_pb2.RateLimit(count=1, period=Duration(seconds=2**62)), "period"),
}


def _request(method: str, **fields: Any) -> Any:
    return getattr(jobs_service_pb2, f"{method}Request")(**fields)


def _cases() -> dict[str, tuple[str, Message, set[str]]]:
    """Return a method, a request and the fields that are wrong in it, by a name."""
    return {
        f"{method} {name}": (method, _request(method, **fields), wrong)
        for method, name, fields, wrong in (*_bulk(), *_types(), *_organisations(), *_attempts(), *_others())
    }


_Case = tuple[str, str, dict[str, Any], set[str]]


def _bulk() -> list[_Case]:
    cases: list[_Case] = []
    for method in ("CancelJobs", "RetryJobs"):
        empty = jobs_service_pb2.JobFilter()
        cases += [
            (method, f"org_id {org_id!r}", {"org_id": org_id, "filter": empty}, {"org_id"})
            for org_id in BAD_ORGANISATIONS
            if org_id != "-"
        ]
        cases.append((method, "no filter", {"org_id": "acme"}, {"filter"}))
        cases.append((method, "nothing", {}, {"org_id", "filter"}))
        for name, (fields, wrong) in BAD_FILTERS.items():
            wrong_filter = jobs_service_pb2.JobFilter(**fields)
            cases.append((method, name, {"org_id": "acme", "filter": wrong_filter}, wrong))
    return cases


def _types() -> list[_Case]:
    cases: list[_Case] = [
        (method, f"type {name[:4]!r}", {"type": name}, {"type"}) for method in TYPES for name in BAD_TYPES
    ]
    limits = limits_pb2.JobTypeLimits
    for field in ("max_running", "max_running_per_organisation"):
        wrong: dict[str, Any] = {field: -1}
        cases.append(
            ("UpdateJobTypeLimits", field, {"type": ANY_TYPE, "limits": limits(**wrong)}, {f"limits.{field}"})
        )
    for name, (rate, part) in BAD_RATES.items():
        for field in ("rate", "rate_per_organisation"):
            wrong = {field: rate}
            request = {"type": ANY_TYPE, "limits": limits(**wrong)}
            cases.append(("UpdateJobTypeLimits", f"{field} {name}", request, {f"limits.{field}.{part}"}))
    several = {"limits": limits(max_running=-1, max_running_per_organisation=-2)}
    fields = {"type", "limits.max_running", "limits.max_running_per_organisation"}
    cases.append(("UpdateJobTypeLimits", "several", several, fields))
    return cases


def _organisations() -> list[_Case]:
    cases: list[_Case] = [
        (method, f"org_id {org_id!r}", {"org_id": org_id}, {"org_id"})
        for method in OPERATED_ORGANISATIONS
        for org_id in BAD_ORGANISATIONS
    ]
    limits = limits_pb2.OrganisationLimits
    wrong_limits = {
        "weight": [limits(weight=-1), limits(weight=101)],
        "max_running": [limits(max_running=-1)],
        **{f"rate.{part}": [limits(rate=rate)] for rate, part in BAD_RATES.values()},
    }
    for field, values in wrong_limits.items():
        for number, value in enumerate(values):
            request = {"org_id": "acme", "limits": value}
            cases.append(("UpdateOrganisationLimits", f"{field} {number}", request, {f"limits.{field}"}))
    return cases


def _attempts() -> list[_Case]:
    key = {"org_id": "acme", "job_id": NO_JOB}
    return [
        ("ListJobAttempts", "org_id", {**key, "org_id": "-"}, {"org_id"}),
        ("ListJobAttempts", "job_id", {**key, "job_id": "7"}, {"job_id"}),
        ("ListJobAttempts", "page_size", {**key, "page_size": -1}, {"page_size"}),
        ("ListJobAttempts", "nothing", {"page_size": -1}, {"org_id", "job_id", "page_size"}),
        *(
            ("ListJobAttempts", f"page_token {token[:8]!r}", {**key, "page_token": token}, {"page_token"})
            for token in BAD_PAGE_TOKENS
        ),
    ]


def _others() -> list[_Case]:
    key = {"org_id": "acme", "type": ANY_TYPE, "key": "disk"}
    return [
        *(
            ("UnblockConcurrencyKey", f"org_id {org_id!r}", {**key, "org_id": org_id}, {"org_id"})
            for org_id in BAD_ORGANISATIONS
        ),
        *(
            ("UnblockConcurrencyKey", f"type {name[:4]!r}", {**key, "type": name}, {"type"})
            for name in BAD_TYPES
        ),
        *(
            ("UnblockConcurrencyKey", f"key {name[:4]!r}", {**key, "key": name}, {"key"})
            for name in ("", "x" * 257, "a\0")
        ),
        ("UnblockConcurrencyKey", "nothing", {}, {"org_id", "type", "key"}),
        ("GetQueueHealth", "type", {"type": LONG}, {"type"}),
        ("GetQueueHealth", "org_id", {"org_id": "-"}, {"org_id"}),
        ("GetQueueHealth", "several", {"type": "\0", "org_id": "a/b"}, {"type", "org_id"}),
    ]


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _settings(database: Database) -> list[tuple[Any, ...]]:
    """Return all that is set for types and organisations."""
    async with database.connection() as connection:
        types = await connection.fetch("SELECT row(type, t::text) FROM queue_types AS t")
        tenants = await connection.fetch("SELECT row(tenant, t::text) FROM queue_tenants AS t")
    return [tuple(row) for row in (*types, *tenants)]


async def test_what_is_wrong_is_refused_with_its_fields_and_leaves_nothing(
    api: JobsApi, database: Database
) -> None:
    before = await _settings(database)
    wrong_answers = {}
    for name, (method, request, fields) in _cases().items():
        error = await refusal(getattr(api.jobs, method)(request))
        answer = (error.code(), set(violations(status_of(error))))
        if answer != (grpc.StatusCode.INVALID_ARGUMENT, fields):
            wrong_answers[name] = (answer, error.details())

    assert wrong_answers == {}
    assert await _settings(database) == before


async def test_types_that_nobody_published_are_not_found(api: JobsApi, database: Database) -> None:
    before = await _settings(database)
    for method in TYPES:
        error = await refusal(getattr(api.jobs, method)(_request(method, type="nobody:knows")))
        assert error.code() is grpc.StatusCode.NOT_FOUND, method
    assert await _settings(database) == before


async def test_a_request_that_cannot_be_parsed_is_refused(api: JobsApi) -> None:
    methods = (
        *TYPES,
        *OPERATED_ORGANISATIONS,
        "CancelJobs",
        "RetryJobs",
        "ListJobAttempts",
        "UnblockConcurrencyKey",
        "GetQueueHealth",
    )
    async with grpc.aio.insecure_channel(api.address) as channel:
        for method in methods:
            call: Any = channel.unary_unary(f"/millrace.jobs.v1.JobsService/{method}")
            error = await refusal(call(b"\xff\xff"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, method

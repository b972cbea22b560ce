"""How rows become messages, and broken schemas become sentences."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from millrace.jobs.v1 import job_options_pb2, job_pb2
from millrace_database.ids import format_id, new_id
from millrace_database.job_options import ConcurrencyRule, JobOptions, RetryRule, UniqueRule
from millrace_database.jobs_repository import JobRecord
from millrace_jobs.job_messages import job_message
from millrace_runtime.input_schema import compile_schema, find_violations

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def _running(**changes: Any) -> JobRecord:
    """Return a job that started a minute before its row was read."""
    record = JobRecord(
        job_id=new_id(),
        org_id="acme",
        type="notes:keep",
        status="processing",
        progress=0,
        message="",
        total_items=0,
        processed_items=0,
        input_json="{}",
        output_json=None,
        metadata_json="{}",
        error_code=None,
        error_message=None,
        error_retryable=None,
        created_by="ann",
        created_at=START - MINUTE,
        run_at=START - MINUTE,
        started_at=START,
        completed_at=None,
        attempt=1,
        max_attempts=4,
        priority=0,
        schedule_id=None,
        request_id=None,
        version=3,
        read_at=START + MINUTE,
    )
    return replace(record, **changes)


def test_a_job_shows_what_its_creator_asked_for() -> None:
    options = JobOptions(
        deadline=START,
        timeout=MINUTE,
        retry=RetryRule("exponential", MINUTE, 10 * MINUTE, 3.0, 0.0),
        dead_letter_type="notes:bury",
        unique=UniqueRule("daily", "organisation", "each", "return_existing"),
        concurrency=ConcurrencyRule("disk", 1, "skip"),
    )
    parent, worker = new_id(), new_id()

    job = job_message(_running(options_json=options.to_json(), parent_job_id=parent, worker_id=worker))

    assert job.deadline.ToDatetime(UTC) == START
    assert job.timeout.ToTimedelta() == MINUTE
    policy = job.retry_policy
    assert (policy.backoff, policy.factor) == (job_options_pb2.BACKOFF_EXPONENTIAL, 3)
    assert (policy.initial_delay.ToTimedelta(), policy.max_delay.ToTimedelta()) == (MINUTE, 10 * MINUTE)
    assert policy.HasField("jitter")
    assert job.dead_letter_type == "notes:bury"
    assert job.unique == job_options_pb2.Uniqueness(
        key="daily",
        scope=job_options_pb2.UNIQUE_SCOPE_ORGANISATION,
        states=job_options_pb2.UNIQUE_STATES_EACH,
        on_conflict=job_options_pb2.UNIQUE_CONFLICT_RETURN_EXISTING,
    )
    assert job.concurrency == job_options_pb2.Concurrency(
        key="disk", limit=1, order=job_options_pb2.KEY_ORDER_SKIP_FAILED
    )
    assert job.parent_job_id == format_id("job", parent)
    assert job.worker_id == format_id("worker", worker)


def test_of_a_throttled_key_the_window_is_shown_and_no_states() -> None:
    options = JobOptions(unique=UniqueRule("daily", window=MINUTE))

    unique = job_message(_running(options_json=options.to_json())).unique

    assert unique.window.ToTimedelta() == MINUTE
    assert unique.states == job_options_pb2.UNIQUE_STATES_UNSPECIFIED


def test_what_was_not_asked_for_is_unset() -> None:
    job = job_message(_running())

    for field in ("deadline", "timeout", "retry_policy", "unique", "concurrency"):
        assert not job.HasField(field), field
    assert (job.dead_letter_type, job.parent_job_id, job.worker_id) == ("", "", "")
    only_delay = job_message(
        _running(options_json=JobOptions(retry=RetryRule(initial_delay=MINUTE)).to_json())
    )
    assert only_delay.retry_policy == job_options_pb2.RetryPolicy(initial_delay=Duration(seconds=60))


def _estimate(job: job_pb2.Job) -> datetime | None:
    return job.estimated_completion.ToDatetime(UTC) if job.HasField("estimated_completion") else None


@pytest.mark.parametrize(
    ("progress", "total_items", "processed_items", "expected"),
    [
        (0, 0, 0, None),
        (25, 0, 0, START + 4 * MINUTE),
        (100, 0, 0, START + MINUTE),
        (0, 200, 0, None),
        (25, 200, 0, START + 4 * MINUTE),
        (25, 200, 100, START + 2 * MINUTE),
        (25, 200, 400, START + MINUTE),
        (25, 0, 100, START + 4 * MINUTE),
        (0, 2**63 - 1, 1, None),
    ],
)
def test_the_completion_is_estimated_from_the_pace_so_far(
    progress: int, total_items: int, processed_items: int, expected: datetime | None
) -> None:
    record = _running(progress=progress, total_items=total_items, processed_items=processed_items)

    assert _estimate(job_message(record)) == expected


@pytest.mark.parametrize("status", ["pending", "cancelling", "completed", "failed", "cancelled"])
def test_only_of_a_job_that_runs_a_completion_is_estimated(status: str) -> None:
    job = job_message(_running(status=status, progress=50))

    assert _estimate(job) is None
    assert job.status == job_pb2.JobStatus.Value(f"JOB_STATUS_{status.upper()}")


ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3, "pattern": "^[a-z]*$"},
        "format": {"enum": ["csv", "xlsx"]},
        "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "address": {"anyOf": [ADDRESS, {"type": "null"}]},
        "either": {"oneOf": [ADDRESS, {"type": "object", "required": ["box"]}]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, []),
        ({"name": "abc", "limit": None, "address": {"street": "a"}, "tags": []}, []),
        ({"limit": 3.0}, []),
        ({"name": 1}, [("input.name", "must be string")]),
        (
            {"name": "ABCD"},
            [("input.name", "is longer than 3 characters"), ("input.name", 'does not match "^[a-z]*$"')],
        ),
        ({"format": "pdf"}, [("input.format", 'must be one of "csv", "xlsx"')]),
        ({"limit": "x"}, [("input.limit", "must be integer or null")]),
        ({"address": 1}, [("input.address", "must be object or null")]),
        ({"address": {}}, [("input.address.street", "is required")]),
        ({"address": {"street": 1}}, [("input.address.street", "must be string")]),
        ({"either": {}}, [("input.either", "needs one of street, box")]),
        ({"either": {"street": 1}}, [("input.either", "matches none of the forms it may have")]),
        (
            {"either": {"street": "a", "box": 1}},
            [("input.either", "has more than one of the forms of which it may have one")],
        ),
        (
            {"tags": ["a", 1, "b", None]},
            [("input.tags[1]", "must be string"), ("input.tags[3]", "must be string")],
        ),
        (
            {"other": 1, 'a "b".c': 2},
            [("input.other", "is not known"), ('input["a \\"b\\".c"]', "is not known")],
        ),
        ([], [("input", "must be object")]),
    ],
)
def test_a_violation_names_its_place_and_what_is_wrong(value: Any, expected: list[tuple[str, str]]) -> None:
    assert sorted(find_violations(compile_schema(SCHEMA), value, root="input")) == sorted(expected)


def test_an_offending_value_is_never_repeated_and_the_list_is_bounded() -> None:
    secret = "s3cret" * 1000
    value = {"name": secret, "tags": [1] * 1000, "format": secret}

    found = find_violations(compile_schema(SCHEMA), value, root="input")

    assert len(found) == 20
    assert not any("s3cret" in description for _, description in found)


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"$ref": "https://schemas.example/a.json"}, {"pattern": "("}]
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is the validator's
        compile_schema(schema)

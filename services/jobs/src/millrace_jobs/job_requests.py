"""From requests to create jobs to jobs that can be written: every rule that a request must keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database.deliveries import DELIVERY_TYPES
from millrace_database.ids import new_id
from millrace_database.job_entries import RESERVED_KEY_PREFIX, UNIQUE_KEY_PREFIX
from millrace_database.job_lifecycle import NewJob
from millrace_jobs.job_option_requests import check_delay, check_options
from millrace_jobs.job_type_catalog import MAX_TYPE_LENGTH, KnownType
from millrace_runtime.identity import Caller, Role
from millrace_runtime.input_schema import find_violations
from millrace_runtime.json_document import JsonDocument, json_document, parse_json_object
from millrace_runtime.validation import Violations

MAX_BATCH_SIZE = 10_000

_MAX_METADATA_BYTES = 16 * 1024
_MAX_REQUEST_ID_LENGTH = 128
_MAX_CREATOR_LENGTH = 256
_MAX_PRIORITY = 100
_MAX_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class JobRules:
    """What requests are checked against.

    Attributes:
        caller: who makes them.
        types: the types they name, as far as these are known.
        max_input_bytes: the largest input, as JSON.

    """

    caller: Caller
    types: Mapping[str, KnownType]
    max_input_bytes: int


def check_job(
    request: jobs_service_pb2.CreateJobRequest, org_id: str, rules: JobRules, violations: Violations
) -> NewJob:
    """Return the job that `request` asks for, with a new id; `org_id` has been checked.

    All that is wrong is added to `violations`; the job is good for nothing then. Raises PermissionDenied when the
    caller may not name another creator, a schedule, or a delivery.
    """
    known = _check_type(request, rules, violations)
    document = _check_input(request, rules, violations)
    _check_against_schema(document, known, violations)
    attempts = violations.check_range("max_attempts", request.max_attempts, 0, _MAX_ATTEMPTS)
    created_by = violations.check_text("created_by", request.created_by, max_length=_MAX_CREATOR_LENGTH)
    run_at = violations.check_timestamp("run_at", request.run_at) if request.HasField("run_at") else None
    _check_delivers(request, rules, violations)
    _check_reserved_keys(request, rules, violations)
    return NewJob(
        job_id=new_id(),
        org_id=org_id,
        type=request.type,
        input_json="{}" if document is None else document.text,
        metadata_json=_check_metadata(request, violations),
        created_by=rules.caller.creator(created_by),
        max_attempts=attempts or (known.max_attempts if known else 1),
        priority=violations.check_range("priority", request.priority, -_MAX_PRIORITY, _MAX_PRIORITY),
        run_at=run_at,
        schedule_id=_check_schedule(request, rules, violations),
        request_id=(
            violations.check_text("request_id", request.request_id, max_length=_MAX_REQUEST_ID_LENGTH) or None
        ),
        delay=check_delay(request, violations),
        options=check_options(request, run_at, rules.types, violations),
    )


def check_item_organisation(
    request: jobs_service_pb2.CreateJobRequest, org_id: str, violations: Violations
) -> None:
    """Check that an item of a batch names no other organisation than the batch does."""
    if request.org_id not in ("", org_id):
        violations.add("org_id", "must be empty or the same as that of the batch")


def _check_type(
    request: jobs_service_pb2.CreateJobRequest, rules: JobRules, violations: Violations
) -> KnownType | None:
    name = violations.check_text("type", request.type, max_length=MAX_TYPE_LENGTH, required=True)
    if name in DELIVERY_TYPES:
        violations.add("type", f"{name!r} is for deliveries, which are made by the system only")
        return None
    known = rules.types.get(name)
    if name and known is None:
        violations.add("type", f"{name!r} is no job type that a worker has published")
    elif known is not None and known.validator is None:
        violations.add("type", "was published with an input schema that cannot be used")
    return known


def _check_input(
    request: jobs_service_pb2.CreateJobRequest, rules: JobRules, violations: Violations
) -> JsonDocument | None:
    field = request.WhichOneof("payload") or "input"
    try:
        if field == "input_json":
            return parse_json_object(request.input_json, max_bytes=rules.max_input_bytes)
        return json_document(request.input, max_bytes=rules.max_input_bytes)
    except ValueError as error:
        violations.add(field, str(error))
        return None


def _check_against_schema(
    document: JsonDocument | None, known: KnownType | None, violations: Violations
) -> None:
    if document is None or known is None or known.validator is None:
        return
    for field, description in find_violations(known.validator, document.value, root="input"):
        violations.add(field, description)


def _check_metadata(request: jobs_service_pb2.CreateJobRequest, violations: Violations) -> str:
    if not request.HasField("metadata"):
        return "{}"
    return violations.check_struct("metadata", request.metadata, max_bytes=_MAX_METADATA_BYTES).text


def _check_schedule(
    request: jobs_service_pb2.CreateJobRequest, rules: JobRules, violations: Violations
) -> UUID | None:
    if not request.schedule_id:
        return None
    rules.caller.require_role(Role.SERVICE)
    return violations.check_id("schedule_id", request.schedule_id, "schedule")


def _check_delivers(
    request: jobs_service_pb2.CreateJobRequest, rules: JobRules, violations: Violations
) -> None:
    if not request.delivers:
        return
    rules.caller.require_role(Role.SERVICE)
    if not request.schedule_id:
        violations.add("delivers", "may only be set together with schedule_id")


def _check_reserved_keys(
    request: jobs_service_pb2.CreateJobRequest, rules: JobRules, violations: Violations
) -> None:
    is_service = Role.SERVICE in rules.caller.roles
    for field, key in (("unique.key", request.unique.key), ("concurrency.key", request.concurrency.key)):
        # Of the keys of unique states not even a service makes one itself.
        if key.startswith(UNIQUE_KEY_PREFIX if is_service else RESERVED_KEY_PREFIX):
            violations.add(field, f"must not begin with {RESERVED_KEY_PREFIX!r}")

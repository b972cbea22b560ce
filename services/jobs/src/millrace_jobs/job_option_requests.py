"""From requests to what jobs ask for beyond the ordinary: every rule that these fields must keep."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeVar

from google.protobuf.duration_pb2 import Duration

from millrace.jobs.v1 import job_options_pb2, jobs_service_pb2
from millrace_database.deliveries import DELIVERY_TYPES
from millrace_database.job_options import (
    Backoff,
    ConcurrencyRule,
    JobOptions,
    RetryRule,
    UniqueConflict,
    UniqueRule,
    UniqueScope,
    UniqueStates,
)
from millrace_jobs.job_option_messages import (
    BACKOFFS,
    KEY_ORDERS,
    UNIQUE_CONFLICTS,
    UNIQUE_SCOPES,
    UNIQUE_STATES,
)
from millrace_jobs.job_type_catalog import MAX_TYPE_LENGTH, KnownType
from millrace_queue import KeyOrder
from millrace_runtime.validation import Violations

_MAX_KEY_LENGTH = 256
_MAX_CONCURRENCY = 1000
_MAX_FACTOR = 10
_NO_TIME_AT_ALL = timedelta(0)
_MAX_DELAY = timedelta(days=3650)
_MAX_TIMEOUT = timedelta(days=7)
_MAX_INITIAL_DELAY = timedelta(days=7)
_MAX_RETRY_DELAY = timedelta(days=30)
_MIN_WINDOW = timedelta(seconds=1)
_MAX_WINDOW = timedelta(days=30)

_OPTIONS: Final = ("deadline", "timeout", "retry_policy", "unique", "concurrency")

_Word = TypeVar("_Word", bound=str)


def check_delay(request: jobs_service_pb2.CreateJobRequest, violations: Violations) -> timedelta | None:
    """Return the delay that a request asks for."""
    if not request.HasField("delay"):
        return None
    if request.HasField("run_at"):
        violations.add("delay", "may not be set together with run_at")
    return violations.check_duration("delay", request.delay, _NO_TIME_AT_ALL, _MAX_DELAY)


def check_options(
    request: jobs_service_pb2.CreateJobRequest,
    run_at: datetime | None,
    known_types: Mapping[str, KnownType],
    violations: Violations,
) -> JobOptions | None:
    """Return what a request asks for beyond the ordinary, None when it is nothing; `run_at` has been checked."""
    is_plain = not (request.dead_letter_type or request.delivers or request.max_attempts)
    if is_plain and not any(request.HasField(field) for field in _OPTIONS):
        return None
    unique = _check_unique(request.unique, violations) if request.HasField("unique") else None
    concurrency = (
        _check_concurrency(request.concurrency, violations) if request.HasField("concurrency") else None
    )
    if unique and concurrency and unique.states in ("running", "each"):
        violations.add(
            "concurrency", "may not be set with these unique.states, which let one job run at once"
        )
    return JobOptions(
        deadline=_check_deadline(request, run_at, violations),
        timeout=_check_timeout(request, violations),
        retry=(
            _check_retry(request.retry_policy, known_types.get(request.type), violations)
            if request.HasField("retry_policy")
            else None
        ),
        dead_letter_type=_check_dead_letter_type(request, known_types, violations),
        unique=unique,
        concurrency=concurrency,
        delivers=request.delivers,
        names_attempts=bool(request.max_attempts),
    )


def _check_deadline(
    request: jobs_service_pb2.CreateJobRequest, run_at: datetime | None, violations: Violations
) -> datetime | None:
    if not request.HasField("deadline"):
        return None
    deadline = violations.check_timestamp("deadline", request.deadline)
    if run_at is not None and deadline <= run_at:
        violations.add("deadline", "must be later than run_at")
    # The delay counts on the database's clock, which this one is near enough to for a check.
    if request.HasField("delay") and deadline <= datetime.now(UTC) + request.delay.ToTimedelta():
        violations.add("deadline", "must be later than the delay ends")
    return deadline


def _check_timeout(request: jobs_service_pb2.CreateJobRequest, violations: Violations) -> timedelta | None:
    if not request.HasField("timeout"):
        return None
    if request.timeout == Duration():
        violations.add("timeout", "must be more than 0 s")
    return violations.check_duration("timeout", request.timeout, _NO_TIME_AT_ALL, _MAX_TIMEOUT)


def _check_retry(
    policy: job_options_pb2.RetryPolicy, known: KnownType | None, violations: Violations
) -> RetryRule:
    backoff: Backoff | None = _word("retry_policy.backoff", policy.backoff, BACKOFFS, violations)
    factor = policy.factor
    if factor and not 1 <= factor <= _MAX_FACTOR:
        violations.add("retry_policy.factor", f"must be 1 to {_MAX_FACTOR}")
    elif factor and backoff in ("fixed", "linear"):
        violations.add("retry_policy.factor", "is only for exponential backoff")
    jitter = policy.jitter if policy.HasField("jitter") else None
    if jitter is not None and not 0 <= jitter <= 1:
        violations.add("retry_policy.jitter", "must be 0 to 1")
    rule = RetryRule(
        backoff=backoff,
        initial_delay=_optional_delay(policy, "initial_delay", _MAX_INITIAL_DELAY, violations),
        max_delay=_optional_delay(policy, "max_delay", _MAX_RETRY_DELAY, violations),
        factor=factor or None,
        jitter=jitter,
    )
    _check_that_the_delay_is_kept(rule, known, violations)
    return rule


def _check_that_the_delay_is_kept(rule: RetryRule, known: KnownType | None, violations: Violations) -> None:
    """Refuse an initial delay that the longest one would cut short, whether that is the job's own or its type's."""
    if rule.initial_delay is None:
        return
    if rule.max_delay is not None:
        if rule.initial_delay > rule.max_delay:
            violations.add("retry_policy.initial_delay", "must not be longer than max_delay")
    elif known and known.max_delay is not None and rule.initial_delay > known.max_delay:
        violations.add(
            "retry_policy.initial_delay",
            f"must not be longer than the max_delay of the type, {known.max_delay.total_seconds():g} s, "
            "unless max_delay is set, too",
        )


def _optional_delay(
    policy: job_options_pb2.RetryPolicy,
    field: Literal["initial_delay", "max_delay"],
    maximum: timedelta,
    violations: Violations,
) -> timedelta | None:
    if not policy.HasField(field):
        return None
    given: Duration = getattr(policy, field)
    return violations.check_duration(f"retry_policy.{field}", given, _NO_TIME_AT_ALL, maximum)


def _check_dead_letter_type(
    request: jobs_service_pb2.CreateJobRequest, known_types: Collection[str], violations: Violations
) -> str | None:
    checked = violations.check_text("dead_letter_type", request.dead_letter_type, max_length=MAX_TYPE_LENGTH)
    if checked and checked == request.type:
        violations.add(
            "dead_letter_type", "must be another type: a dead letter makes no further one of its own type"
        )
    elif checked in DELIVERY_TYPES:
        violations.add(
            "dead_letter_type", f"{checked!r} is for deliveries, which are made by the system only"
        )
    elif checked and checked not in known_types:
        violations.add("dead_letter_type", f"{checked!r} is no job type that a worker has published")
    return checked or None


def _check_unique(asked: job_options_pb2.Uniqueness, violations: Violations) -> UniqueRule:
    key = violations.check_text("unique.key", asked.key, max_length=_MAX_KEY_LENGTH, required=True)
    scope: UniqueScope = (
        _word("unique.scope", asked.scope, UNIQUE_SCOPES, violations) or "organisation_and_type"
    )
    states: UniqueStates | None = _word("unique.states", asked.states, UNIQUE_STATES, violations)
    on_conflict: UniqueConflict = (
        _word("unique.on_conflict", asked.on_conflict, UNIQUE_CONFLICTS, violations) or "reject"
    )
    if asked.HasField("window"):
        window = violations.check_duration("unique.window", asked.window, _MIN_WINDOW, _MAX_WINDOW)
        if states:
            violations.add("unique.states", "may not be set together with window")
        if on_conflict == "replace":
            violations.add("unique.on_conflict", "may not be REPLACE together with window")
        return UniqueRule(key, scope, on_conflict=on_conflict, window=window)
    if states in ("running", "each") and scope != "organisation_and_type":
        violations.add("unique.scope", "must be ORGANISATION_AND_TYPE with these states")
    if states == "running" and on_conflict != "reject":
        violations.add("unique.on_conflict", "may not be set with states RUNNING, as any number may wait")
    return UniqueRule(key, scope, states or "unfinished", on_conflict)


def _check_concurrency(asked: job_options_pb2.Concurrency, violations: Violations) -> ConcurrencyRule:
    key = violations.check_text("concurrency.key", asked.key, max_length=_MAX_KEY_LENGTH, required=True)
    limit = violations.check_range("concurrency.limit", asked.limit, 0, _MAX_CONCURRENCY) or 1
    order: KeyOrder | None = _word("concurrency.order", asked.order, KEY_ORDERS, violations)
    if order and limit > 1:
        violations.add("concurrency.limit", "must be 1 with an order")
    return ConcurrencyRule(key, limit, order)


def _word(field: str, value: int, values: Mapping[_Word, int], violations: Violations) -> _Word | None:
    """Return the database's word for a value of an enum, None when it is unspecified."""
    for word, known in values.items():
        if known == value:
            return word
    if value:
        violations.add(field, "has a value that is not known")
    return None

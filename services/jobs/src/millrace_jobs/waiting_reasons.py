"""Why a job waits, as callers see it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeAlias

from millrace.jobs.v1 import job_pb2, waiting_reason_pb2
from millrace_database.ids import format_id
from millrace_database.job_waiting import MOST_BEFORE, WaitingFacts
from millrace_runtime.struct_json import datetime_to_timestamp

_Reason: TypeAlias = waiting_reason_pb2.WaitingReason


def waiting_reason(facts: WaitingFacts, error: job_pb2.JobError | None = None) -> _Reason:
    """Return the first cause that holds, as a message; `error` is how the latest attempt ended that made the job wait."""
    reason = next(_causes(facts))
    if error is not None and reason.cause == waiting_reason_pb2.WAITING_CAUSE_SCHEDULED:
        reason.message += f" Its latest attempt ended with {error.code}: {_sentence(error.message)}"
    if facts.jobs_before and reason.cause != waiting_reason_pb2.WAITING_CAUSE_IN_LINE:
        reason.message += f" {_come_before(facts.jobs_before)}"
    reason.jobs_before = facts.jobs_before
    return reason


def _causes(facts: WaitingFacts) -> Iterator[_Reason]:
    if facts.scheduled_until is not None:
        yield _until(
            waiting_reason_pb2.WAITING_CAUSE_SCHEDULED, "It is not started before {}.", facts.scheduled_until
        )
    if facts.type_paused:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_TYPE_PAUSED, message="Its type is paused by an operator."
        )
    if facts.organisation_paused:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_ORGANISATION_PAUSED,
            message="Its organisation is paused by an operator.",
        )
    if not facts.has_worker:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_NO_WORKER, message="No live worker runs jobs of its type."
        )
    yield from _limits(facts)
    yield from _key(facts)
    yield _Reason(cause=waiting_reason_pb2.WAITING_CAUSE_IN_LINE, message=_place(facts.jobs_before))


def _limits(facts: WaitingFacts) -> Iterator[_Reason]:
    if facts.type_full:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_TYPE_LIMIT,
            message="As many jobs of its type run as may at once.",
        )
    if facts.organisation_type_full:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_ORGANISATION_TYPE_LIMIT,
            message="As many jobs of its type and organisation run as may at once.",
        )
    if facts.organisation_full:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_ORGANISATION_LIMIT,
            message="As many jobs of its organisation run as may at once.",
        )
    if facts.rate_until is not None:
        yield _until(
            waiting_reason_pb2.WAITING_CAUSE_RATE_LIMIT,
            "As many jobs were started as may; the next start is possible at {}.",
            facts.rate_until,
        )


def _key(facts: WaitingFacts) -> Iterator[_Reason]:
    if facts.blocking_job_id is not None:
        # While a key is blocked it is also full, in a way; what can be done about it is what people need to know.
        blocking = format_id("job", facts.blocking_job_id)
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_KEY_BLOCKED,
            message=f"{blocking} failed and blocks its concurrency key until it is retried or the key is unblocked.",
            blocking_job_id=blocking,
        )
    if facts.key_full:
        yield _Reason(
            cause=waiting_reason_pb2.WAITING_CAUSE_CONCURRENCY_KEY,
            message=f"Others with its {'unique' if facts.key_is_unique else 'concurrency'} key run or come before it.",
        )


def _until(cause: waiting_reason_pb2.WaitingCause.ValueType, sentence: str, time: datetime) -> _Reason:
    moment = time.astimezone(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
    return _Reason(cause=cause, message=sentence.format(moment), until=datetime_to_timestamp(time))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…", ")")) else f"{text}."


def _place(jobs_before: int) -> str:
    return _come_before(jobs_before, " of its type") if jobs_before else "It is the next of its type."


def _come_before(jobs: int, which: str = "") -> str:
    if jobs == 1:
        return f"1 job{which} comes before it."
    return f"{jobs:,}{' or more' if jobs >= MOST_BEFORE else ''} jobs{which} come before it."

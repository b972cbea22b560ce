"""What a job, or a type, asks for beyond the ordinary, as callers see it."""

from millrace.jobs.v1 import job_options_pb2, job_pb2
from millrace_database.job_options import (
    Backoff,
    ConcurrencyRule,
    JobOptions,
    RetentionRule,
    RetryRule,
    UniqueConflict,
    UniqueRule,
    UniqueScope,
    UniqueStates,
)
from millrace_queue import KeyOrder
from millrace_runtime.struct_json import datetime_to_timestamp, timedelta_to_duration

BACKOFFS: dict[Backoff, job_options_pb2.Backoff.ValueType] = {
    "fixed": job_options_pb2.BACKOFF_FIXED,
    "linear": job_options_pb2.BACKOFF_LINEAR,
    "exponential": job_options_pb2.BACKOFF_EXPONENTIAL,
}
UNIQUE_SCOPES: dict[UniqueScope, job_options_pb2.UniqueScope.ValueType] = {
    "organisation_and_type": job_options_pb2.UNIQUE_SCOPE_ORGANISATION_AND_TYPE,
    "organisation": job_options_pb2.UNIQUE_SCOPE_ORGANISATION,
    "type": job_options_pb2.UNIQUE_SCOPE_TYPE,
}
UNIQUE_STATES: dict[UniqueStates, job_options_pb2.UniqueStates.ValueType] = {
    "waiting": job_options_pb2.UNIQUE_STATES_WAITING,
    "running": job_options_pb2.UNIQUE_STATES_RUNNING,
    "unfinished": job_options_pb2.UNIQUE_STATES_UNFINISHED,
    "each": job_options_pb2.UNIQUE_STATES_EACH,
}
UNIQUE_CONFLICTS: dict[UniqueConflict, job_options_pb2.UniqueConflict.ValueType] = {
    "reject": job_options_pb2.UNIQUE_CONFLICT_REJECT,
    "return_existing": job_options_pb2.UNIQUE_CONFLICT_RETURN_EXISTING,
    "replace": job_options_pb2.UNIQUE_CONFLICT_REPLACE,
}
KEY_ORDERS: dict[KeyOrder, job_options_pb2.KeyOrder.ValueType] = {
    "block": job_options_pb2.KEY_ORDER_BLOCK_ON_FAILURE,
    "skip": job_options_pb2.KEY_ORDER_SKIP_FAILED,
}


def add_options(job: job_pb2.Job, options: JobOptions) -> None:
    """Put into a job what its creator asked for."""
    if options.deadline is not None:
        job.deadline.CopyFrom(datetime_to_timestamp(options.deadline))
    if options.timeout is not None:
        job.timeout.CopyFrom(timedelta_to_duration(options.timeout))
    if options.retry is not None:
        job.retry_policy.CopyFrom(retry_policy(options.retry))
    if options.unique is not None:
        job.unique.CopyFrom(_uniqueness(options.unique))
    if options.concurrency is not None:
        job.concurrency.CopyFrom(_concurrency(options.concurrency))
    job.dead_letter_type = options.dead_letter_type or ""


def retry_policy(rule: RetryRule) -> job_options_pb2.RetryPolicy:
    """Return how long to wait between attempts; what the rule leaves open is unset."""
    return job_options_pb2.RetryPolicy(
        backoff=BACKOFFS[rule.backoff] if rule.backoff else job_options_pb2.BACKOFF_UNSPECIFIED,
        initial_delay=None if rule.initial_delay is None else timedelta_to_duration(rule.initial_delay),
        max_delay=None if rule.max_delay is None else timedelta_to_duration(rule.max_delay),
        factor=rule.factor or 0,
        jitter=rule.jitter,
    )


def retention(rule: RetentionRule) -> job_options_pb2.Retention:
    """Return for how long finished jobs are kept; what the rule leaves open is unset."""
    return job_options_pb2.Retention(
        completed=None if rule.completed is None else timedelta_to_duration(rule.completed),
        failed=None if rule.failed is None else timedelta_to_duration(rule.failed),
        cancelled=None if rule.cancelled is None else timedelta_to_duration(rule.cancelled),
    )


def _uniqueness(rule: UniqueRule) -> job_options_pb2.Uniqueness:
    if rule.window is not None:
        return job_options_pb2.Uniqueness(
            key=rule.key,
            scope=UNIQUE_SCOPES[rule.scope],
            on_conflict=UNIQUE_CONFLICTS[rule.on_conflict],
            window=timedelta_to_duration(rule.window),
        )
    return job_options_pb2.Uniqueness(
        key=rule.key,
        scope=UNIQUE_SCOPES[rule.scope],
        states=UNIQUE_STATES[rule.states],
        on_conflict=UNIQUE_CONFLICTS[rule.on_conflict],
    )


def _concurrency(rule: ConcurrencyRule) -> job_options_pb2.Concurrency:
    return job_options_pb2.Concurrency(
        key=rule.key,
        limit=rule.limit,
        order=KEY_ORDERS[rule.order] if rule.order else job_options_pb2.KEY_ORDER_UNSPECIFIED,
    )

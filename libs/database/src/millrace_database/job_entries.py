"""The queue entry of a job: what its options mean to the queue."""

import json
from datetime import datetime
from uuid import UUID

from millrace_database.job_changes import NewJob
from millrace_database.job_options import JobOptions, UniqueRule
from millrace_queue import Concurrency, NewEntry, Throttle, Unique

RESERVED_KEY_PREFIX = "millrace:"
"""Unique and concurrency keys that begin with this are Millrace's own."""
UNIQUE_KEY_PREFIX = f"{RESERVED_KEY_PREFIX}unique:"
"""Concurrency keys that begin with this let one job with a unique key run."""


def job_entry(
    job_id: UUID,
    *,
    org_id: str,
    type_: str,
    max_attempts: int,
    priority: int,
    run_at: datetime | None = None,
    attempt: int = 0,
    options: JobOptions | None,
) -> NewEntry:
    """Return the queue entry of a job; `run_at` None: it is served at once, `options` None: there are none."""
    unique = options.unique if options else None
    return NewEntry(
        id=job_id,
        type=type_,
        tenant=org_id,
        max_attempts=max_attempts,
        priority=priority,
        run_at=run_at,
        attempt=attempt,
        expires_at=options.deadline if options else None,
        concurrency=_concurrency(options) if options else None,
        unique=_unique(unique, org_id, type_) if unique else None,
    )


def new_job_entry(job: NewJob, *, run_at: datetime | None = None, job_id: UUID | None = None) -> NewEntry:
    """Return the queue entry of a new job: `run_at` says its time, with its delay, and `job_id` of which job it is to be."""
    return job_entry(
        job_id or job.job_id,
        org_id=job.org_id,
        type_=job.type,
        max_attempts=job.max_attempts,
        priority=job.priority,
        run_at=run_at,
        options=job.options,
    )


def job_throttle(job: NewJob) -> Throttle | None:
    """Return the throttled key that a job comes with, None when it has none."""
    rule = job.options and job.options.unique
    if not rule or rule.window is None:
        return None
    return Throttle(_scoped_key(rule, job.org_id, job.type), rule.window)


def is_plain(job: NewJob) -> bool:
    """Tell whether the entry of a new job has nothing but what its row has, too: no key and no deadline."""
    options = job.options
    return options is None or not (options.unique or options.concurrency or options.deadline)


def exclusive_place(job: NewJob) -> tuple[str, str] | None:
    """Return the place that no other job may have beside a new one: which place of which key; None: there is none."""
    if job.options is None or job.options.unique is None:
        return None
    if throttle := job_throttle(job):
        return "throttle", throttle.key
    unique = _unique(job.options.unique, job.org_id, job.type)
    if unique is None:
        return None
    return "unfinished" if unique.while_ == "unfinished" else "waiting", unique.key


def _unique(rule: UniqueRule, org_id: str, type_: str) -> Unique | None:
    if rule.window is not None or rule.states == "running":
        return None
    return Unique(_scoped_key(rule, org_id, type_), "each_state" if rule.states == "each" else rule.states)


def _concurrency(options: JobOptions) -> Concurrency | None:
    """Return the caller's concurrency key, or the one that lets only one job with a unique key run."""
    unique = options.unique
    if unique and unique.window is None and unique.states in {"running", "each"}:
        return Concurrency(f"{UNIQUE_KEY_PREFIX}{unique.key}")
    rule = options.concurrency
    return Concurrency(rule.key, rule.limit, rule.order) if rule else None


def _scoped_key(rule: UniqueRule, org_id: str, type_: str) -> str:
    """Return a text that no key of another scope, organisation or type can be: JSON keeps its parts apart."""
    match rule.scope:
        case "organisation_and_type":
            parts = [rule.scope, org_id, type_, rule.key]
        case "organisation":
            parts = [rule.scope, org_id, rule.key]
        case "type":
            parts = [rule.scope, type_, rule.key]
    return json.dumps(parts, ensure_ascii=False)

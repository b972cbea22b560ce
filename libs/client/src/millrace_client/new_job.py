"""What is asked when a job is created, and what became of it in a batch."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.errors import CallError
from millrace_client.job_options import (
    Concurrency,
    RetryPolicy,
    Unique,
    to_concurrency,
    to_retry_policy,
    to_unique,
)
from millrace_client.values import JsonObject, encode_object, to_duration, to_struct, to_timestamp


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is asked when a job is created."""

    type: str
    """The job type, such as "reports:generate"."""
    input: JsonObject = field(default_factory=dict)
    """What the handler gets: a mapping, a dataclass or a pydantic model. At most 1 MiB as JSON."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Labels of your own, at most 16 KiB as JSON."""
    request_id: str | None = None
    """Any text unique to this request within the organisation: a repeated request returns the first
    one's job. None or empty: a fresh one, so that a call can be tried again by itself without doubling the job."""
    run_at: datetime | None = None
    """Not started before this time (with a time zone)."""
    priority: int = 0
    """Higher is served first, -100 to 100."""
    max_attempts: int = 0
    """Attempts before the job fails for good, 1 to 100; 0: the type's own number."""
    created_by: str = ""
    """Who asks for the job; only a service may name another than itself."""
    delay: timedelta | None = None
    """Not started before so much time has passed, by the database's clock; at most 10 years. Not together
    with `run_at`."""
    deadline: datetime | None = None
    """Not started after this time (with a time zone), and later than `run_at`: it fails with DEADLINE_EXCEEDED
    then."""
    attempt_timeout: timedelta | None = None
    """How long one attempt may run, at most 7 days; None: as long as the type says."""
    retry_policy: RetryPolicy | None = None
    """How long it waits between its attempts; None: as the type says."""
    unique: Unique | None = None
    """A key that no other job may have at the same time."""
    concurrency: Concurrency | None = None
    """A key with which only so many jobs of its organisation and type run at once."""
    dead_letter_type: str = ""
    """When it fails for good a job of this type is made of it; empty: as the type says."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one job of a batch."""

    job_id: str
    """The job that was created, or that exists for this request id or unique key; empty when there is an error."""
    already_existed: bool
    error: CallError | None
    """Why this job was refused."""
    replaced: bool = False
    """The job existed, and has been given what was asked for."""


def to_request(job: NewJob, org_id: str = "") -> messages.CreateJobRequest:
    """Turn a new job into the request that creates it.

    TypeError and ValueError for what has no form in which it can be sent.
    """
    return messages.CreateJobRequest(
        org_id=org_id,
        type=job.type,
        input_json=encode_object(job.input),
        metadata=to_struct(job.metadata) if job.metadata else None,
        request_id=job.request_id or secrets.token_hex(16),
        run_at=to_timestamp(job.run_at),
        priority=job.priority,
        max_attempts=job.max_attempts,
        created_by=job.created_by,
        delay=None if job.delay is None else to_duration(job.delay),
        deadline=to_timestamp(job.deadline),
        timeout=None if job.attempt_timeout is None else to_duration(job.attempt_timeout),
        retry_policy=None if job.retry_policy is None else to_retry_policy(job.retry_policy),
        unique=None if job.unique is None else to_unique(job.unique),
        concurrency=None if job.concurrency is None else to_concurrency(job.concurrency),
        dead_letter_type=job.dead_letter_type,
    )

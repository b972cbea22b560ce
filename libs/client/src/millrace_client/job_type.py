"""The types of job there are."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from millrace.jobs.v1 import job_pb2
from millrace_client.job_options import Retention, RetryPolicy, read_retention, read_retry_policy
from millrace_client.limits import JobTypeLimits, read_type_limits
from millrace_client.values import from_struct


@dataclass(frozen=True, slots=True)
class JobType:
    """A kind of job that some worker has published."""

    type: str
    label: str
    description: str
    input_schema: dict[str, Any]
    """JSON Schema of the input."""
    max_attempts: int
    timeout: timedelta
    """How long one attempt may run."""
    concurrency: int
    """How many jobs of this type one worker runs at once."""
    active_workers: int
    """How many live workers run this type now."""
    paused: bool = False
    """None of its jobs is started."""
    limits: JobTypeLimits = field(default_factory=JobTypeLimits)
    """What holds over all workers now: what operators set, otherwise what the handler says."""
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    dead_letter_type: str = ""
    """Jobs that fail for good become input of a job of this type."""
    retention: Retention = field(default_factory=Retention)
    """How long its finished jobs are kept."""


def read_job_type(message: job_pb2.JobType) -> JobType:
    """Turn the contract's message into a JobType."""
    return JobType(
        type=message.type,
        label=message.label,
        description=message.description,
        input_schema=from_struct(message.input_schema),
        max_attempts=message.max_attempts,
        timeout=message.timeout.ToTimedelta(),
        concurrency=message.concurrency,
        active_workers=message.active_workers,
        paused=message.paused,
        limits=read_type_limits(message.limits),
        retry_policy=read_retry_policy(message.retry_policy),
        dead_letter_type=message.dead_letter_type,
        retention=read_retention(message.retention),
    )

"""Which jobs a call is about that changes many, and what it did."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.job import JobStatus, status_value
from millrace_client.values import to_struct, to_timestamp


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: all that is given must match. An empty one means all that the method is for."""

    statuses: Iterable[JobStatus | str] = ()
    """Any of these."""
    types: Iterable[str] = ()
    """Any of these."""
    created_by: str = ""
    created_after: datetime | None = None
    """Created at or after this time (with a time zone)."""
    created_before: datetime | None = None
    """Created before this time (with a time zone)."""
    schedule_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Keys and values that the job's own metadata contains."""
    error_codes: Iterable[str] = ()
    """Any of these, of the job's latest error."""


@dataclass(frozen=True, slots=True)
class CancelledJobs:
    """What `cancel_many` did, or would have done."""

    cancelled: int
    """Jobs that were waiting and are CANCELLED now."""
    cancelling: int
    """Jobs that run and are CANCELLING now."""
    more: bool
    """There may be others that match."""


@dataclass(frozen=True, slots=True)
class RetriedJobs:
    """What `retry_many` did, or would have done."""

    retried: int
    conflicts: int
    """Jobs that stay as they are because another one has their unique key; not known beforehand."""
    more: bool
    """There may be others that match."""


def to_filter(jobs: JobFilter) -> messages.JobFilter:
    """Turn a filter into the contract's message; ValueError for an unknown status or a time without a zone."""
    return messages.JobFilter(
        statuses=[status_value(status) for status in jobs.statuses],
        types=jobs.types,
        created_by=jobs.created_by,
        created_after=to_timestamp(jobs.created_after),
        created_before=to_timestamp(jobs.created_before),
        schedule_id=jobs.schedule_id,
        metadata=to_struct(jobs.metadata) if jobs.metadata else None,
        error_codes=jobs.error_codes,
    )

"""The Worker service: the registry of handlers, and their execution."""

from millrace_database.job_options import RetentionRule as Retention
from millrace_queue import Rate
from millrace_worker.backoff import Backoff
from millrace_worker.context import JobContext, Resources, SyncJobContext
from millrace_worker.errors import (
    DuplicateHandlerError,
    InvalidHandlerError,
    JobCancelled,
    JobError,
    JobSnoozed,
)
from millrace_worker.registry import Registry, job_handler, system_schedule
from millrace_worker.system_context import SystemContext

__all__ = [
    "Backoff",
    "DuplicateHandlerError",
    "InvalidHandlerError",
    "JobCancelled",
    "JobContext",
    "JobError",
    "JobSnoozed",
    "Rate",
    "Registry",
    "Resources",
    "Retention",
    "SyncJobContext",
    "SystemContext",
    "job_handler",
    "system_schedule",
]

"""The Worker service: the registry of handlers, and their execution."""

from millrace_worker.backoff import Backoff
from millrace_worker.context import JobContext, Resources, SyncJobContext
from millrace_worker.errors import DuplicateHandlerError, InvalidHandlerError, JobCancelled, JobError
from millrace_worker.registry import Registry, job_handler

__all__ = [
    "Backoff",
    "DuplicateHandlerError",
    "InvalidHandlerError",
    "JobCancelled",
    "JobContext",
    "JobError",
    "Registry",
    "Resources",
    "SyncJobContext",
    "job_handler",
]

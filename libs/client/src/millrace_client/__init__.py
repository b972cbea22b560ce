"""The Python SDK and the millrace command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millrace_client.client import Millrace, Organisation
    from millrace_client.errors import (
        AbortedError,
        AlreadyExistsError,
        CallError,
        ContentMismatchError,
        DataLossError,
        DeadlineExceededError,
        FailedPreconditionError,
        FieldViolation,
        InternalError,
        InvalidArgumentError,
        MillraceError,
        NotFoundError,
        PermissionDeniedError,
        Resource,
        ResourceExhaustedError,
        UnauthenticatedError,
        UnavailableError,
    )
    from millrace_client.file import File
    from millrace_client.job import (
        BatchResult,
        Job,
        JobCancelledError,
        JobError,
        JobFailedError,
        JobStatus,
        JobType,
        NewJob,
    )
    from millrace_client.recurrence import Cron, Daily, Every, Monthly, Once, Recurrence, Weekday, Weekly
    from millrace_client.schedule import Schedule
    from millrace_client.worker import Worker, WorkerState

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "BatchResult",
    "CallError",
    "ContentMismatchError",
    "Cron",
    "Daily",
    "DataLossError",
    "DeadlineExceededError",
    "Every",
    "FailedPreconditionError",
    "FieldViolation",
    "File",
    "InternalError",
    "InvalidArgumentError",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobStatus",
    "JobType",
    "Millrace",
    "MillraceError",
    "Monthly",
    "NewJob",
    "NotFoundError",
    "Once",
    "Organisation",
    "PermissionDeniedError",
    "Recurrence",
    "Resource",
    "ResourceExhaustedError",
    "Schedule",
    "UnauthenticatedError",
    "UnavailableError",
    "Weekday",
    "Weekly",
    "Worker",
    "WorkerState",
]

_MODULES = ("client", "errors", "file", "job", "recurrence", "schedule", "worker")

if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> Any:
        """Load the SDK when it is first used, so that the command shows its help without it."""
        if name in __all__:
            for module in _MODULES:
                members = vars(import_module(f"{__name__}.{module}"))
                if name in members:
                    return members[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

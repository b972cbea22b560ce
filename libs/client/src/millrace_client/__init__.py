"""The Python SDK and the millrace command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millrace_client.client import Millrace, Organisation
    from millrace_client.delivery import (
        Delivery,
        DeliveryMethod,
        DownloadDelivery,
        EmailDelivery,
        StorageDelivery,
        WebhookDelivery,
    )
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
        Quota,
        Resource,
        ResourceExhaustedError,
        TransferError,
        UnauthenticatedError,
        UnavailableError,
    )
    from millrace_client.file import (
        DownloadUrl,
        File,
        FileLimitChanges,
        FileLimits,
        FileState,
        FileUsage,
    )
    from millrace_client.file_upload import Upload
    from millrace_client.job import Job, JobCancelledError, JobFailedError, JobStatus
    from millrace_client.job_attempt import AttemptCounts, AttemptOutcome, JobAttempt
    from millrace_client.job_error import JobError
    from millrace_client.job_filter import CancelledJobs, JobFilter, RetriedJobs
    from millrace_client.job_options import (
        Backoff,
        Concurrency,
        KeyOrder,
        Retention,
        RetryPolicy,
        Unique,
        UniqueConflict,
        UniqueScope,
        UniqueStates,
    )
    from millrace_client.job_type import JobType
    from millrace_client.limits import JobTypeLimits, OrganisationLimits, OrganisationSettings, RateLimit
    from millrace_client.new_job import BatchResult, NewJob
    from millrace_client.queue_health import OldestTransaction, QueueDepth, QueueHealth, TableHealth
    from millrace_client.recurrence import (
        Cron,
        Daily,
        Every,
        Frequency,
        LastDay,
        Monthly,
        NthWeekday,
        Once,
        Recurrence,
        Weekday,
        Weekly,
    )
    from millrace_client.schedule import Schedule
    from millrace_client.schedule_policies import CatchUpPolicy, OverlapPolicy
    from millrace_client.schedule_run import Backfill, RunCause, RunOutcome, ScheduleRun
    from millrace_client.schedule_timing import ScheduleTiming
    from millrace_client.schedule_update import ScheduleChanges
    from millrace_client.subscription import Subscription, SubscriptionState
    from millrace_client.subscription_update import SubscriptionChanges
    from millrace_client.system_schedule import SystemSchedule
    from millrace_client.waiting_reason import WaitingCause, WaitingReason
    from millrace_client.worker import Worker, WorkerState

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AttemptCounts",
    "AttemptOutcome",
    "Backfill",
    "Backoff",
    "BatchResult",
    "CallError",
    "CancelledJobs",
    "CatchUpPolicy",
    "Concurrency",
    "ContentMismatchError",
    "Cron",
    "Daily",
    "DataLossError",
    "DeadlineExceededError",
    "Delivery",
    "DeliveryMethod",
    "DownloadDelivery",
    "DownloadUrl",
    "EmailDelivery",
    "Every",
    "FailedPreconditionError",
    "FieldViolation",
    "File",
    "FileLimitChanges",
    "FileLimits",
    "FileState",
    "FileUsage",
    "Frequency",
    "InternalError",
    "InvalidArgumentError",
    "Job",
    "JobAttempt",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobFilter",
    "JobStatus",
    "JobType",
    "JobTypeLimits",
    "KeyOrder",
    "LastDay",
    "Millrace",
    "MillraceError",
    "Monthly",
    "NewJob",
    "NotFoundError",
    "NthWeekday",
    "OldestTransaction",
    "Once",
    "Organisation",
    "OrganisationLimits",
    "OrganisationSettings",
    "OverlapPolicy",
    "PermissionDeniedError",
    "QueueDepth",
    "QueueHealth",
    "Quota",
    "RateLimit",
    "Recurrence",
    "Resource",
    "ResourceExhaustedError",
    "Retention",
    "RetriedJobs",
    "RetryPolicy",
    "RunCause",
    "RunOutcome",
    "Schedule",
    "ScheduleChanges",
    "ScheduleRun",
    "ScheduleTiming",
    "StorageDelivery",
    "Subscription",
    "SubscriptionChanges",
    "SubscriptionState",
    "SystemSchedule",
    "TableHealth",
    "TransferError",
    "UnauthenticatedError",
    "UnavailableError",
    "Unique",
    "UniqueConflict",
    "UniqueScope",
    "UniqueStates",
    "Upload",
    "WaitingCause",
    "WaitingReason",
    "WebhookDelivery",
    "Weekday",
    "Weekly",
    "Worker",
    "WorkerState",
]

_MODULES = (
    "client",
    "delivery",
    "errors",
    "file",
    "file_upload",
    "job",
    "job_attempt",
    "job_error",
    "job_filter",
    "job_options",
    "job_type",
    "limits",
    "new_job",
    "queue_health",
    "recurrence",
    "schedule",
    "schedule_policies",
    "schedule_run",
    "schedule_timing",
    "schedule_update",
    "subscription",
    "subscription_update",
    "system_schedule",
    "waiting_reason",
    "worker",
)

if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> Any:
        """Load the SDK when it is first used, so that the command shows its help without it."""
        if name in __all__:
            for module in _MODULES:
                members = vars(import_module(f"{__name__}.{module}"))
                if name in members:
                    return members[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""One gRPC channel: how it connects, keeps alive, balances, and tries again by itself."""

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

import grpc

# Only calls that may be repeated without harm. The creating ones are among them because this SDK always
# sends a request id; RetryJob, RetryJobs, UpdateSchedule, DeleteSchedule, UpdateSubscription,
# DeleteSubscription, RotateSubscriptionSecret, TestSubscription, RunSystemSchedule, UploadFile and InitiateUpload are not.
_RETRIED = {
    "millrace.jobs.v1.JobsService": [
        "CreateJob",
        "BatchCreateJobs",
        "GetJob",
        "ListJobs",
        "CancelJob",
        "DownloadJobOutput",
        "ListJobAttempts",
        "CancelJobs",
        "UnblockConcurrencyKey",
        "ListJobTypes",
        "GetJobType",
        "PauseJobType",
        "ResumeJobType",
        "UpdateJobTypeLimits",
        "GetOrganisation",
        "PauseOrganisation",
        "ResumeOrganisation",
        "UpdateOrganisationLimits",
        "GetQueueHealth",
    ],
    "millrace.jobs.v1.SubscriptionsService": [
        "CreateSubscription",
        "GetSubscription",
        "ListSubscriptions",
        "PauseSubscription",
        "ResumeSubscription",
    ],
    "millrace.files.v1.FilesService": [
        "ConfirmUpload",
        "CancelUpload",
        "ListUploads",
        "DownloadFile",
        "GetFile",
        "GetDownloadUrl",
        "PersistFile",
        "DeleteFile",
        "UndeleteFile",
        "GetFileUsage",
        "UpdateFileLimits",
        "ListFiles",
    ],
    "millrace.scheduler.v1.SchedulerService": [
        "CreateSchedule",
        "GetSchedule",
        "ListSchedules",
        "PauseSchedule",
        "ResumeSchedule",
        "RunSchedule",
        "ListScheduleRuns",
        "PreviewSchedule",
        "BackfillSchedule",
        "ListSystemSchedules",
    ],
    "millrace.worker.v1.WorkerService": ["ListWorkers"],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _RETRIED.items()
                for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # gRPC gives up repeating a request that it has not kept; the default would drop any batch.
    ("grpc.per_rpc_retry_buffer_size", 8 * 1024 * 1024),
    # A page of jobs may be large; what may be sent is the server's to say.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A watch may be silent for long; without pings a peer that vanished would never be noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """Make a channel, which connects when it is first used. Without credentials it is not encrypted."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_options(address))
    return grpc.aio.secure_channel(address, credentials, options=_options(address))


def _options(address: str) -> Sequence[tuple[str, Any]]:
    # gRPC obeys http_proxy even for this machine's own addresses, which no proxy can reach.
    return (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if _is_loopback(address) else _OPTIONS


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or an address in a form of gRPC's own
        return False

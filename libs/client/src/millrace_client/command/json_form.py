"""What the SDK returns as JSON: the names and forms of the contracts' JSON mapping, as grpcurl prints them.

64-bit integers are numbers here, and fields that are zero or empty are written too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from millrace_client.delivery import DownloadDelivery, EmailDelivery, StorageDelivery, WebhookDelivery
from millrace_client.file import FileState
from millrace_client.job import JobStatus
from millrace_client.job_attempt import AttemptOutcome
from millrace_client.job_options import Backoff, KeyOrder, UniqueConflict, UniqueScope, UniqueStates
from millrace_client.recurrence import Cron, Daily, Every, LastDay, Monthly, Once, Weekly
from millrace_client.schedule_policies import CatchUpPolicy, OverlapPolicy
from millrace_client.schedule_run import RunCause, RunOutcome
from millrace_client.subscription import SubscriptionState
from millrace_client.values import to_duration
from millrace_client.waiting_reason import WaitingCause
from millrace_client.worker import WorkerState

_ENUM_PREFIXES: Mapping[type, str] = {
    AttemptOutcome: "ATTEMPT_OUTCOME_",
    Backoff: "BACKOFF_",
    CatchUpPolicy: "CATCH_UP_POLICY_",
    FileState: "FILE_STATE_",
    JobStatus: "JOB_STATUS_",
    KeyOrder: "KEY_ORDER_",
    OverlapPolicy: "OVERLAP_POLICY_",
    RunCause: "RUN_CAUSE_",
    RunOutcome: "RUN_OUTCOME_",
    SubscriptionState: "SUBSCRIPTION_STATE_",
    UniqueConflict: "UNIQUE_CONFLICT_",
    UniqueScope: "UNIQUE_SCOPE_",
    UniqueStates: "UNIQUE_STATES_",
    WaitingCause: "WAITING_CAUSE_",
    WorkerState: "WORKER_STATE_",
}
_UNKNOWN = "UNSPECIFIED"
_FREQUENCIES: Mapping[type, str] = {
    Once: "once",
    Daily: "daily",
    Weekly: "weekly",
    Monthly: "monthly",
    Every: "interval",
    Cron: "cron",
}
_DELIVERIES: Mapping[type, str] = {
    DownloadDelivery: "download",
    WebhookDelivery: "webhook",
    EmailDelivery: "email",
    StorageDelivery: "storage",
}
_FIELD_NAMES = {(Every, "interval"): "every"}


def _contract_name(member: Enum) -> str:
    name = member.value if member.value != "UNKNOWN" else _UNKNOWN
    return f"{_ENUM_PREFIXES[type(member)]}{name}"


def json_form(result: Any, *, enum_name: Callable[[Enum], str] = _contract_name) -> dict[str, Any]:
    """Turn a dataclass of the SDK into JSON values; what is None is left out.

    `enum_name` names members of enums that the contracts have; without it they have the contracts' names.
    """
    kind = type(result)
    fields = {
        _camel_case(_FIELD_NAMES.get((kind, field.name), field.name)): json_value(
            getattr(result, field.name), enum_name=enum_name
        )
        for field in dataclasses.fields(result)
        if getattr(result, field.name) is not None
    }
    if isinstance(result, Monthly) and not isinstance(result.day, int):  # the contract has a field for each
        day = fields.pop("day")
        fields |= {"lastDay": True} if isinstance(result.day, LastDay) else {"weekday": day}
    if kind in _FREQUENCIES:
        return {_FREQUENCIES[kind]: fields}
    if kind in _DELIVERIES:
        on_failure = fields.pop("onFailure")
        return {_DELIVERIES[kind]: fields, "onFailure": on_failure}
    return fields


def json_value(value: Any, *, enum_name: Callable[[Enum], str] = _contract_name) -> Any:
    """Turn a value of a field of the SDK's dataclasses into its JSON form; `enum_name` is as of `json_form`."""
    if type(value) in _ENUM_PREFIXES:
        return enum_name(value)
    if isinstance(value, datetime):
        return _timestamp(value)
    if isinstance(value, timedelta):
        return to_duration(value).ToJsonString()
    if isinstance(value, tuple):
        return [json_value(item, enum_name=enum_name) for item in value]
    if dataclasses.is_dataclass(value):
        return json_form(value, enum_name=enum_name)
    return value


def _timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with no digits, three or six after the second, as the Protobuf mapping has it."""
    precision = (
        "seconds" if not moment.microsecond else "milliseconds" if not moment.microsecond % 1000 else "auto"
    )
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)

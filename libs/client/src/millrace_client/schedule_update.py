"""What is changed of a schedule."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict

from google.protobuf.field_mask_pb2 import FieldMask

from millrace.scheduler.v1 import schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.delivery import Delivery, to_delivery
from millrace_client.recurrence import Recurrence, to_recurrence
from millrace_client.schedule_policies import CatchUpPolicy, OverlapPolicy, catch_up_value, overlap_value
from millrace_client.values import JsonObject, to_duration, to_struct, to_timestamp


class ScheduleChanges(TypedDict, total=False):
    """What may be changed of a schedule; what is left out stays as it is. None unsets."""

    name: str
    job_type: str
    job_input: JsonObject | None
    metadata: Mapping[str, Any] | None
    recurrence: Recurrence
    time_zone: str
    """Empty: UTC."""
    start_at: datetime | None
    end_at: datetime | None
    jitter: timedelta | None
    overlap_policy: OverlapPolicy | str | None
    catch_up_policy: CatchUpPolicy | str | None
    catch_up_window: timedelta | None
    """RUN_ALL needs one, and no other policy has one."""
    max_runs: int
    """0: without end."""
    pause_after_failed_runs: int
    """0: never."""
    delivery: Delivery | None
    """None: nothing is done with results. A webhook without a secret keeps that of the same URL."""


def to_update(
    org_id: str, schedule_id: str, version: int | None, changes: Mapping[str, Any]
) -> messages.UpdateScheduleRequest:
    """Turn changes into the contract's message: their names are its mask.

    TypeError for a name that ScheduleChanges does not have; ValueError for a value that cannot be sent.
    """
    for name in changes:
        if name not in _FIELDS:
            raise TypeError(f'a schedule has no "{name}" that could be changed')
    fields = {
        path: write(changes[name]) for name, (path, write) in _FIELDS.items() if changes.get(name) is not None
    }
    return messages.UpdateScheduleRequest(
        schedule=schedule_pb2.Schedule(
            org_id=org_id, schedule_id=schedule_id, version=version or 0, **fields
        ),
        update_mask=FieldMask(paths=[_FIELDS[name][0] for name in changes]),
    )


def _same(value: Any) -> Any:
    return value


_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _same),
    "job_type": ("type", _same),
    "job_input": ("input", to_struct),
    "metadata": ("metadata", to_struct),
    "recurrence": ("recurrence", to_recurrence),
    "time_zone": ("time_zone", _same),
    "start_at": ("start_at", to_timestamp),
    "end_at": ("end_at", to_timestamp),
    "jitter": ("jitter", to_duration),
    "overlap_policy": ("overlap_policy", overlap_value),
    "catch_up_policy": ("catch_up_policy", catch_up_value),
    "catch_up_window": ("catch_up_window", to_duration),
    "max_runs": ("max_runs", _same),
    "pause_after_failed_runs": ("pause_after_failed_runs", _same),
    "delivery": ("delivery", to_delivery),
}
"""The contract's name of each, and what turns it into the contract's value."""

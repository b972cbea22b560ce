"""What becomes of a schedule's times when things do not go as planned."""

from enum import StrEnum

from millrace.scheduler.v1 import schedule_pb2
from millrace_client.contract_enum import ContractEnum


class OverlapPolicy(StrEnum):
    """What becomes of a time at which the job of an earlier one is not finished yet."""

    ALLOW = "ALLOW"
    """Its job is created all the same."""
    SKIP = "SKIP"
    """It is skipped."""
    BUFFER_ONE = "BUFFER_ONE"
    """Its job waits for the end of the running one; it is skipped when one waits already."""
    CANCEL_RUNNING = "CANCEL_RUNNING"
    """The unfinished job is cancelled, and its own starts as soon as that one has stopped."""
    UNKNOWN = "UNKNOWN"
    """A policy that this version of the SDK does not know."""


class CatchUpPolicy(StrEnum):
    """What becomes of times at which no scheduler ran."""

    RUN_ONCE = "RUN_ONCE"
    """The earliest missed time is fired, late, and the others are not."""
    RUN_ALL = "RUN_ALL"
    """All missed times within the catch-up window are fired in their order, the latest 1,000 at most."""
    SKIP = "SKIP"
    """A time that is more than a minute late is not fired."""
    UNKNOWN = "UNKNOWN"
    """A policy that this version of the SDK does not know."""


_OVERLAPS = ContractEnum(OverlapPolicy, schedule_pb2.OverlapPolicy.items(), "OVERLAP_POLICY_")
_CATCH_UPS = ContractEnum(CatchUpPolicy, schedule_pb2.CatchUpPolicy.items(), "CATCH_UP_POLICY_")


def overlap_value(policy: OverlapPolicy | str | None) -> schedule_pb2.OverlapPolicy.ValueType:
    """Return the contract's value, the unspecified one for None; ValueError for an unknown policy."""
    value: schedule_pb2.OverlapPolicy.ValueType = _OVERLAPS.value(policy)
    return value


def read_overlap(value: int) -> OverlapPolicy:
    """Turn the contract's value into an OverlapPolicy; ALLOW for the unspecified one."""
    return _OVERLAPS.read_optional(value) or OverlapPolicy.ALLOW


def catch_up_value(policy: CatchUpPolicy | str | None) -> schedule_pb2.CatchUpPolicy.ValueType:
    """Return the contract's value, the unspecified one for None; ValueError for an unknown policy."""
    value: schedule_pb2.CatchUpPolicy.ValueType = _CATCH_UPS.value(policy)
    return value


def read_catch_up(value: int) -> CatchUpPolicy:
    """Turn the contract's value into a CatchUpPolicy; RUN_ONCE for the unspecified one."""
    return _CATCH_UPS.read_optional(value) or CatchUpPolicy.RUN_ONCE

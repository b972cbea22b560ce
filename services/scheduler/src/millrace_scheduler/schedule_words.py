"""The words that the database has for what is an enum in the contract."""

from collections.abc import Sequence

from millrace.jobs.v1 import job_pb2
from millrace.scheduler.v1 import schedule_pb2, schedule_run_pb2, scheduler_service_pb2


def overlap_policy_word(value: int) -> str | None:
    """Return the word for an overlap policy, None when it is unknown; unspecified means "allow"."""
    return _word(
        schedule_pb2.OverlapPolicy.items(), "OVERLAP_POLICY_", value or schedule_pb2.OVERLAP_POLICY_ALLOW
    )


def overlap_policy(word: str) -> schedule_pb2.OverlapPolicy.ValueType:
    """Return the overlap policy for a word. Raises ValueError when there is none."""
    return schedule_pb2.OverlapPolicy.Value(f"OVERLAP_POLICY_{word.upper()}")


def catch_up_policy_word(value: int) -> str | None:
    """Return the word for a catch-up policy, None when it is unknown; unspecified means "run_once"."""
    return _word(
        schedule_pb2.CatchUpPolicy.items(), "CATCH_UP_POLICY_", value or schedule_pb2.CATCH_UP_POLICY_RUN_ONCE
    )


def catch_up_policy(word: str) -> schedule_pb2.CatchUpPolicy.ValueType:
    """Return the catch-up policy for a word. Raises ValueError when there is none."""
    return schedule_pb2.CatchUpPolicy.Value(f"CATCH_UP_POLICY_{word.upper()}")


def frequency_word(value: int) -> str | None:
    """Return the name of a frequency's field, None when it is unknown."""
    return _word(scheduler_service_pb2.Frequency.items(), "FREQUENCY_", value)


def delivery_word(value: int) -> str | None:
    """Return the name of a delivery's field, or "none"; None when it is unknown."""
    return _word(scheduler_service_pb2.DeliveryMethod.items(), "DELIVERY_METHOD_", value)


def run_cause(word: str) -> schedule_run_pb2.RunCause.ValueType:
    """Return the cause for a word. Raises ValueError when there is none."""
    return schedule_run_pb2.RunCause.Value(f"RUN_CAUSE_{word.upper()}")


def run_outcome(word: str) -> schedule_run_pb2.RunOutcome.ValueType:
    """Return the outcome for a word. Raises ValueError when there is none."""
    return schedule_run_pb2.RunOutcome.Value(f"RUN_OUTCOME_{word.upper()}")


def job_status(word: str | None) -> job_pb2.JobStatus.ValueType:
    """Return a job's status for a word; unspecified for None. Raises ValueError when there is none."""
    return job_pb2.JobStatus.Value(f"JOB_STATUS_{(word or 'unspecified').upper()}")


def _word(names: Sequence[tuple[str, int]], prefix: str, value: int) -> str | None:
    return next((name.removeprefix(prefix).lower() for name, number in names if number == value), None)

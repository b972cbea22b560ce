"""Which options a job type can have."""

from datetime import timedelta

from millrace_database.job_options import RetentionRule, TypeLimits, TypeOptions
from millrace_queue import Rate
from millrace_runtime.job_type_names import TYPE_NAME_FORM, is_type_name

MAX_RUNNING = 2**31 - 1
_MAX_RATE_COUNT = 1_000_000
_LEAST_RATE_PERIOD = timedelta(milliseconds=1)
_LONGEST_RATE_PERIOD = timedelta(days=30)
_LEAST_RETENTION = timedelta(days=1)
_LONGEST_RETENTION = timedelta(days=36_500)


def find_fault(type_name: str, options: TypeOptions) -> str | None:
    """Return what is wrong with the options of a type, as the rest of a sentence; None: nothing."""
    dead_letter = options.dead_letter_type
    if dead_letter is not None and not is_type_name(dead_letter):
        return f"dead_letter is a job type, {TYPE_NAME_FORM}"
    if dead_letter == type_name:
        return "dead_letter is another type"
    return _fault_of_limits(options.limits) or _fault_of_retention(options.retention)


def _fault_of_limits(limits: TypeLimits) -> str | None:
    numbers = {
        "max_running": limits.max_running,
        "max_running_per_organisation": limits.max_running_per_organisation,
    }
    for name, number in numbers.items():
        if number is not None and not 1 <= number <= MAX_RUNNING:
            return f"{name} is from 1 to {MAX_RUNNING:,}"
    rates = {"rate": limits.rate, "rate_per_organisation": limits.rate_per_organisation}
    for name, rate in rates.items():
        if rate is not None and not _is_possible(rate):
            return f"{name} is 1 to {_MAX_RATE_COUNT:,} starts in 1 ms to 30 days"
    return None


def _is_possible(rate: Rate) -> bool:
    return 1 <= rate.count <= _MAX_RATE_COUNT and _LEAST_RATE_PERIOD <= rate.period <= _LONGEST_RATE_PERIOD


def _fault_of_retention(rule: RetentionRule) -> str | None:
    for time in (rule.completed, rule.failed, rule.cancelled):
        if time is not None and not _LEAST_RETENTION <= time <= _LONGEST_RETENTION:
            return "retention is 1 to 36,500 days"
    return None

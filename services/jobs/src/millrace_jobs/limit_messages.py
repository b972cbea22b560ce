"""Limits that hold over all workers: what callers ask for, and what they see."""

from datetime import timedelta

from millrace.jobs.v1 import limits_pb2
from millrace_database.job_options import TypeLimits
from millrace_queue import Rate, Tenant
from millrace_runtime.struct_json import timedelta_to_duration
from millrace_runtime.validation import Violations

_MOST_RUNNING = 2**31 - 1
_MOST_STARTS = 1_000_000
_SHORTEST_PERIOD = timedelta(milliseconds=1)
_LONGEST_PERIOD = timedelta(days=30)
_HIGHEST_WEIGHT = 100


def check_type_limits(limits: limits_pb2.JobTypeLimits, violations: Violations) -> TypeLimits:
    """Return limits of a type. All that is wrong is added to `violations`; they are good for nothing then."""
    return TypeLimits(
        max_running=(
            violations.check_range("limits.max_running", limits.max_running, 0, _MOST_RUNNING)
            if limits.HasField("max_running")
            else None
        ),
        max_running_per_organisation=(
            violations.check_range(
                "limits.max_running_per_organisation",
                limits.max_running_per_organisation,
                0,
                _MOST_RUNNING,
            )
            if limits.HasField("max_running_per_organisation")
            else None
        ),
        rate=_check_rate("limits.rate", limits.rate, violations) if limits.HasField("rate") else None,
        rate_per_organisation=(
            _check_rate("limits.rate_per_organisation", limits.rate_per_organisation, violations)
            if limits.HasField("rate_per_organisation")
            else None
        ),
    )


def check_organisation_limits(limits: limits_pb2.OrganisationLimits, violations: Violations) -> Tenant:
    """Return limits of an organisation. All that is wrong is added to `violations`, as for those of a type."""
    return Tenant(
        weight=violations.check_range("limits.weight", limits.weight, 0, _HIGHEST_WEIGHT) or 1,
        max_running=violations.check_range("limits.max_running", limits.max_running, 0, _MOST_RUNNING)
        or None,
        rate=_check_rate("limits.rate", limits.rate, violations) if limits.rate.count else None,
    )


def type_limits_message(limits: TypeLimits) -> limits_pb2.JobTypeLimits:
    """Return limits of a type as callers see them."""
    return limits_pb2.JobTypeLimits(
        max_running=limits.max_running,
        max_running_per_organisation=limits.max_running_per_organisation,
        rate=_rate(limits.rate),
        rate_per_organisation=_rate(limits.rate_per_organisation),
    )


def organisation_message(org_id: str, tenant: Tenant) -> limits_pb2.Organisation:
    """Return an organisation as callers see it."""
    return limits_pb2.Organisation(
        org_id=org_id,
        paused=tenant.paused,
        limits=limits_pb2.OrganisationLimits(
            weight=tenant.weight,
            max_running=tenant.max_running or 0,
            rate=_rate(tenant.rate),
        ),
    )


def _check_rate(field: str, rate: limits_pb2.RateLimit, violations: Violations) -> Rate:
    count = violations.check_range(f"{field}.count", rate.count, 0, _MOST_STARTS)
    if not count:
        return Rate(0, _SHORTEST_PERIOD)
    period = violations.check_duration(f"{field}.period", rate.period, _SHORTEST_PERIOD, _LONGEST_PERIOD)
    return Rate(count, period, rate.smooth)


def _rate(rate: Rate | None) -> limits_pb2.RateLimit | None:
    if rate is None:
        return None
    return limits_pb2.RateLimit(
        count=rate.count, period=timedelta_to_duration(rate.period), smooth=rate.smooth
    )

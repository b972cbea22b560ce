"""Limits that hold over all workers."""

from dataclasses import dataclass
from datetime import timedelta

from millrace.jobs.v1 import limits_pb2
from millrace_client.values import to_duration


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many starts in so much time."""

    count: int
    """1 to 1,000,000; 0: any number."""
    period: timedelta = timedelta(seconds=1)
    """1 ms to 30 days."""
    smooth: bool = False
    """Starts are spread evenly over the period. Otherwise up to `count` may start at once; in no interval as
    long as `period` are there more."""


@dataclass(frozen=True, slots=True)
class JobTypeLimits:
    """What holds for the jobs of a type. None, to be set: as its handler says; as an answer: no limit."""

    max_running: int | None = None
    """How many run at once; 0: any number."""
    max_running_per_organisation: int | None = None
    """How many of one organisation run at once; 0: any number."""
    rate: RateLimit | None = None
    """How many start; a count of 0: any number."""
    rate_per_organisation: RateLimit | None = None
    """How many of one organisation start; a count of 0: any number."""


@dataclass(frozen=True, slots=True)
class OrganisationLimits:
    """What holds for the jobs of an organisation, of all types together."""

    weight: int = 1
    """Its share when others wait, too: 2 is twice that of 1. 1 to 100."""
    max_running: int = 0
    """How many run at once; 0: any number."""
    rate: RateLimit | None = None
    """How many start; None, or a count of 0: any number."""


@dataclass(frozen=True, slots=True)
class OrganisationSettings:
    """An organisation, as the queue sees it."""

    org_id: str
    paused: bool
    """None of its jobs is started."""
    limits: OrganisationLimits


def to_type_limits(limits: JobTypeLimits) -> limits_pb2.JobTypeLimits:
    """Turn limits of a type into the contract's message."""
    return limits_pb2.JobTypeLimits(
        max_running=limits.max_running,
        max_running_per_organisation=limits.max_running_per_organisation,
        rate=_to_rate(limits.rate),
        rate_per_organisation=_to_rate(limits.rate_per_organisation),
    )


def read_type_limits(message: limits_pb2.JobTypeLimits) -> JobTypeLimits:
    """Turn the contract's message into a JobTypeLimits."""
    per_organisation = message.HasField("max_running_per_organisation")
    return JobTypeLimits(
        max_running=message.max_running if message.HasField("max_running") else None,
        max_running_per_organisation=message.max_running_per_organisation if per_organisation else None,
        rate=_read_rate(message.rate) if message.HasField("rate") else None,
        rate_per_organisation=(
            _read_rate(message.rate_per_organisation) if message.HasField("rate_per_organisation") else None
        ),
    )


def to_organisation_limits(limits: OrganisationLimits) -> limits_pb2.OrganisationLimits:
    """Turn limits of an organisation into the contract's message."""
    return limits_pb2.OrganisationLimits(
        weight=limits.weight, max_running=limits.max_running, rate=_to_rate(limits.rate)
    )


def read_organisation(message: limits_pb2.Organisation) -> OrganisationSettings:
    """Turn the contract's message into an OrganisationSettings."""
    limits = message.limits
    return OrganisationSettings(
        org_id=message.org_id,
        paused=message.paused,
        limits=OrganisationLimits(
            weight=limits.weight or 1,
            max_running=limits.max_running,
            rate=_read_rate(limits.rate) if limits.HasField("rate") else None,
        ),
    )


def _to_rate(rate: RateLimit | None) -> limits_pb2.RateLimit | None:
    if rate is None:
        return None
    return limits_pb2.RateLimit(count=rate.count, period=to_duration(rate.period), smooth=rate.smooth)


def _read_rate(message: limits_pb2.RateLimit) -> RateLimit:
    return RateLimit(count=message.count, period=message.period.ToTimedelta(), smooth=message.smooth)

"""Limits as people read them."""

from millrace_client.limits import JobTypeLimits, OrganisationLimits, RateLimit


def limit_text(limits: JobTypeLimits | OrganisationLimits) -> str:
    """Name the limits there are, and the weight of an organisation; empty when nothing is limited."""
    if isinstance(limits, OrganisationLimits):
        parts = [f"weight {limits.weight}", _running(limits.max_running), _rate(limits.rate)]
        return ", ".join(filter(None, parts))
    parts = [
        _running(limits.max_running),
        _of_one(_running(limits.max_running_per_organisation)),
        _rate(limits.rate),
        _of_one(_rate(limits.rate_per_organisation)),
    ]
    return ", ".join(filter(None, parts))


def _running(count: int | None) -> str:
    return f"{count} running" if count else ""


def _rate(rate: RateLimit | None) -> str:
    if rate is None or not rate.count:
        return ""
    return f"{rate.count} starts in {rate.period.total_seconds():g} s{' (smooth)' if rate.smooth else ''}"


def _of_one(text: str) -> str:
    return f"{text} of one organisation" if text else ""

"""What a job, or a type, asks for beyond the ordinary, and its JSON form in the database."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from millrace_queue import KeyOrder, Rate

Backoff: TypeAlias = Literal["fixed", "linear", "exponential"]
UniqueScope: TypeAlias = Literal["organisation_and_type", "organisation", "type"]
UniqueStates: TypeAlias = Literal["waiting", "running", "unfinished", "each"]
UniqueConflict: TypeAlias = Literal["reject", "return_existing", "replace"]


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How long a job waits between attempts; None leaves it to the type, and to the default after that.

    Attributes:
        backoff: how the wait grows.
        initial_delay: before the second attempt.
        max_delay: no wait is longer.
        factor: by how much an exponential wait grows with each further attempt.
        jitter: the share of a wait that is left to chance, 0 to 1.

    """

    backoff: Backoff | None = None
    initial_delay: timedelta | None = None
    max_delay: timedelta | None = None
    factor: float | None = None
    jitter: float | None = None


@dataclass(frozen=True, slots=True)
class UniqueRule:
    """A key that no other job may have; with a `window` none is let in for so long after one was."""

    key: str
    scope: UniqueScope = "organisation_and_type"
    states: UniqueStates = "unfinished"
    on_conflict: UniqueConflict = "reject"
    window: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ConcurrencyRule:
    """Of the jobs of an organisation and type with this key at most `limit` run at once."""

    key: str
    limit: int = 1
    order: KeyOrder | None = None


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the creator of a job asked for; None: nothing, or as the type says.

    `delivers`: what becomes of the result is said by the delivery of the job's schedule. `names_attempts`: the number of its
    attempts is the creator's, not its type's.
    """

    deadline: datetime | None = None
    timeout: timedelta | None = None
    retry: RetryRule | None = None
    dead_letter_type: str | None = None
    unique: UniqueRule | None = None
    concurrency: ConcurrencyRule | None = None
    delivers: bool = False
    names_attempts: bool = False

    def to_json(self) -> str | None:
        """Return the JSON text that is stored, None when nothing was asked for."""
        values = _without_none(
            {
                "deadline": self.deadline and self.deadline.isoformat(),
                "timeout": _seconds(self.timeout),
                "retry": self.retry and _retry_to_json(self.retry),
                "dead_letter_type": self.dead_letter_type,
                "unique": self.unique
                and _without_none(
                    {
                        "key": self.unique.key,
                        "scope": self.unique.scope,
                        "states": self.unique.states,
                        "on_conflict": self.unique.on_conflict,
                        "window": _seconds(self.unique.window),
                    }
                ),
                "concurrency": self.concurrency
                and _without_none(
                    {
                        "key": self.concurrency.key,
                        "limit": self.concurrency.limit,
                        "order": self.concurrency.order,
                    }
                ),
                "delivers": self.delivers or None,
                "names_attempts": self.names_attempts or None,
            }
        )
        return json.dumps(values) if values else None

    @classmethod
    def from_json(cls, text: str | None) -> "JobOptions":
        """Return the options of a stored text."""
        if text is None:
            return _NOTHING
        values: dict[str, Any] = json.loads(text)
        unique, concurrency = values.get("unique"), values.get("concurrency")
        return cls(
            deadline=datetime.fromisoformat(values["deadline"]) if "deadline" in values else None,
            timeout=_duration(values.get("timeout")),
            retry=_retry_from_json(values.get("retry")),
            dead_letter_type=values.get("dead_letter_type"),
            unique=unique and UniqueRule(**{**unique, "window": _duration(unique.get("window"))}),
            concurrency=concurrency and ConcurrencyRule(**concurrency),
            delivers=values.get("delivers", False),
            names_attempts=values.get("names_attempts", False),
        )


_NOTHING = JobOptions()


@dataclass(frozen=True, slots=True)
class TypeLimits:
    """Limits of a type over all workers. None: not said; 0 as a number or as the count of a rate: no limit."""

    max_running: int | None = None
    max_running_per_organisation: int | None = None
    rate: Rate | None = None
    rate_per_organisation: Rate | None = None


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """For how long finished jobs are kept; None: as the server says."""

    completed: timedelta | None = None
    failed: timedelta | None = None
    cancelled: timedelta | None = None


@dataclass(frozen=True, slots=True)
class TypeOptions:
    """What the handler of a type asks for, or what operators have set instead."""

    retry: RetryRule | None = None
    dead_letter_type: str | None = None
    limits: TypeLimits = field(default_factory=TypeLimits)
    retention: RetentionRule = field(default_factory=RetentionRule)

    def to_json(self) -> str:
        """Return the JSON text that is stored."""
        return json.dumps(
            _without_none(
                {
                    "retry": self.retry and _retry_to_json(self.retry),
                    "dead_letter_type": self.dead_letter_type,
                    "limits": _limits_to_json(self.limits),
                    "retention": _without_none(
                        {
                            "completed": _seconds(self.retention.completed),
                            "failed": _seconds(self.retention.failed),
                            "cancelled": _seconds(self.retention.cancelled),
                        }
                    ),
                }
            )
        )

    @classmethod
    def from_json(cls, text: str) -> "TypeOptions":
        """Return the options of a stored text."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            retry=_retry_from_json(values.get("retry")),
            dead_letter_type=values.get("dead_letter_type"),
            limits=_limits_from_json(values.get("limits", {})),
            retention=RetentionRule(
                **{outcome: _duration(seconds) for outcome, seconds in values.get("retention", {}).items()}
            ),
        )


def _retry_to_json(rule: RetryRule) -> dict[str, Any]:
    return _without_none(
        {
            "backoff": rule.backoff,
            "initial_delay": _seconds(rule.initial_delay),
            "max_delay": _seconds(rule.max_delay),
            "factor": rule.factor,
            "jitter": rule.jitter,
        }
    )


def _retry_from_json(values: dict[str, Any] | None) -> RetryRule | None:
    if values is None:
        return None
    return RetryRule(
        **{
            **values,
            "initial_delay": _duration(values.get("initial_delay")),
            "max_delay": _duration(values.get("max_delay")),
        }
    )


def _limits_to_json(limits: TypeLimits) -> dict[str, Any]:
    return _without_none(
        {
            "max_running": limits.max_running,
            "max_running_per_organisation": limits.max_running_per_organisation,
            "rate": limits.rate and _rate_to_json(limits.rate),
            "rate_per_organisation": limits.rate_per_organisation
            and _rate_to_json(limits.rate_per_organisation),
        }
    )


def _limits_from_json(values: dict[str, Any]) -> TypeLimits:
    return TypeLimits(
        max_running=values.get("max_running"),
        max_running_per_organisation=values.get("max_running_per_organisation"),
        rate=_rate_from_json(values.get("rate")),
        rate_per_organisation=_rate_from_json(values.get("rate_per_organisation")),
    )


def _rate_from_json(values: dict[str, Any] | None) -> Rate | None:
    if values is None:
        return None
    return Rate(values["count"], timedelta(seconds=values["period"]), values["smooth"])


def _rate_to_json(rate: Rate) -> dict[str, Any]:
    return {"count": rate.count, "period": rate.period.total_seconds(), "smooth": rate.smooth}


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

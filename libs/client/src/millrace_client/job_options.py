"""What a job may ask for beyond the ordinary: waits between attempts, unique keys, concurrency keys."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from millrace.jobs.v1 import job_options_pb2
from millrace_client.contract_enum import ContractEnum
from millrace_client.values import length_or_none, to_duration


class Backoff(StrEnum):
    """How the wait before a further attempt grows with the attempts that failed."""

    FIXED = "FIXED"
    """Always `initial_delay`."""
    LINEAR = "LINEAR"
    """`initial_delay` times the number of failed attempts."""
    EXPONENTIAL = "EXPONENTIAL"
    """`initial_delay`, multiplied by `factor` with each further failed attempt."""
    UNKNOWN = "UNKNOWN"
    """One that this version of the SDK does not know."""


class UniqueScope(StrEnum):
    """Within what a unique key is unique."""

    ORGANISATION_AND_TYPE = "ORGANISATION_AND_TYPE"
    """Among the jobs of the same organisation and type."""
    ORGANISATION = "ORGANISATION"
    """Among the jobs of the same organisation, whatever their type."""
    TYPE = "TYPE"
    """Among the jobs of the same type, whatever their organisation."""
    UNKNOWN = "UNKNOWN"
    """One that this version of the SDK does not know."""


class UniqueStates(StrEnum):
    """In which states a job excludes another one with the same unique key."""

    WAITING = "WAITING"
    """While it waits for its first attempt. Any number may run."""
    RUNNING = "RUNNING"
    """While it runs: any number may wait, and they run one after the other."""
    UNFINISHED = "UNFINISHED"
    """From its creation until it is finished."""
    EACH = "EACH"
    """One may wait for its first attempt, one for a further attempt, and one may run."""
    UNKNOWN = "UNKNOWN"
    """Some that this version of the SDK does not know."""


class UniqueConflict(StrEnum):
    """What becomes of a job whose unique key is taken."""

    REJECT = "REJECT"
    """AlreadyExistsError, whose `job_id` is that of the job that has the key."""
    RETURN_EXISTING = "RETURN_EXISTING"
    """The job that has the key is returned, unchanged."""
    REPLACE = "REPLACE"
    """The job that has the key gets the input, metadata, time, priority and options of this one, and is
    returned (debounce). AlreadyExistsError when it has been started already."""
    UNKNOWN = "UNKNOWN"
    """Something that this version of the SDK does not know."""


class KeyOrder(StrEnum):
    """How jobs that share a concurrency key follow each other, strictly in the order of their creation."""

    BLOCK_ON_FAILURE = "BLOCK_ON_FAILURE"
    """Once the one in front failed for good, the others wait until it is retried or the key is unblocked."""
    SKIP_FAILED = "SKIP_FAILED"
    """Once the one in front failed for good, the next one follows."""
    UNKNOWN = "UNKNOWN"
    """An order that this version of the SDK does not know."""


_BACKOFFS = ContractEnum(Backoff, job_options_pb2.Backoff.items(), "BACKOFF_")
_SCOPES = ContractEnum(UniqueScope, job_options_pb2.UniqueScope.items(), "UNIQUE_SCOPE_")
_STATES = ContractEnum(UniqueStates, job_options_pb2.UniqueStates.items(), "UNIQUE_STATES_")
_CONFLICTS = ContractEnum(UniqueConflict, job_options_pb2.UniqueConflict.items(), "UNIQUE_CONFLICT_")
_ORDERS = ContractEnum(KeyOrder, job_options_pb2.KeyOrder.items(), "KEY_ORDER_")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a job waits between its attempts. What is None is as the job type says."""

    backoff: Backoff | str | None = None
    initial_delay: timedelta | None = None
    """Before the second attempt, at most 7 days, and at most `max_delay`: that given here, else that of the type."""
    max_delay: timedelta | None = None
    """No wait is longer; at most 30 days."""
    factor: float | None = None
    """1 to 10, for exponential backoff only."""
    jitter: float | None = None
    """The share of a wait that is left to chance, 0 to 1: with 0.2, 10 s become 8 to 12 s."""


@dataclass(frozen=True, slots=True)
class Unique:
    """A key that no other job may have at the same time."""

    key: str
    """At most 256 characters."""
    scope: UniqueScope | str = UniqueScope.ORGANISATION_AND_TYPE
    states: UniqueStates | str | None = None
    """None: UNFINISHED. With a `window` it stays None."""
    on_conflict: UniqueConflict | str = UniqueConflict.REJECT
    window: timedelta | None = None
    """Set: after a job was let in, no other one with this key is for so long, whatever became of the first
    (throttle). 1 s to 30 days."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Of the jobs of an organisation and type with the same key only so many run at once, over all workers."""

    key: str
    """At most 256 characters."""
    limit: int = 1
    """1 to 1,000. It is the limit of the job that is about to start that counts."""
    order: KeyOrder | str | None = None
    """Set: one after the other, and `limit` is 1. None: by priority and fairness."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long finished jobs are kept; None: as long as the server says."""

    completed: timedelta | None = None
    failed: timedelta | None = None
    cancelled: timedelta | None = None


def to_retry_policy(policy: RetryPolicy) -> job_options_pb2.RetryPolicy:
    """Turn a retry policy into the contract's message; ValueError for an unknown backoff."""
    return job_options_pb2.RetryPolicy(
        backoff=_BACKOFFS.value(policy.backoff),
        initial_delay=None if policy.initial_delay is None else to_duration(policy.initial_delay),
        max_delay=None if policy.max_delay is None else to_duration(policy.max_delay),
        factor=policy.factor or 0,
        jitter=policy.jitter,
    )


def read_retry_policy(message: job_options_pb2.RetryPolicy) -> RetryPolicy:
    """Turn the contract's message into a RetryPolicy."""
    return RetryPolicy(
        backoff=_BACKOFFS.read_optional(message.backoff),
        initial_delay=length_or_none(message, "initial_delay"),
        max_delay=length_or_none(message, "max_delay"),
        factor=message.factor or None,
        jitter=message.jitter if message.HasField("jitter") else None,
    )


def to_unique(unique: Unique) -> job_options_pb2.Uniqueness:
    """Turn a unique key into the contract's message; ValueError for an unknown scope, states or conflict."""
    return job_options_pb2.Uniqueness(
        key=unique.key,
        scope=_SCOPES.value(unique.scope),
        states=_STATES.value(unique.states),
        on_conflict=_CONFLICTS.value(unique.on_conflict),
        window=None if unique.window is None else to_duration(unique.window),
    )


def read_unique(message: job_options_pb2.Uniqueness) -> Unique:
    """Turn the contract's message into a Unique."""
    return Unique(
        key=message.key,
        scope=_SCOPES.read_optional(message.scope) or UniqueScope.ORGANISATION_AND_TYPE,
        states=_STATES.read_optional(message.states),
        on_conflict=_CONFLICTS.read_optional(message.on_conflict) or UniqueConflict.REJECT,
        window=length_or_none(message, "window"),
    )


def to_concurrency(concurrency: Concurrency) -> job_options_pb2.Concurrency:
    """Turn a concurrency key into the contract's message; ValueError for an unknown order."""
    return job_options_pb2.Concurrency(
        key=concurrency.key, limit=concurrency.limit, order=_ORDERS.value(concurrency.order)
    )


def read_concurrency(message: job_options_pb2.Concurrency) -> Concurrency:
    """Turn the contract's message into a Concurrency."""
    return Concurrency(key=message.key, limit=message.limit or 1, order=_ORDERS.read_optional(message.order))


def read_retention(message: job_options_pb2.Retention) -> Retention:
    """Turn the contract's message into a Retention."""
    return Retention(
        completed=length_or_none(message, "completed"),
        failed=length_or_none(message, "failed"),
        cancelled=length_or_none(message, "cancelled"),
    )

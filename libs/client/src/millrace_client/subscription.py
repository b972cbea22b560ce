"""A subscription: which events of an organisation's jobs are posted where."""

import base64
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from millrace.jobs.v1 import subscription_pb2
from millrace.jobs.v1 import subscriptions_service_pb2 as messages
from millrace_client.contract_enum import ContractEnum
from millrace_client.values import from_timestamp, time_or_none


class SubscriptionState(StrEnum):
    """Whether events are sent."""

    ENABLED = "ENABLED"
    PAUSED = "PAUSED"
    """Somebody has switched it off. Events of this time are not sent later."""
    DISABLED = "DISABLED"
    """Switched off because its endpoint kept failing, or said that it is gone: see `disabled_reason`."""
    UNKNOWN = "UNKNOWN"
    """A state that this version of the SDK does not know."""


_STATES = ContractEnum(SubscriptionState, subscription_pb2.SubscriptionState.items(), "SUBSCRIPTION_STATE_")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of an organisation. Times are in UTC; None means not set."""

    subscription_id: str
    org_id: str
    url: str
    event_types: tuple[str, ...]
    """Such as "job.completed"."""
    job_types: tuple[str, ...]
    """Only events of jobs of these types; empty: of all."""
    description: str
    notify_emails: tuple[str, ...]
    """Whom to tell by e-mail when it is disabled."""
    state: SubscriptionState
    disabled_reason: str
    disabled_at: datetime | None
    failing_since: datetime | None
    """Since when nothing has been delivered, though it was tried; None: the last attempt succeeded."""
    failed_attempts: int
    """Failed attempts since then."""
    last_error: str
    """What the last of them came to."""
    last_failure_at: datetime | None
    last_success_at: datetime | None
    """Some seconds late when many are delivered."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    version: int
    """Grows with each change that somebody makes."""
    secret: str | None = field(default=None, repr=False, compare=False)
    """What events are signed with, where it was generated; only the call tells that did so, and only once."""


def read_subscription(message: subscription_pb2.Subscription) -> Subscription:
    """Turn the contract's message into a Subscription."""
    return Subscription(
        subscription_id=message.subscription_id,
        org_id=message.org_id,
        url=message.url,
        event_types=tuple(message.event_types),
        job_types=tuple(message.job_types),
        description=message.description,
        notify_emails=tuple(message.notify_emails),
        state=_STATES.read(message.state),
        disabled_reason=message.disabled_reason,
        disabled_at=time_or_none(message, "disabled_at"),
        failing_since=time_or_none(message, "failing_since"),
        failed_attempts=message.failed_attempts,
        last_error=message.last_error,
        last_failure_at=time_or_none(message, "last_failure_at"),
        last_success_at=time_or_none(message, "last_success_at"),
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        updated_at=from_timestamp(message.updated_at),
        version=message.version,
    )


def read_with_secret(
    response: messages.CreateSubscriptionResponse | messages.RotateSubscriptionSecretResponse,
    generated: str | None = None,
) -> Subscription:
    """Turn an answer into a Subscription that tells the secret which the service has generated, or else the one given."""
    return replace(read_subscription(response.subscription), secret=response.secret or generated)


def new_secret() -> str:
    """Return a new secret of 32 random bytes, in the form of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def state_values(
    states: Iterable[SubscriptionState | str],
) -> list[subscription_pb2.SubscriptionState.ValueType]:
    """Return the contract's values; ValueError for an unknown state."""
    return [_STATES.value(state) for state in states]

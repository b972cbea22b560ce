from millrace.jobs.v1 import subscription_pb2
from millrace_database.ids import format_id
from millrace_database.subscriptions_repository import SubscriptionRecord
from millrace_runtime.struct_json import datetime_to_timestamp

_STATES = {
    "enabled": subscription_pb2.SUBSCRIPTION_STATE_ENABLED,
    "paused": subscription_pb2.SUBSCRIPTION_STATE_PAUSED,
    "disabled": subscription_pb2.SUBSCRIPTION_STATE_DISABLED,
}
_WORDS = {state: word for word, state in _STATES.items()}


def subscription_message(record: SubscriptionRecord) -> subscription_pb2.Subscription:
    """Return a subscription as callers see it."""
    subscription = subscription_pb2.Subscription(
        subscription_id=format_id("subscription", record.subscription_id),
        org_id=record.org_id,
        url=record.url,
        event_types=record.event_types,
        job_types=record.job_types,
        description=record.description,
        notify_emails=record.notify_emails,
        state=_STATES[record.state],
        disabled_reason=record.disabled_reason,
        failed_attempts=record.failed_attempts,
        last_error=record.last_error,
        created_by=record.created_by,
        created_at=datetime_to_timestamp(record.created_at),
        updated_at=datetime_to_timestamp(record.updated_at),
        version=record.version,
    )
    for field, time in (
        (subscription.disabled_at, record.disabled_at),
        (subscription.failing_since, record.failing_since),
        (subscription.last_failure_at, record.last_failure_at),
        (subscription.last_success_at, record.last_success_at),
    ):
        if time is not None:
            field.CopyFrom(datetime_to_timestamp(time))
    return subscription


def state_word(state: subscription_pb2.SubscriptionState.ValueType) -> str | None:
    """Return the word that the database has for a state; None for one that no subscription can have."""
    return _WORDS.get(state)

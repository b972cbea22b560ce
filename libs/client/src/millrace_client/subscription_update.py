"""What is changed of a subscription."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from google.protobuf.field_mask_pb2 import FieldMask

from millrace.jobs.v1 import subscription_pb2
from millrace.jobs.v1 import subscriptions_service_pb2 as messages

_TEXTS = ("url", "description")
_LISTS = ("event_types", "job_types", "notify_emails")


class SubscriptionChanges(TypedDict, total=False):
    """What may be changed of a subscription; what is left out stays as it is."""

    url: str
    event_types: Iterable[str]
    job_types: Iterable[str]
    """Empty: of all types."""
    description: str
    notify_emails: Iterable[str]


def to_update(
    org_id: str, subscription_id: str, version: int | None, changes: Mapping[str, Any]
) -> messages.UpdateSubscriptionRequest:
    """Turn changes into the contract's message: their names are its mask.

    TypeError for a name that SubscriptionChanges does not have, and for a single text in place of several.
    """
    for name in changes:
        if name not in (*_TEXTS, *_LISTS):
            raise TypeError(f'a subscription has no "{name}" that could be changed')
    fields: dict[str, Any] = {
        name: several(name, value) if name in _LISTS else value for name, value in changes.items()
    }
    return messages.UpdateSubscriptionRequest(
        subscription=subscription_pb2.Subscription(
            org_id=org_id, subscription_id=subscription_id, version=version or 0, **fields
        ),
        update_mask=FieldMask(paths=changes),
    )


def several(name: str, texts: Iterable[str]) -> list[str]:
    """Return texts as a list; TypeError for a single text, which would be taken letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"{name} of a subscription are a list")
    return list(texts)

"""From requests about subscriptions to what can be written: every rule that a request must keep."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from millrace.jobs.v1 import subscription_pb2, subscriptions_service_pb2
from millrace_database.deliveries import DELIVERY_TYPES
from millrace_database.ids import new_id
from millrace_database.subscription_events import SUBSCRIPTION_DISABLED
from millrace_database.subscriptions_repository import NewSubscription, SubscriptionChanges
from millrace_jobs.subscription_messages import state_word
from millrace_runtime.email_addresses import check_email_addresses
from millrace_runtime.identity import Caller
from millrace_runtime.job_type_names import TYPE_NAME_FORM, is_type_name
from millrace_runtime.validation import Violations
from millrace_runtime.webhook_fields import check_webhook_secret, check_webhook_url, new_webhook_secret

Message: TypeAlias = subscriptions_service_pb2.CreateSubscriptionRequest | subscription_pb2.Subscription
"""Both name their fields alike."""

_EVENT_TYPES = ("job.completed", "job.failed", "job.cancelled", SUBSCRIPTION_DISABLED)
_MAX_JOB_TYPES = 100
_MAX_DESCRIPTION_LENGTH = 500
_MAX_CREATOR_LENGTH = 256
_MAX_REQUEST_ID_LENGTH = 256
_MAX_STATES = 100


def check_subscription(
    request: subscriptions_service_pb2.CreateSubscriptionRequest,
    caller: Caller,
    *,
    allow_private: bool,
) -> NewSubscription:
    """Return the subscription that a request asks for, with a new id, and a new secret if it names none.

    Raises InvalidArgument with all that is wrong, or PermissionDenied when the caller may not act in the organisation, or
    not name another creator.
    """
    violations = Violations()
    org_id = violations.check_org_id(request.org_id)
    fields = _Fields(request, violations, allow_private=allow_private)
    values = {name: check(fields) for name, check in _CHECKS.items()}
    secret = check_secret(request.secret, violations)
    created_by = violations.check_text("created_by", request.created_by, max_length=_MAX_CREATOR_LENGTH)
    request_id = violations.check_text("request_id", request.request_id, max_length=_MAX_REQUEST_ID_LENGTH)
    violations.raise_if_any()
    caller.require_organisation(org_id)
    return NewSubscription(
        subscription_id=new_id(),
        org_id=org_id,
        secret=secret,
        created_by=caller.creator(created_by),
        request_id=request_id or None,
        **values,
    )


def check_changes(
    message: subscription_pb2.Subscription,
    paths: frozenset[str],
    violations: Violations,
    *,
    allow_private: bool,
) -> SubscriptionChanges:
    """Return what the fields hold that `paths` (of CHANGEABLE) name; what is wrong with them is added to `violations`."""
    fields = _Fields(message, violations, allow_private=allow_private)
    return SubscriptionChanges(**{name: check(fields) for name, check in _CHECKS.items() if name in paths})


def check_secret(secret: str, violations: Violations) -> str:
    """Return the secret that a request names, or a new one if it names none."""
    return check_webhook_secret("secret", secret, violations, required=False) or new_webhook_secret()


def check_states(
    states: Sequence[subscription_pb2.SubscriptionState.ValueType], violations: Violations
) -> tuple[str, ...]:
    """Return the words for the states that a request to list subscriptions names, each once and in order."""
    words = set()
    for index, state in enumerate(states[:_MAX_STATES]):
        word = state_word(state)
        if word is None:
            violations.add(f"states[{index}]", f"is {state}, which is no state of a subscription")
        else:
            words.add(word)
    if len(states) > _MAX_STATES:
        violations.add("states", f"are {len(states)}, more than {_MAX_STATES}")
    return tuple(sorted(words))


class _Fields:
    """Checks fields of a message, one at a time."""

    def __init__(self, message: Message, violations: Violations, *, allow_private: bool) -> None:
        self._message = message
        self._violations = violations
        self._allow_private = allow_private

    def url(self) -> str:
        return check_webhook_url(
            "url", self._message.url, self._violations, allow_private=self._allow_private
        )

    def event_types(self) -> list[str]:
        given = self._message.event_types
        self._violations.require("event_types", given)
        return self._names("event_types", given, len(_EVENT_TYPES), _problem_of_event_type)

    def job_types(self) -> list[str]:
        return self._names("job_types", self._message.job_types, _MAX_JOB_TYPES, _problem_of_job_type)

    def _names(
        self, field: str, names: Sequence[str], most: int, problem_of: Callable[[str], str | None]
    ) -> list[str]:
        if len(names) > most:
            self._violations.add(field, f"are {len(names)}, more than {most}")
        # So many are looked at: a request may hold a million.
        looked_at = list(names[:most])
        for index, name in enumerate(looked_at):
            problem = "is there already" if name in looked_at[:index] else problem_of(name)
            if problem is not None:
                self._violations.add(f"{field}[{index}]", problem)
        return looked_at

    def description(self) -> str:
        return self._violations.check_text(
            "description", self._message.description, max_length=_MAX_DESCRIPTION_LENGTH
        )

    def notify_emails(self) -> list[str]:
        return check_email_addresses(
            "notify_emails", self._message.notify_emails, self._violations, minimum=0
        )


def _problem_of_event_type(name: str) -> str | None:
    return None if name in _EVENT_TYPES else f"must be one of {', '.join(_EVENT_TYPES)}"


def _problem_of_job_type(name: str) -> str | None:
    if not is_type_name(name):
        return f"must be {TYPE_NAME_FORM}"
    return "is for deliveries, which have no events" if name in DELIVERY_TYPES else None


_CHECKS: dict[str, Callable[[_Fields], Any]] = {
    "url": _Fields.url,
    "event_types": _Fields.event_types,
    "job_types": _Fields.job_types,
    "description": _Fields.description,
    "notify_emails": _Fields.notify_emails,
}

CHANGEABLE = tuple(_CHECKS)
"""The fields that a caller may change."""

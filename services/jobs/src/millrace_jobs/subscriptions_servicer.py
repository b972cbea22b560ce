# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeAlias
from uuid import UUID

import asyncpg

from millrace.jobs.v1 import subscriptions_service_pb2, subscriptions_service_pb2_grpc
from millrace_database import subscriptions_repository
from millrace_database.database import Database
from millrace_database.deliveries import EVENT_TYPE
from millrace_database.ids import format_id
from millrace_database.job_flow import FlowCounter
from millrace_database.job_hints import JobHints
from millrace_database.subscription_events import create_test_event
from millrace_database.subscriptions_repository import (
    MAX_SUBSCRIPTIONS,
    SubscriptionRecord,
    TooManySubscriptionsError,
)
from millrace_jobs.servicer_parts import Context
from millrace_jobs.subscription_messages import subscription_message
from millrace_jobs.subscription_requests import (
    CHANGEABLE,
    check_changes,
    check_secret,
    check_states,
    check_subscription,
)
from millrace_runtime.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from millrace_runtime.field_masks import check_mask
from millrace_runtime.identity import current_caller
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations

_Act: TypeAlias = Callable[[asyncpg.Connection, str, UUID], Awaitable[SubscriptionRecord | None]]


class _Naming(Protocol):
    """A request that names a subscription."""

    org_id: str
    subscription_id: str


class SubscriptionsServicer(subscriptions_service_pb2_grpc.SubscriptionsServiceServicer):
    """Answers the calls of SubscriptionsService; the contract says what each one does."""

    def __init__(
        self, database: Database, hints: JobHints, flow: FlowCounter, *, allow_private: bool
    ) -> None:
        """Take the database, who is told of new jobs, and whether events may be posted to private addresses."""
        self._database = database
        self._hints = hints
        self._flow = flow
        self._allow_private = allow_private

    async def CreateSubscription(
        self, request: subscriptions_service_pb2.CreateSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.CreateSubscriptionResponse:
        """Create a subscription, or return the one that was created with the same request id."""
        subscription = check_subscription(request, current_caller(), allow_private=self._allow_private)
        try:
            async with self._database.transaction() as connection:
                record, created = await subscriptions_repository.create_subscription(connection, subscription)
        except TooManySubscriptionsError:
            description = f"the organisation has {MAX_SUBSCRIPTIONS} subscriptions already"
            raise ResourceExhausted(description, retry_after=None) from None
        if record.url != subscription.url:
            raise _taken(record)
        return subscriptions_service_pb2.CreateSubscriptionResponse(
            subscription=subscription_message(record),
            secret=subscription.secret if created and not request.secret else "",
        )

    async def GetSubscription(
        self, request: subscriptions_service_pb2.GetSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.GetSubscriptionResponse:
        """Return one subscription."""
        record = await self._one(request, subscriptions_repository.get_subscription)
        return subscriptions_service_pb2.GetSubscriptionResponse(subscription=subscription_message(record))

    async def ListSubscriptions(
        self, request: subscriptions_service_pb2.ListSubscriptionsRequest, _context: Context
    ) -> subscriptions_service_pb2.ListSubscriptionsResponse:
        """Return a page of subscriptions, newest first. So few as an organisation may have fit into one message."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        page_size = violations.check_page_size(request.page_size)
        states = check_states(request.states, violations)
        violations.raise_if_any()
        current_caller().require_organisation(org_id)
        bound_to = {"org_id": org_id, "states": states}
        after = last_id(request.page_token, bound_to)
        async with self._database.connection() as connection:
            records = await subscriptions_repository.list_subscriptions(
                connection, org_id, states, after, page_size + 1
            )
        page = records[:page_size]
        return subscriptions_service_pb2.ListSubscriptionsResponse(
            subscriptions=map(subscription_message, page),
            next_page_token=token_behind(page[-1].subscription_id, bound_to)
            if len(records) > page_size
            else "",
        )

    async def UpdateSubscription(
        self, request: subscriptions_service_pb2.UpdateSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.UpdateSubscriptionResponse:
        """Change the fields of a subscription that the mask names."""
        mask_violations, violations = Violations(), Violations("subscription.")
        message = request.subscription
        paths = check_mask(request.update_mask, CHANGEABLE, message.DESCRIPTOR, mask_violations)
        if message.version < 0:
            mask_violations.add("subscription.version", "must not be negative")
        mask_violations.raise_if_any()
        changes = check_changes(message, paths, violations, allow_private=self._allow_private)
        org_id, subscription_id = check_key(
            "subscription", message.org_id, message.subscription_id, violations
        )
        async with self._database.connection() as connection:
            record = await subscriptions_repository.update_subscription(
                connection, org_id, subscription_id, changes, version=message.version or None
            )
            if record is None:
                before = await subscriptions_repository.get_subscription(connection, org_id, subscription_id)
                raise _no_subscription(subscription_id) if before is None else _changed_meanwhile(before)
        return subscriptions_service_pb2.UpdateSubscriptionResponse(subscription=subscription_message(record))

    async def DeleteSubscription(
        self, request: subscriptions_service_pb2.DeleteSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.DeleteSubscriptionResponse:
        """Delete a subscription; events that wait to be sent are not."""
        org_id, subscription_id = check_key("subscription", request.org_id, request.subscription_id)
        async with self._database.connection() as connection:
            if not await subscriptions_repository.delete_subscription(connection, org_id, subscription_id):
                raise _no_subscription(subscription_id)
        return subscriptions_service_pb2.DeleteSubscriptionResponse()

    async def PauseSubscription(
        self, request: subscriptions_service_pb2.PauseSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.PauseSubscriptionResponse:
        """Switch a subscription off."""
        record = await self._one(request, subscriptions_repository.pause_subscription)
        return subscriptions_service_pb2.PauseSubscriptionResponse(subscription=subscription_message(record))

    async def ResumeSubscription(
        self, request: subscriptions_service_pb2.ResumeSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.ResumeSubscriptionResponse:
        """Switch a subscription on again; its failures are forgotten."""
        record = await self._one(request, subscriptions_repository.resume_subscription)
        return subscriptions_service_pb2.ResumeSubscriptionResponse(subscription=subscription_message(record))

    async def RotateSubscriptionSecret(
        self, request: subscriptions_service_pb2.RotateSubscriptionSecretRequest, _context: Context
    ) -> subscriptions_service_pb2.RotateSubscriptionSecretResponse:
        """Give a subscription another secret."""
        violations = Violations()
        secret = check_secret(request.secret, violations)
        rotate = partial(subscriptions_repository.rotate_secret, secret=secret)
        record = await self._one(request, rotate, violations)
        return subscriptions_service_pb2.RotateSubscriptionSecretResponse(
            subscription=subscription_message(record), secret="" if request.secret else secret
        )

    async def TestSubscription(
        self, request: subscriptions_service_pb2.TestSubscriptionRequest, _context: Context
    ) -> subscriptions_service_pb2.TestSubscriptionResponse:
        """Create the job that sends a test event."""
        org_id, subscription_id = check_key("subscription", request.org_id, request.subscription_id)
        async with self._database.transaction() as connection:
            record = await subscriptions_repository.get_subscription(connection, org_id, subscription_id)
            if record is None:
                raise _no_subscription(subscription_id)
            if record.state != "enabled":
                raise _not_enabled(record)
            job_id = await create_test_event(connection, record)
        self._flow.created(EVENT_TYPE, org_id)
        self._hints.jobs_wait({EVENT_TYPE})
        return subscriptions_service_pb2.TestSubscriptionResponse(job_id=format_id("job", job_id))

    async def _one(
        self, request: _Naming, act: _Act, violations: Violations | None = None
    ) -> SubscriptionRecord:
        """Return what `act` returns of the subscription that a request names. Raises NotFound when there is none."""
        org_id, subscription_id = check_key(
            "subscription", request.org_id, request.subscription_id, violations
        )
        async with self._database.connection() as connection:
            record = await act(connection, org_id, subscription_id)
        if record is None:
            raise _no_subscription(subscription_id)
        return record


def _no_subscription(subscription_id: UUID) -> NotFound:
    return NotFound("subscription", format_id("subscription", subscription_id))


def _taken(record: SubscriptionRecord) -> AlreadyExists:
    name = format_id("subscription", record.subscription_id)
    return AlreadyExists("subscription", name, f"the request_id was used for another URL, that of {name}")


def _not_enabled(record: SubscriptionRecord) -> FailedPrecondition:
    name = format_id("subscription", record.subscription_id)
    return FailedPrecondition(
        f"SUBSCRIPTION_{record.state.upper()}", name, f"{name} is {record.state}, and is sent nothing"
    )


def _changed_meanwhile(record: SubscriptionRecord) -> Aborted:
    name = format_id("subscription", record.subscription_id)
    return Aborted("SUBSCRIPTION_CHANGED", f"{name} has been changed: its version is {record.version}")

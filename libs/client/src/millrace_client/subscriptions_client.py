"""The subscriptions of an organisation."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Unpack

from millrace.jobs.v1 import subscriptions_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.subscription import (
    Subscription,
    SubscriptionState,
    new_secret,
    read_subscription,
    read_with_secret,
    state_values,
)
from millrace_client.subscription_update import SubscriptionChanges, several, to_update


class SubscriptionsClient:
    """Calls to the Subscriptions service for one organisation.

    Every method raises a CallError of the status that the server answered with. `timeout` is the
    seconds that one call may take, tries included; None: the client's own.
    """

    def __init__(self, connection: Connection, org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id

    async def create(
        self,
        url: str,
        event_types: Iterable[str],
        *,
        job_types: Iterable[str] = (),
        description: str = "",
        notify_emails: Iterable[str] = (),
        secret: str | None = None,
        created_by: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Subscription:
        """Create a subscription: events of jobs that end from now on are posted to `url`, signed as Standard Webhooks says.

        `event_types` are "job.completed", "job.failed", "job.cancelled" and "subscription.disabled"; with `job_types` only
        events of jobs of these types. `notify_emails` are told when it is disabled. The `secret` is "whsec_" and 24 to 64
        bytes in base64; when none is given one is generated, and the `secret` of what is returned tells it, never again.

        A `request_id` of your own makes a repeated call return the first one's subscription. It does not tell a generated
        secret: also when the SDK had to repeat the call by itself, `secret` is None then, and `rotate_secret` makes another.
        Without one a fresh one is used, and no secret is lost. InvalidArgumentError when a field is wrong;
        ResourceExhaustedError when the organisation has 50.
        """
        # Nobody else has the fresh request id: whatever answer comes, the subscription has the secret that was sent.
        generated = new_secret() if secret is None and request_id is None else None
        request = messages.CreateSubscriptionRequest(
            org_id=self._org_id,
            url=url,
            event_types=several("event_types", event_types),
            job_types=several("job_types", job_types),
            description=description,
            notify_emails=several("notify_emails", notify_emails),
            secret=secret or generated or "",
            created_by=created_by,
            request_id=request_id or uuid.uuid4().hex,
        )
        response = await self._connection.call(
            self._connection.subscriptions.CreateSubscription, request, timeout
        )
        return read_with_secret(response, generated)

    async def get(self, subscription_id: str, *, timeout: float | None = None) -> Subscription:
        """Return a subscription, with how its deliveries go. NotFoundError when the organisation has no such one."""
        request = messages.GetSubscriptionRequest(org_id=self._org_id, subscription_id=subscription_id)
        response = await self._connection.call(
            self._connection.subscriptions.GetSubscription, request, timeout
        )
        return read_subscription(response.subscription)

    def list(
        self,
        *,
        states: Iterable[SubscriptionState | str] = (),
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[Subscription]:
        """Yield the subscriptions in any of these states (none: in all), newest first, at most `limit`.

        Pages of `page_size` are fetched as needed.
        """
        request = messages.ListSubscriptionsRequest(
            org_id=self._org_id,
            page_size=page_size if limit is None else min(limit, page_size),
            states=state_values(states),
        )

        async def fetch(page_token: str) -> tuple[Iterator[Subscription], str]:
            request.page_token = page_token
            page = await self._connection.call(
                self._connection.subscriptions.ListSubscriptions, request, timeout
            )
            return map(read_subscription, page.subscriptions), page.next_page_token

        return read_pages(fetch, limit)

    async def update(
        self,
        subscription_id: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
        **changes: Unpack[SubscriptionChanges],
    ) -> Subscription:
        """Change what is given of a subscription and leave the rest: see SubscriptionChanges. Never repeated by itself.

        Events that wait to be sent go to the new URL. AbortedError when `version` is given and somebody has changed the
        subscription since it had that version.
        """
        request = to_update(self._org_id, subscription_id, version, changes)
        response = await self._connection.call(
            self._connection.subscriptions.UpdateSubscription, request, timeout
        )
        return read_subscription(response.subscription)

    async def delete(self, subscription_id: str, *, timeout: float | None = None) -> None:
        """Delete a subscription; events that wait to be sent are not. Never repeated by itself."""
        request = messages.DeleteSubscriptionRequest(org_id=self._org_id, subscription_id=subscription_id)
        await self._connection.call(self._connection.subscriptions.DeleteSubscription, request, timeout)

    async def pause(self, subscription_id: str, *, timeout: float | None = None) -> Subscription:
        """Switch a subscription off until it is resumed; events of the time between are not sent later."""
        request = messages.PauseSubscriptionRequest(org_id=self._org_id, subscription_id=subscription_id)
        response = await self._connection.call(
            self._connection.subscriptions.PauseSubscription, request, timeout
        )
        return read_subscription(response.subscription)

    async def resume(self, subscription_id: str, *, timeout: float | None = None) -> Subscription:
        """Switch a paused or disabled subscription on again; its failures are forgotten."""
        request = messages.ResumeSubscriptionRequest(org_id=self._org_id, subscription_id=subscription_id)
        response = await self._connection.call(
            self._connection.subscriptions.ResumeSubscription, request, timeout
        )
        return read_subscription(response.subscription)

    async def rotate_secret(
        self, subscription_id: str, secret: str | None = None, *, timeout: float | None = None
    ) -> Subscription:
        """Give a subscription another secret; for 24 hours events are signed with the one before too.

        When none is given one is generated, and the `secret` of what is returned tells it, never again. Never repeated by
        itself: each call makes another.
        """
        request = messages.RotateSubscriptionSecretRequest(
            org_id=self._org_id, subscription_id=subscription_id, secret=secret or ""
        )
        response = await self._connection.call(
            self._connection.subscriptions.RotateSubscriptionSecret, request, timeout
        )
        return read_with_secret(response)

    async def test(self, subscription_id: str, *, timeout: float | None = None) -> str:
        """Send an event of type "subscription.test", and return the id of the job that does. Never repeated by itself.

        FailedPreconditionError unless the subscription is enabled.
        """
        request = messages.TestSubscriptionRequest(org_id=self._org_id, subscription_id=subscription_id)
        response = await self._connection.call(
            self._connection.subscriptions.TestSubscription, request, timeout
        )
        return response.job_id

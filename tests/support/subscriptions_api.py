"""The Jobs service in this process, and a stub of its SubscriptionsService."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from millrace.jobs.v1 import subscription_pb2, subscriptions_service_pb2, subscriptions_service_pb2_grpc
from millrace_database.database import Database
from millrace_database.ids import parse_id
from support.jobs_api import JobsApi, serving

URL = "https://example.com/hooks"
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
COMPLETED = "job.completed"


@dataclass(frozen=True)
class SubscriptionsApi:
    """A running service, and a stub that calls it."""

    jobs: JobsApi
    stub: "subscriptions_service_pb2_grpc.SubscriptionsServiceAsyncStub"

    async def make(self, **fields: Any) -> subscriptions_service_pb2.CreateSubscriptionResponse:
        """Create a subscription of an organisation "acme": of completed jobs."""
        request = subscriptions_service_pb2.CreateSubscriptionRequest(
            **{"org_id": "acme", "url": URL, "event_types": [COMPLETED], **fields}
        )
        return await self.stub.CreateSubscription(request)

    async def create(self, **fields: Any) -> subscription_pb2.Subscription:
        return (await self.make(**fields)).subscription

    async def get(self, subscription_id: str) -> subscription_pb2.Subscription:
        request = subscriptions_service_pb2.GetSubscriptionRequest(
            org_id="acme", subscription_id=subscription_id
        )
        return (await self.stub.GetSubscription(request)).subscription

    async def list_(self, **fields: Any) -> subscriptions_service_pb2.ListSubscriptionsResponse:
        """Return a page of subscriptions."""
        request = subscriptions_service_pb2.ListSubscriptionsRequest(**{"org_id": "acme", **fields})
        return await self.stub.ListSubscriptions(request)

    async def update(self, subscription_id: str, *paths: str, **fields: Any) -> subscription_pb2.Subscription:
        """Change fields of a subscription: those given, and those that `paths` names."""
        request = subscriptions_service_pb2.UpdateSubscriptionRequest(
            subscription=subscription_pb2.Subscription(
                **{"org_id": "acme", "subscription_id": subscription_id, **fields}
            )
        )
        unwritten = {"org_id", "version"}
        request.update_mask.paths.extend([*paths, *(path for path in fields if path not in unwritten)])
        return (await self.stub.UpdateSubscription(request)).subscription

    async def delete(self, subscription_id: str) -> None:
        request = subscriptions_service_pb2.DeleteSubscriptionRequest(
            org_id="acme", subscription_id=subscription_id
        )
        await self.stub.DeleteSubscription(request)

    async def pause(self, subscription_id: str) -> subscription_pb2.Subscription:
        request = subscriptions_service_pb2.PauseSubscriptionRequest(
            org_id="acme", subscription_id=subscription_id
        )
        return (await self.stub.PauseSubscription(request)).subscription

    async def resume(self, subscription_id: str) -> subscription_pb2.Subscription:
        request = subscriptions_service_pb2.ResumeSubscriptionRequest(
            org_id="acme", subscription_id=subscription_id
        )
        return (await self.stub.ResumeSubscription(request)).subscription

    async def rotate(
        self, subscription_id: str, secret: str = ""
    ) -> subscriptions_service_pb2.RotateSubscriptionSecretResponse:
        request = subscriptions_service_pb2.RotateSubscriptionSecretRequest(
            org_id="acme", subscription_id=subscription_id, secret=secret
        )
        return await self.stub.RotateSubscriptionSecret(request)

    async def test(self, subscription_id: str) -> str:
        request = subscriptions_service_pb2.TestSubscriptionRequest(
            org_id="acme", subscription_id=subscription_id
        )
        return (await self.stub.TestSubscription(request)).job_id


@asynccontextmanager
async def subscribing(database: Database, data_dir: Path, **settings: Any) -> AsyncIterator[SubscriptionsApi]:
    """Run the service on any free port, with two published job types."""
    async with (
        serving(database, data_dir, **settings) as jobs,
        grpc.aio.insecure_channel(jobs.address) as channel,
    ):
        yield SubscriptionsApi(jobs, subscriptions_service_pb2_grpc.SubscriptionsServiceStub(channel))


async def stored(database: Database, subscription_id: str) -> dict[str, Any]:
    """Return the row of a subscription, secrets included."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT *, now() AS read_at FROM job_subscriptions WHERE subscription_id = $1",
            parse_id("subscription", subscription_id),
        )
    assert row is not None
    return dict(row)


async def fail(database: Database, subscription_id: str, *, state: str = "enabled") -> None:
    """Let the deliveries of a subscription have failed, as they do when its endpoint is away; "disabled": for too long."""
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE job_subscriptions SET failing_since = now() - interval '1 day', failed_attempts = 12, "
            "last_error = 'it answered 500', last_failure_at = now(), state = $2, "
            "disabled_at = CASE WHEN $2 = 'disabled' THEN now() END, "
            "disabled_reason = CASE WHEN $2 = 'disabled' THEN 'it kept failing' ELSE '' END "
            "WHERE subscription_id = $1",
            parse_id("subscription", subscription_id),
            state,
        )

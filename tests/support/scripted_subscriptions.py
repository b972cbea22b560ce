"""A Subscriptions service that answers as it is told, and a client of it."""
# ruff: noqa: N802 - the methods of generated servicers

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc

from millrace.jobs.v1.subscriptions_service_pb2_grpc import (
    SubscriptionsServiceServicer,
    add_SubscriptionsServiceServicer_to_server,
)
from millrace_client import Millrace
from support.scripted_server import scripted_server


class ScriptedSubscriptions(SubscriptionsServiceServicer):
    """Answers each call with the next step of its script, a response or a status, and keeps the requests."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[Any] = []

    async def CreateSubscription(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, "as scripted")
        return step

    GetSubscription = ListSubscriptions = UpdateSubscription = DeleteSubscription = CreateSubscription
    PauseSubscription = ResumeSubscription = RotateSubscriptionSecret = TestSubscription = CreateSubscription


def serving(subscriptions: ScriptedSubscriptions) -> AbstractAsyncContextManager[str]:
    return scripted_server(add_SubscriptionsServiceServicer_to_server, subscriptions)


@asynccontextmanager
async def client_of(subscriptions: ScriptedSubscriptions) -> AsyncIterator[Millrace]:
    async with serving(subscriptions) as address, Millrace(address, org_id="acme") as client:
        yield client

"""What callers of SubscriptionsService may do who are not allowed everything."""

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.jobs.v1 import subscriptions_service_pb2 as messages
from millrace_database.database import Database
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller, Role
from support.jobs_api import refusal
from support.subscriptions_api import SubscriptionsApi, subscribing

ANN = Caller("ann", frozenset({"acme"}))
BOB = Caller("bob", frozenset({"other"}))


@pytest.fixture
async def api(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SubscriptionsApi]:
    """The service as Ann of "acme" finds it, who is neither a service nor an operator."""
    _become(monkeypatch, ANN)
    async with subscribing(database, tmp_path) as api:
        yield api


def _become(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: caller)


async def _code(call: Awaitable[Any]) -> grpc.StatusCode:
    return (await refusal(call)).code()


def _calls(api: SubscriptionsApi, org_id: str, subscription_id: str) -> dict[str, Awaitable[Any]]:
    """Every call there is."""
    stub, key = api.stub, {"org_id": org_id, "subscription_id": subscription_id}
    return {
        "CreateSubscription": api.create(org_id=org_id),
        "GetSubscription": stub.GetSubscription(messages.GetSubscriptionRequest(**key)),
        "ListSubscriptions": api.list_(org_id=org_id),
        "UpdateSubscription": api.update(subscription_id, description="mine", org_id=org_id),
        "DeleteSubscription": stub.DeleteSubscription(messages.DeleteSubscriptionRequest(**key)),
        "PauseSubscription": stub.PauseSubscription(messages.PauseSubscriptionRequest(**key)),
        "ResumeSubscription": stub.ResumeSubscription(messages.ResumeSubscriptionRequest(**key)),
        "RotateSubscriptionSecret": stub.RotateSubscriptionSecret(
            messages.RotateSubscriptionSecretRequest(**key)
        ),
        "TestSubscription": stub.TestSubscription(messages.TestSubscriptionRequest(**key)),
    }


async def test_every_call_is_denied_in_another_organisation(
    api: SubscriptionsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await api.create()
    _become(monkeypatch, BOB)

    calls = _calls(api, "acme", subscription.subscription_id)

    service = messages.DESCRIPTOR.services_by_name["SubscriptionsService"]
    assert set(calls) == {method.name for method in service.methods}
    codes = {name: await _code(call) for name, call in calls.items()}
    assert codes == dict.fromkeys(calls, grpc.StatusCode.PERMISSION_DENIED)
    _become(monkeypatch, ANN)
    assert list((await api.list_()).subscriptions) == [subscription]


async def test_a_subscription_is_not_found_in_an_organisation_that_is_not_its_own(
    api: SubscriptionsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await api.create()
    _become(monkeypatch, BOB)

    calls = _calls(api, "other", subscription.subscription_id)

    for name in ("CreateSubscription", "ListSubscriptions"):
        await calls.pop(name)
    codes = {name: await _code(call) for name, call in calls.items()}
    assert codes == dict.fromkeys(calls, grpc.StatusCode.NOT_FOUND)
    _become(monkeypatch, ANN)
    assert await api.get(subscription.subscription_id) == subscription


async def test_only_a_service_names_another_creator(
    api: SubscriptionsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.create()).created_by == "ann"
    assert await _code(api.create(created_by="bob")) is grpc.StatusCode.PERMISSION_DENIED

    _become(monkeypatch, Caller("gateway", None, frozenset({Role.SERVICE})))

    assert (await api.create(created_by="bob")).created_by == "bob"

"""Every wrong field of a request about subscriptions is named, with a reason, and nothing is created."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from millrace.jobs.v1 import subscription_pb2, subscriptions_service_pb2
from millrace_database.database import Database
from millrace_database.deliveries import DELIVERY_TYPES
from support.jobs_api import detail, refusal, refused_fields, status_of
from support.subscriptions_api import SECRET, SubscriptionsApi, subscribing

UNKNOWN = "subscription_" + "0" * 32
EVENTS = "must be one of job.completed, job.failed, job.cancelled, subscription.disabled"
TYPE_FORM = 'must be "namespace:name" in lower case letters, digits, "-" and "_", at most 128 characters'
BAD_SECRET = 'must be "whsec_" and 24 to 64 bytes in base64'  # noqa: S105 - no secret itself


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[SubscriptionsApi]:
    async with subscribing(database, tmp_path) as api:
        yield api


FIELDS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("no URL", {"url": ""}, {"url": "is required"}),
    ("http", {"url": "http://example.com/"}, {"url": "must begin with https://"}),
    ("a private address", {"url": "https://10.0.0.1/"}, {"url": "must not be a private address"}),
    ("this machine", {"url": "https://localhost/"}, {"url": "must not be a private address"}),
    (
        "an address in another spelling",
        {"url": "https://127.1/"},
        {"url": "must write an IPv4 address as four decimal numbers, such as 192.0.2.1"},
    ),
    (
        "a user",
        {"url": "https://ann:pass@example.com/"},
        {"url": "must name a host, and neither a user nor a fragment"},
    ),
    (
        "a long URL",
        {"url": "https://example.com/" + "x" * 2_000},
        {"url": "is 2020 characters long, more than 2000"},
    ),
    ("no events", {"event_types": []}, {"event_types": "is required"}),
    (
        "unknown events",
        {"event_types": ["job.completed", "completed", ""]},
        {"event_types[1]": EVENTS, "event_types[2]": EVENTS},
    ),
    (
        "an event twice",
        {"event_types": ["job.failed", "job.failed"]},
        {"event_types[1]": "is there already"},
    ),
    (
        "many events",
        {"event_types": ["job.failed"] * 1_000},
        {
            "event_types": "are 1000, more than 4",
            **{f"event_types[{index}]": "is there already" for index in (1, 2, 3)},
        },
    ),
    (
        "what is no type",
        {"job_types": ["reports", "a:b", "Reports:generate", "a:b", "a:" + "b" * 127]},
        {
            "job_types[0]": TYPE_FORM,
            "job_types[2]": TYPE_FORM,
            "job_types[3]": "is there already",
            "job_types[4]": TYPE_FORM,
        },
    ),
    *(
        (
            f"the type {type_}",
            {"job_types": [type_]},
            {"job_types[0]": "is for deliveries, which have no events"},
        )
        for type_ in sorted(DELIVERY_TYPES)
    ),
    (
        "many types",
        {"job_types": [f"a:t{number}" for number in range(101)]},
        {"job_types": "are 101, more than 100"},
    ),
    (
        "a long description",
        {"description": "x" * 501},
        {"description": "is 501 characters long, more than 500"},
    ),
    (
        "NUL in the description",
        {"description": "\0"},
        {"description": "holds the character U+0000, which cannot be stored"},
    ),
    (
        "what is no address",
        {"notify_emails": ["ann@example.com", "ann", "ann@example.com"]},
        {"notify_emails[1]": "must be an e-mail address", "notify_emails[2]": "is there already"},
    ),
    (
        "many addresses",
        {"notify_emails": [f"{number}@example.com" for number in range(21)]},
        {"notify_emails": "must hold 0 to 20 addresses"},
    ),
    (
        "several things at once",
        {"url": "ftp://example.com", "event_types": ["x"], "notify_emails": [""]},
        {
            "url": "must begin with https://",
            "event_types[0]": EVENTS,
            "notify_emails[0]": "must be an e-mail address",
        },
    ),
]
CREATING: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    *FIELDS,
    ("no organisation", {"org_id": ""}, {"org_id": "is required"}),
    ("all organisations", {"org_id": "-"}, {"org_id": 'must name one organisation; "-" means all of them'}),
    ("a secret without prefix", {"secret": SECRET.removeprefix("whsec_")}, {"secret": BAD_SECRET}),
    ("a short secret", {"secret": "whsec_YWJj"}, {"secret": BAD_SECRET}),
    (
        "a long secret",
        {"secret": SECRET * 4},
        {"secret": f"is {len(SECRET) * 4} characters long, more than 128"},
    ),
    ("a long creator", {"created_by": "c" * 257}, {"created_by": "is 257 characters long, more than 256"}),
    ("a long request id", {"request_id": "r" * 257}, {"request_id": "is 257 characters long, more than 256"}),
    (
        "things of both kinds",
        {"org_id": "a b", "url": "", "secret": "x"},
        {
            "org_id": 'may hold letters, digits, "-", "_" and ".", at most 128 characters',
            "url": "is required",
            "secret": BAD_SECRET,
        },
    ),
]


async def test_subscriptions_that_cannot_be_created(api: SubscriptionsApi, database: Database) -> None:
    wrong: dict[str, Mapping[str, str]] = {}
    for name, fields, expected in CREATING:
        found = await refused_fields(api.create(**fields))
        if found != expected:
            wrong[name] = found
    assert wrong == {}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM job_subscriptions") == 0


async def test_changes_that_cannot_be_made(api: SubscriptionsApi) -> None:
    subscription = await api.create()
    wrong: dict[str, Mapping[str, str]] = {}
    for name, fields, expected in FIELDS:
        found = await refused_fields(api.update(subscription.subscription_id, *fields, **fields))
        if found != {f"subscription.{field}": said for field, said in expected.items()}:
            wrong[name] = found
    assert wrong == {}
    assert await api.get(subscription.subscription_id) == subscription


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([], "is required"),
        (["state"], "'state' cannot be changed"),
        (["subscription_id"], "'subscription_id' cannot be changed"),
        (["secret"], "'secret' is no field of a subscription, as a whole"),
        (["url", "*"], "'*' is no field of a subscription, as a whole"),
    ],
)
async def test_masks_that_name_what_cannot_be_changed(
    api: SubscriptionsApi, paths: list[str], said: str
) -> None:
    subscription = await api.create()
    assert await refused_fields(api.update(subscription.subscription_id, *paths)) == {"update_mask": said}
    assert await api.get(subscription.subscription_id) == subscription


async def test_a_version_below_0(api: SubscriptionsApi) -> None:
    call = api.update(UNKNOWN, "url", version=-1)
    assert await refused_fields(call) == {"subscription.version": "must not be negative"}


async def test_a_change_names_its_subscription(api: SubscriptionsApi) -> None:
    assert await refused_fields(api.update("", "url", org_id="")) == {
        "subscription.org_id": "is required",
        "subscription.subscription_id": "is required",
        "subscription.url": "is required",
    }
    error = await refusal(api.update(UNKNOWN, description="x", version=7))
    assert error.code() is grpc.StatusCode.NOT_FOUND


METHODS: dict[str, Callable[..., Message]] = {
    "GetSubscription": subscriptions_service_pb2.GetSubscriptionRequest,
    "DeleteSubscription": subscriptions_service_pb2.DeleteSubscriptionRequest,
    "PauseSubscription": subscriptions_service_pb2.PauseSubscriptionRequest,
    "ResumeSubscription": subscriptions_service_pb2.ResumeSubscriptionRequest,
    "RotateSubscriptionSecret": subscriptions_service_pb2.RotateSubscriptionSecretRequest,
    "TestSubscription": subscriptions_service_pb2.TestSubscriptionRequest,
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_subscription_is_named_by_its_organisation_and_id(api: SubscriptionsApi, method: str) -> None:
    subscription = await api.create()

    def call(**fields: str) -> Any:
        named = {"org_id": "acme", "subscription_id": subscription.subscription_id, **fields}
        return getattr(api.stub, method)(METHODS[method](**named))

    assert await refused_fields(call(org_id="", subscription_id="")) == {
        "org_id": "is required",
        "subscription_id": "is required",
    }
    for malformed in ("x", "job_" + "0" * 32, UNKNOWN.upper(), UNKNOWN + "0", "subscription_" + "g" * 32):
        assert await refused_fields(call(subscription_id=malformed)) == {
            "subscription_id": 'must be "subscription_" and 32 hexadecimal digits'
        }
    for missing in ({"org_id": "other"}, {"subscription_id": UNKNOWN}):
        error = await refusal(call(**missing))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource = detail(status_of(error), error_details_pb2.ResourceInfo)
        assert resource.resource_type == "subscription"
        assert resource.resource_name == missing.get("subscription_id", subscription.subscription_id)
    assert await api.get(subscription.subscription_id) == subscription


async def test_a_bad_secret_to_rotate_to(api: SubscriptionsApi) -> None:
    key = (await api.create()).subscription_id
    assert await refused_fields(api.rotate(key, "x")) == {"secret": BAD_SECRET}
    assert await refused_fields(api.rotate("", "x")) == {
        "secret": BAD_SECRET,
        "subscription_id": "is required",
    }


async def test_pages_that_do_not_exist(api: SubscriptionsApi) -> None:
    for _ in range(2):
        await api.create()
    token = (await api.list_(page_size=1)).next_page_token
    no_token = {"page_token": "is not a token of a previous page with the same filters"}
    enabled = subscription_pb2.SUBSCRIPTION_STATE_ENABLED

    assert await refused_fields(api.list_(org_id="")) == {"org_id": "is required"}
    assert await refused_fields(api.list_(org_id="-", page_size=-1, states=[0, enabled, 9])) == {
        "org_id": 'must name one organisation; "-" means all of them',
        "page_size": "must not be negative",
        "states[0]": "is 0, which is no state of a subscription",
        "states[2]": "is 9, which is no state of a subscription",
    }
    for garbage in ("x", "AAAA", token[:-4], token + "AAAA", "\u00e4"):
        assert await refused_fields(api.list_(page_token=garbage)) == no_token
    assert await refused_fields(api.list_(org_id="other", page_token=token)) == no_token

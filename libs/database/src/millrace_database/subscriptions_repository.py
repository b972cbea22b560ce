"""The subscriptions of organisations: kept, changed, paused and resumed."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from millrace_database import subscription_statements as statements

MAX_SUBSCRIPTIONS = 50
"""How many an organisation may have."""

_PREVIOUS_SECRET_SIGNS = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """A subscription to be created.

    Attributes:
        subscription_id: its id, made by the caller.
        org_id: whose jobs it is about.
        url: where events are posted.
        secret: what they are signed with.
        event_types: which events, at least one.
        job_types: only those of jobs of these types; empty: of all.
        description: a text for people.
        notify_emails: whom to tell when it is disabled.
        created_by: who creates it.
        request_id: makes a repeated creation harmless; unique in its organisation.

    """

    subscription_id: UUID
    org_id: str
    url: str
    secret: str = field(repr=False)
    event_types: Collection[str]
    job_types: Collection[str] = ()
    description: str = ""
    notify_emails: Collection[str] = ()
    created_by: str = ""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionRecord:
    """A subscription as it is stored, without its secrets; times are the database's."""

    subscription_id: UUID
    org_id: str
    url: str
    event_types: Collection[str]
    job_types: Collection[str]
    description: str
    notify_emails: Collection[str]
    state: str
    disabled_reason: str
    disabled_at: datetime | None
    failing_since: datetime | None
    failed_attempts: int
    last_error: str
    last_failure_at: datetime | None
    last_success_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class SubscriptionChanges:
    """What is to be changed of a subscription; None: stays."""

    url: str | None = None
    event_types: Collection[str] | None = None
    job_types: Collection[str] | None = None
    description: str | None = None
    notify_emails: Collection[str] | None = None


class TooManySubscriptionsError(Exception):
    """The organisation has MAX_SUBSCRIPTIONS already."""


async def create_subscription(
    conn: asyncpg.Connection, subscription: NewSubscription
) -> tuple[SubscriptionRecord, bool]:
    """Create a subscription and return it with True, or with False the one that its request id belongs to.

    Within a transaction, which others that create subscriptions of the organisation wait for. Raises
    TooManySubscriptionsError, and nothing is created.
    """
    await conn.execute(statements.LOCK_CREATION, subscription.org_id)
    # In a statement of its own: only a new snapshot sees what the lock was waited for.
    row = await conn.fetchrow(statements.GET_BY_REQUEST, subscription.org_id, subscription.request_id)
    if row is not None:
        return SubscriptionRecord(**row), False
    row = await conn.fetchrow(
        statements.INSERT,
        subscription.subscription_id,
        subscription.org_id,
        subscription.url,
        subscription.secret,
        subscription.event_types,
        subscription.job_types,
        subscription.description,
        subscription.notify_emails,
        subscription.created_by,
        MAX_SUBSCRIPTIONS,
        subscription.request_id,
    )
    if row is None:
        raise TooManySubscriptionsError
    return SubscriptionRecord(**row), True


async def get_subscription(
    conn: asyncpg.Connection, org_id: str, subscription_id: UUID
) -> SubscriptionRecord | None:
    """Return a subscription of an organisation, or None when there is no such subscription."""
    return _one(await conn.fetchrow(statements.GET, subscription_id, org_id))


async def list_subscriptions(
    conn: asyncpg.Connection, org_id: str, states: Collection[str], after: UUID | None, limit: int
) -> list[SubscriptionRecord]:
    """Return subscriptions in any of these states (none: in all) by descending id, newest first.

    `after` is the last id of the page before; None: from the newest.
    """
    rows = await conn.fetch(statements.LIST, org_id, after, limit, states)
    return [SubscriptionRecord(**row) for row in rows]


async def update_subscription(
    conn: asyncpg.Connection,
    org_id: str,
    subscription_id: UUID,
    changes: SubscriptionChanges,
    *,
    version: int | None = None,
) -> SubscriptionRecord | None:
    """Change a subscription, and give it a new version.

    None when there is no such subscription, or `version` is given and is not the one it has.
    """
    row = await conn.fetchrow(
        statements.UPDATE,
        subscription_id,
        org_id,
        version,
        changes.url,
        changes.event_types,
        changes.job_types,
        changes.description,
        changes.notify_emails,
    )
    return _one(row)


async def delete_subscription(conn: asyncpg.Connection, org_id: str, subscription_id: UUID) -> bool:
    """Delete a subscription; False when there is no such subscription."""
    return await conn.fetchrow(statements.DELETE, subscription_id, org_id) is not None


async def pause_subscription(
    conn: asyncpg.Connection, org_id: str, subscription_id: UUID
) -> SubscriptionRecord | None:
    """Switch a subscription off; one that is paused is returned unchanged. None when there is no such subscription."""
    row = await conn.fetchrow(statements.PAUSE, subscription_id, org_id)
    return _one(row) or await get_subscription(conn, org_id, subscription_id)


async def resume_subscription(
    conn: asyncpg.Connection, org_id: str, subscription_id: UUID
) -> SubscriptionRecord | None:
    """Switch a subscription on and forget its failures; one that is enabled is returned unchanged.

    None when there is no such subscription.
    """
    row = await conn.fetchrow(statements.RESUME, subscription_id, org_id)
    return _one(row) or await get_subscription(conn, org_id, subscription_id)


async def rotate_secret(
    conn: asyncpg.Connection, org_id: str, subscription_id: UUID, secret: str
) -> SubscriptionRecord | None:
    """Give a subscription another secret; for 24 hours the one before signs too.

    With the secret that it has, nothing is changed. None when there is no such subscription.
    """
    row = await conn.fetchrow(statements.ROTATE, subscription_id, org_id, secret, _PREVIOUS_SECRET_SIGNS)
    return _one(row) or await get_subscription(conn, org_id, subscription_id)


def _one(row: asyncpg.Record | None) -> SubscriptionRecord | None:
    return None if row is None else SubscriptionRecord(**row)

"""Subscriptions to events, and what became of these."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.deliveries import EVENT_TYPE
from millrace_database.ids import new_id
from millrace_database.subscriptions_repository import (
    NewSubscription,
    SubscriptionRecord,
    create_subscription,
    get_subscription,
)
from support.deliveries import SECRET

ALL_EVENTS = ("job.completed", "job.failed", "job.cancelled", "subscription.disabled")

_SET_FAILING = """
UPDATE job_subscriptions
SET failing_since = now() - $2::interval, failed_attempts = $3, last_error = 'WEBHOOK_FAILED: the webhook answered 500',
    last_failure_at = now()
WHERE subscription_id = $1
"""


async def add_subscription(conn: asyncpg.Connection, **changes: Any) -> UUID:
    """A subscription of acme to all events of all jobs, unless told otherwise; in a transaction."""
    values: dict[str, Any] = {
        "subscription_id": new_id(),
        "org_id": "acme",
        "url": "https://hooks.example.com/key-in-path?key=in-query",
        "secret": SECRET,
        "event_types": ALL_EVENTS,
        "created_by": "ann",
    }
    record, _ = await create_subscription(conn, NewSubscription(**{**values, **changes}))
    return record.subscription_id


async def subscription(database: Database, subscription_id: UUID, org_id: str = "acme") -> SubscriptionRecord:
    """What is stored of a subscription."""
    async with database.connection() as conn:
        record = await get_subscription(conn, org_id, subscription_id)
    assert record is not None
    return record


async def let_fail(
    conn: asyncpg.Connection, subscription_id: UUID, *, ago: timedelta, attempts: int = 10
) -> None:
    """Let all attempts to deliver to a subscription have failed for so long."""
    await conn.execute(_SET_FAILING, subscription_id, ago, attempts)


async def event_jobs(conn: asyncpg.Connection) -> Sequence[asyncpg.Record]:
    """The jobs that deliver events, the oldest first."""
    return list(await conn.fetch("SELECT * FROM jobs WHERE type = $1 ORDER BY job_id", EVENT_TYPE))

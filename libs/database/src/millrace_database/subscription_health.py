"""How subscriptions fare: what deliveries came to, and the end of those whose endpoints keep failing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from millrace_database.deliveries import EVENT_TYPE, NOTICE_TYPE
from millrace_database.ids import format_id
from millrace_database.job_flow import JobCounts
from millrace_database.storable_text import storable
from millrace_database.subscription_events import SUBSCRIPTION_DISABLED, Notice, create_notices

FEWEST_FAILURES = 10
"""So many attempts have failed at least before a subscription is disabled: one with few events gets its chances."""

# Many deliveries that succeed at once write the row once.
RECORD_SUCCESS = """
UPDATE job_subscriptions
SET failing_since = NULL, failed_attempts = 0, last_success_at = now()
WHERE subscription_id = $1::uuid
    AND (
        failing_since IS NOT NULL OR failed_attempts > 0 OR last_success_at IS NULL
        OR last_success_at < now() - interval '10 seconds'
    )
"""

# Of one that is switched off nothing is to be learnt, nor of what was tried before somebody changed it, or resumed it.
RECORD_FAILURE = """
UPDATE job_subscriptions
SET failing_since = coalesce(failing_since, now()), failed_attempts = least(failed_attempts, 2147483646) + 1,
    last_error = $3::text, last_failure_at = now()
WHERE subscription_id = $1::uuid AND version = $2::bigint AND state = 'enabled'
"""

_DISABLED = """
RETURNING job_subscriptions.subscription_id, org_id, url, description, notify_emails, created_by, disabled_reason, disabled_at,
    failing_since, failed_attempts
"""

DISABLE_GONE = f"""
UPDATE job_subscriptions
SET state = 'disabled', disabled_at = now(), disabled_reason = 'The endpoint answered 410 Gone.'
WHERE subscription_id = $1::uuid AND version = $2::bigint AND state = 'enabled'
{_DISABLED}
"""  # noqa: S608 - put together of constants

# What is locked is looked at again as it is then: one that has succeeded meanwhile stays. What is not tried does not fail: between
# the first failure and the last one there is the time, too.
DISABLE_FAILING = f"""
WITH failing AS MATERIALIZED (
    SELECT subscription_id
    FROM job_subscriptions
    WHERE state = 'enabled' AND failing_since <= now() - $1::interval AND failing_since <= last_failure_at - $1::interval
        AND failed_attempts >= $2::integer
    ORDER BY failing_since
    LIMIT $3::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE job_subscriptions
SET state = 'disabled', disabled_at = now(),
    disabled_reason = format(
        'All %s attempts since %s have failed. The last one: %s', failed_attempts,
        to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), last_error
    )
FROM failing
WHERE job_subscriptions.subscription_id = ANY (ARRAY[failing.subscription_id])
{_DISABLED}
"""  # noqa: S608 - put together of constants

# Which others of their organisations want to know. In a statement of its own, which sees those that are just disabled.
FIND_LISTENERS = """
SELECT disabled.place, listener.subscription_id, listener.created_by
FROM unnest($1::text[]) WITH ORDINALITY AS disabled (org_id, place)
JOIN job_subscriptions AS listener ON listener.org_id = ANY (ARRAY[disabled.org_id]) AND listener.state = 'enabled'
    AND listener.event_types @> ARRAY[$2::text]
"""


@dataclass(frozen=True, slots=True)
class DisabledSubscription:
    """A subscription that has just been disabled, with what there was to say of it."""

    subscription_id: UUID
    org_id: str
    url: str
    description: str
    notify_emails: Sequence[str]
    created_by: str
    disabled_reason: str
    disabled_at: datetime
    failing_since: datetime | None
    failed_attempts: int

    def facts(self) -> dict[str, Any]:
        """Return what others are told, in values of JSON. Of the URL only the beginning: the rest may be a secret."""
        return {
            "org_id": self.org_id,
            "subscription_id": format_id("subscription", self.subscription_id),
            "endpoint": _origin(self.url),
            "description": self.description,
            "reason": self.disabled_reason,
            "failing_since": self.failing_since and self.failing_since.isoformat(),
            "failed_attempts": self.failed_attempts,
            "disabled_at": self.disabled_at.isoformat(),
        }


async def record_success(conn: asyncpg.Connection, subscription_id: UUID) -> None:
    """Note that something was delivered. One statement, which may commit by itself; often it writes nothing."""
    await conn.execute(RECORD_SUCCESS, subscription_id)


async def record_failure(conn: asyncpg.Connection, subscription_id: UUID, version: int, error: str) -> None:
    """Note that an attempt to deliver something to this version of it failed, and why. One statement, which may commit by itself."""
    await conn.execute(RECORD_FAILURE, subscription_id, version, storable(error))


async def disable_gone(
    conn: asyncpg.Connection, subscription_id: UUID, version: int
) -> tuple[list[DisabledSubscription], JobCounts]:
    """Disable a subscription whose endpoint says that it is gone, and tell its organisation, in the caller's transaction.

    Returns:
        As `disable_failing`. None was disabled when it was disabled or paused already, has another version by now, or is gone itself.

    """
    return await _told(conn, await conn.fetch(DISABLE_GONE, subscription_id, version))


async def disable_failing(
    conn: asyncpg.Connection, failing_for: timedelta, *, limit: int
) -> tuple[list[DisabledSubscription], JobCounts]:
    """Disable subscriptions to which nothing has been delivered for so long, though it was tried, and tell their organisations.

    So long are the first of the failed attempts and the last one apart: who is sent nothing meanwhile has not failed.

    In the caller's transaction. Waits for nobody: what somebody else has locked is left for the next time.

    Returns:
        Which they are, at most `limit`, and how many jobs tell of them, by type and organisation.

    """
    return await _told(conn, await conn.fetch(DISABLE_FAILING, failing_for, FEWEST_FAILURES, limit))


async def _told(
    conn: asyncpg.Connection, rows: Sequence[asyncpg.Record]
) -> tuple[list[DisabledSubscription], JobCounts]:
    disabled = [DisabledSubscription(**row) for row in rows]
    return disabled, await _tell(conn, disabled)


async def _tell(conn: asyncpg.Connection, disabled: Sequence[DisabledSubscription]) -> JobCounts:
    """Create the events of other subscriptions, and the e-mails."""
    if not disabled:
        return Counter()
    listeners = await conn.fetch(FIND_LISTENERS, [one.org_id for one in disabled], SUBSCRIPTION_DISABLED)
    events = [
        _notice(disabled[place - 1], EVENT_TYPE, subscription_id, created_by)
        for place, subscription_id, created_by in listeners
    ]
    emails = [
        _notice(one, NOTICE_TYPE, one.subscription_id, one.created_by)
        for one in disabled
        if one.notify_emails
    ]
    if not (events or emails):
        return Counter()
    _, created = await create_notices(conn, [*events, *emails])
    return created


def _notice(about: DisabledSubscription, type_: str, subscription_id: UUID, created_by: str) -> Notice:
    return Notice(about.org_id, type_, subscription_id, SUBSCRIPTION_DISABLED, created_by, about.facts())


def _origin(url: str) -> str:
    """Return the scheme, host and port of a URL; empty when it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = parts.hostname or ""
    if not host:
        return ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
